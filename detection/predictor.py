"""Loading of a predictor from trained weights.

model = resdet.load("best.pt")
result = model("street.jpg")
print(result.names, result.scores, result.boxes)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..backbones.speed import winograd_channels
from ..backbones.winograd import use_winograd
from .config.data_rules import image_rules
from .errors import ConfigError, WeightsError
from .export.folder import is_export
from .inference.calls import pick_device
from .inference.predictor import ModelFacts, Predictor
from .tasks.base import Task
from .tasks.checkpoints import load_members, read_applicable
from .tasks.compiling import compile_networks
from .tasks.hub import pulled
from .tasks.registry import TASKS

#: Prefixes of the overrides that are allowed for trained weights.
TESTING = (
    "test.",
    "image.short_side_test",
    "image.long_side_max",
    "rpn.pre_nms_test",
    "rpn.post_nms_test",
    "proposals.",
    "data.exif",
    "data.max_pixels",
)


def load(
    weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    device: torch.device | str | int | None = None,
    overrides: Sequence[str] = (),
    *,
    trust_paths: bool = False,
    score_threshold: float | None = None,
    compile: str | None = None,
) -> Predictor[Any]:
    """A predictor from a weights file, which carries its config and class names, from the
    ``best.pt`` of a run folder, from the folder of an exported model, or from the Hugging Face Hub,
    ``hf://owner/name``; from several weights an ensemble, whose classes must be the same (in any
    order; those of the first are used).

    ``device`` is ``cpu``, ``cuda``, ``cuda:1`` or just ``1``; None takes the first GPU if there is
    one. ``overrides`` change the config, as in ``test.nms_iou=0.4``. ``score_threshold`` is the
    `Predictor`'s. Truncated images are used as far as they go, with a warning in their result.

    ``compile="default"`` compiles the networks (torch.compile) when they are first called,
    ``"reduce-overhead"`` runs them in CUDA graphs too. Both are for a GPU, and untested there.

    A classifier's results are all its classes, best first, from the crops of its own config's
    ``test``: the probabilities that `resdet eval` computes.

    A localizer needs classifiers, which choose the classes to locate: the override
    ``test.classifiers=[FILE]``, unless its config names them. Its scores are their probabilities.
    Files that only the checkpoint names, and not the ``config.yaml`` of its run, are opened with
    ``trust_paths`` alone.

    Raises WeightsError for an unusable file, ConfigError for a wrong device or override, and where
    nothing can be compiled.
    """
    for text in overrides:
        if not text.startswith(TESTING):
            raise ConfigError(f"override {text}: with trained weights only {', '.join(TESTING)}")
    place = pick_device(device)
    given = [weights] if isinstance(weights, str | os.PathLike) else weights
    paths = [_weights_file(pulled(path)) for path in given]
    if not paths:
        raise ConfigError("load: no weights given")
    first = read_applicable(paths[0], *TASKS.values())
    task = first.task
    others = [read_applicable(path, task) for path in paths[1:]]
    members = load_members([first, *others], place, overrides=overrides, trust_paths=trust_paths)
    if place.type == "cpu" and compile is None and (channels := winograd_channels()) is not None:
        for member in members:
            use_winograd(member.model, channels)
    pipeline = task.pipeline(members).to(place)
    compiled = compile_networks(pipeline, compile, place)
    config = members[0].config
    try:
        return task.predictor(
            pipeline,
            classes=members[0].classes,
            device=place,
            rules=replace(image_rules(config), on_truncated="warn"),
            precision=config.test.precision,
            facts=ModelFacts(
                architecture=", ".join(_architecture(task, member.config) for member in members),
                testing="; ".join([task.describe_testing(members, pipeline), *compiled]),
                origin=tuple(paths),
                class_words=members[0].class_words(),
            ),
            score_threshold=score_threshold,
        )
    except (ConfigError, WeightsError) as error:
        raise type(error)(f"{first.path}: {error}") from error


def _weights_file(path: Path) -> Path:
    """``path``, or the best weights of the run in a folder."""
    if not path.is_dir() or is_export(path):
        return path
    best = path / "weights" / "best.pt"
    if best.exists():
        return best
    last = best.with_name("last.pt")
    hint = f"; it has {last}, which was not evaluated" if last.exists() else ""
    raise WeightsError(f"{path}: a folder without weights/best.pt, so not that of a run{hint}")


def _architecture(task: Task, config: Any) -> str:
    """The network of a member, with what it is."""
    name, network = task.facts(config)[0]
    return f"{name} {network}"
