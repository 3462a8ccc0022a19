"""The model and the settings of ``infer``, from its arguments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.arguments import names, split_overrides
from resdet.tools.best_scores import BEST, best_scores, describe_scores
from resdet.tools.infer_arguments import Scores, overlap, thresholds

if TYPE_CHECKING:
    from resdet.detection.cluster.job import ModelArguments
    from resdet.detection.inference.options import FolderOptions
    from resdet.detection.inference.predictor import Predictor


def load_model(args: argparse.Namespace, overrides: list[str], images: int = 0) -> Predictor[Any]:
    """Load the model of ``--weights``, with tiles if ``--tile`` asks for them, for so many
    ``images``."""
    from resdet.detection.evaluation.prediction import emulation, gain

    predictor = model_arguments(args, overrides).load()
    expect_used(predictor, overrides)
    if not predictor.facts.origin[0].is_dir():  # an export has its own precision
        precision, device = predictor.precision, predictor.device
        for line in emulation("test.precision", precision, device):
            say(line)
        for line in gain("test.precision", precision, device, images):
            say(line)
    return predictor


def expect_used(predictor: Predictor[Any], overrides: Sequence[str]) -> None:
    """Raise ConfigError for ``test.batch_size``, except of regions: only evaluations use it."""
    from resdet.detection.inference.localize import LocationPipeline

    for text in overrides:
        if text.startswith("test.batch_size=") and not isinstance(
            predictor.pipeline, LocationPipeline
        ):
            raise ConfigError(f"override {text}: is of evaluations; here it is --batch-size")


def model_arguments(args: argparse.Namespace, overrides: list[str]) -> ModelArguments:
    from resdet.detection.cluster.job import ModelArguments

    if args.overlap is not None and args.tile is None:
        raise ConfigError("--overlap: is that of tiles; give --tile, their side in pixels")
    return ModelArguments(
        weights=tuple(args.weights),
        device=args.device,
        overrides=tuple(overrides),
        trust_paths=args.trust_paths,
        tile=args.tile,
        overlap=overlap(args),
        compile=args.compile,
    )


def folder_options(
    args: argparse.Namespace, overrides: list[str], predictor: Predictor[Any]
) -> FolderOptions:
    from resdet.datasets.formats.coco_ids import coco_ids
    from resdet.detection.inference.options import FolderOptions

    least, of_classes = _thresholds(args, predictor)
    options = FolderOptions(
        score_threshold=least,
        class_thresholds=of_classes,
        only_classes=names(args.classes, predictor.classes),
        batch_size=args.batch_size,
        draw=args.draw,
        resume=args.resume,
        workers=args.workers,
        coco_ids=coco_ids(args.coco_ids) if args.coco_ids else None,
        sort_by_class=args.sort_by_class,
        save_crops=args.save_crop,
        seconds=args.timeout_per_image,
        provenance=_provenance(args, overrides, predictor),
        inputs=tuple(split_overrides(args.inputs)[1]),
    )
    for text in overrides:
        name, _, value = text.partition("=")
        if name == "test.score_threshold" and float(value) < options.least:
            say(
                f"note: {text} changes nothing: what scores less than {options.least:g} is left "
                f"out; --conf {value} keeps it"
            )
    return options


def _thresholds(
    args: argparse.Namespace, predictor: Predictor[Any]
) -> tuple[float, dict[str, float]]:
    """The minimum score and those of single classes; the scores of ``--conf best`` are told."""
    from resdet.detection.export.folder import weights_hash

    asked = False

    def best() -> Scores:
        nonlocal asked
        asked = True
        hashes = [weights_hash(path) for path in predictor.facts.origin]
        return best_scores(args.weights, hashes, predictor.classes)

    least, of_classes = thresholds(args.conf, predictor.classes, best)
    if asked and least is None:
        raise ConfigError(
            f"--conf {BEST}: the evaluation found nothing right at any score; give one, such as "
            "--conf 0.05, or train longer"
        )
    least = predictor.output.threshold if least is None else least
    if asked:
        say(describe_scores(least, of_classes, predictor.classes))
    return least, of_classes


def shard_of(text: str) -> tuple[int, int]:
    """The numbers of ``I/N``; raises ConfigError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise ConfigError(f"--shard {text}: expected I/N with I from 1 to N")
    return index, count


def _provenance(
    args: argparse.Namespace, overrides: list[str], predictor: Predictor[Any]
) -> dict[str, Any]:
    from resdet.detection.export.folder import META
    from resdet.detection.files import sha256_of

    files = predictor.facts.origin

    return {
        "weights": [path.name for path in args.weights],
        "weights_sha256": [sha256_of(path / META if path.is_dir() else path) for path in files],
        "overrides": overrides,
        **_images(args),
        **({"every": args.every} if args.every is not None else {}),
        **({"tile": args.tile, "overlap": overlap(args)} if args.tile is not None else {}),
        "coco_ids_sha256": sha256_of(args.coco_ids) if args.coco_ids else None,
        "versions": {name: _version(name) for name in ("resdet", "torch", "torchvision")},
    }


def _images(args: argparse.Namespace) -> dict[str, str]:
    """Which images: all processes that share a manifest write the same results."""
    if args.manifest is None:
        return {"shard": args.shard}
    from resdet.datasets.manifests.manifest import digest_of

    return {"manifest_sha256": digest_of(args.manifest)}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
