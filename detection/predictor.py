"""What is in these images? Weights in, detections in displayed pixels out: the Python interface.

predictor = resdet.load("best.pt")
(found,) = predictor.predict(["street.jpg"], score_threshold=0.5)
names = [predictor.classes[label] for label in found.labels]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..datasets.loading.transforms import Untouched
from .errors import ConfigError
from .inference.predictor import (
    Predictor,
    pick_device,
)

#: Beginnings of the overrides that make sense for trained weights.
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
    device: torch.device | str | None = None,
    overrides: Sequence[str] = (),
) -> Predictor:
    """A predictor from a weights file, which carries its config and class names; from several an
    ensemble, whose classes must be the same (in any order; those of the first are used).

    ``device`` is ``cpu``, ``cuda``, ``cuda:1`` or just ``1``; None takes the first GPU if there is
    one. ``overrides`` change the config, as in ``test.nms_iou=0.4``. Truncated images are used as
    far as they go, with a warning in the result of `Predictor.prepare`.

    A localizer's (ILSVRC CLS-LOC) needs classifiers that say what to look for: the override
    ``test.classifiers=[FILE]``, unless its config names them. Its scores are their probabilities.

    Raises WeightsError for an unusable file, ConfigError for a wrong device or override.
    """
    from .engine.checkpoint import read_task  # late: a first import should be quick

    for text in overrides:
        if not text.startswith(TESTING):
            raise ConfigError(f"override {text}: with trained weights only {', '.join(TESTING)}")
    place = pick_device(device)
    paths = [weights] if isinstance(weights, str | os.PathLike) else weights
    if not paths:
        raise ConfigError("load: no weights given")
    files = [Path(path) for path in paths]
    find = _locator if read_task(files[0]).startswith("localization") else _detector
    return find(files, place, overrides)


def _detector(paths: list[Path], place: torch.device, overrides: Sequence[str]) -> Predictor:
    from .tasks import detector as build
    from .tasks import detector_weights as stored

    detector = stored.load_detectors(paths, place, overrides=overrides)
    pipeline = build.build_pipeline(detector)
    return Predictor(
        pipeline,
        detector.classes,
        pipeline.transforms,
        place,
        replace(build.image_rules(detector.config), on_truncated="warn"),
        detector.config.test.precision,
        build.describe_testing(detector),
    )


def _locator(paths: list[Path], place: torch.device, overrides: Sequence[str]) -> Predictor:
    from .inference.localize import ImageLocator
    from .tasks import localizer as build_localizer
    from .tasks import localizer_weights as stored_localizer

    ensemble = stored_localizer.load_ensemble(paths, place, overrides=overrides)
    if ensemble.classifier is None:
        raise ConfigError(
            f"{paths[0]}: a localizer finds the box of a class that is known; name the classifier "
            "that knows it: test.classifiers=[FILE]"
        )
    return Predictor(
        ImageLocator(build_localizer.build_location_pipeline(ensemble)),
        ensemble.classes,
        (Untouched(),),
        place,
        replace(build_localizer.image_rules(ensemble.lead), on_truncated="warn"),
        ensemble.lead.test.precision,
        build_localizer.describe_locating(ensemble),
    )
