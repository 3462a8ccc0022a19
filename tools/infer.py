"""Run a model on images or videos and write JSON lines, COCO JSON, CSV, drawings and more."""

from __future__ import annotations

import argparse
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.arguments import split_overrides
from resdet.tools.infer_arguments import add_arguments as add_arguments
from resdet.tools.infer_arguments import (
    names,
    new_folder,
    overlap,
    resume_command,
    thresholds,
)
from resdet.tools.progress import inference_progress

if TYPE_CHECKING:
    from resdet.detection.inference.folder import FolderSummary
    from resdet.detection.inference.inputs import InputFile
    from resdet.detection.inference.options import FolderOptions
    from resdet.detection.inference.predictor import Predictor

HELP = "run a model on images, folders, globs or lists of images, on videos and streams"

One = TypeVar("One")


def run(args: argparse.Namespace) -> int:
    return infer(args)[1]


def infer(args: argparse.Namespace) -> tuple[FolderSummary, int]:
    """What was done, and the exit code: 0, 5 if all images failed, or one that was named itself, or
    any video, or some with ``--strict``, or 130 or 143 if interrupted.

    Raises ConfigError and WeightsError like `load`, `find_inputs`, `run_folder` and `run_videos`.
    """
    from resdet.detection.inference.inputs import find_inputs, find_videos, is_video

    if unwritten := [each.name for each in args.format if each.writer is None]:
        raise ConfigError(f"--format: {', '.join(unwritten)} is not written")
    if args.resume and args.out is None:
        raise ConfigError("--resume: give --out, the folder of the run to continue")
    args.out = args.out or new_folder()
    overrides, inputs = split_overrides(args.inputs)
    overrides += ["test.suppress.class_agnostic=true"] if args.agnostic_nms else []
    overrides += [f"data.max_pixels={args.max_pixels}"] if args.max_pixels is not None else []
    if not inputs:
        raise ConfigError("no input: give a folder, a glob, a list file, an image or a video")
    if any(map(is_video, inputs)):
        return _run_videos(args, overrides, _shard(find_videos(inputs), args.shard))
    files = find_inputs(inputs, exclude=args.out, hidden=args.include_hidden)
    return _run_images(args, overrides, _shard(files, args.shard))


def _run_images(
    args: argparse.Namespace, overrides: list[str], files: list[InputFile]
) -> tuple[FolderSummary, int]:
    from resdet.detection.engine.signals import StopRequest
    from resdet.detection.inference.folder import run_folder
    from resdet.detection.inference.outputs import ClassOutput

    if args.every is not None:
        raise ConfigError("--every: is for videos, not images")
    predictor = _load(args, overrides)
    if args.format and isinstance(predictor.output, ClassOutput):
        raise ConfigError("--format: annotations are boxes, which a classifier lacks")
    options = _options(args, overrides, predictor)
    say(f"{len(files)} images, {len(predictor.classes)} classes, on {predictor.device}")
    say(f"testing with: {predictor.testing}")
    with StopRequest() as stop, inference_progress() as report:
        summary = run_folder(
            predictor, files, args.out, options, stop=lambda: stop.requested, report=report
        )
    _print_summary(summary, predictor.output.noun, "images")
    for format in args.format if not summary.interrupted else ():
        _write_annotations(args.out, format.name)
    if args.page and not summary.interrupted:
        _write_page(args.out, files, predictor)
    if summary.interrupted:
        say(f"interrupted; continue with: {resume_command(args)}")
        return summary, stop.exit_code
    failed = {name for name, _ in summary.failures}
    named = any(file.named and file.name in failed for file in files)
    unusable = named or (failed and (args.strict or len(failed) == summary.total))
    return summary, 5 if unusable else 0


def _run_videos(
    args: argparse.Namespace, overrides: list[str], videos: list[str]
) -> tuple[FolderSummary, int]:
    from resdet.detection.engine.signals import StopRequest
    from resdet.detection.inference.video_run import run_videos

    every = 1 if args.every is None else args.every
    if every < 1:
        raise ConfigError(f"--every {every}: it must be at least 1")
    if args.format:
        raise ConfigError("--format: annotations are of images, not of videos")
    if args.page:
        raise ConfigError("--page: it shows images, not videos")
    predictor = _load(args, overrides)
    options = _options(args, overrides, predictor)
    say(f"{len(videos)} videos, {len(predictor.classes)} classes, on {predictor.device}")
    say(f"testing with: {predictor.testing}")
    with StopRequest() as stop, inference_progress() as report:
        summary = run_videos(
            predictor,
            videos,
            args.out,
            options,
            every=every,
            stop=lambda: stop.requested,
            report=report,
        )
    _print_summary(summary, predictor.output.noun, "videos")
    if summary.interrupted:
        say(f"interrupted; continue with: {resume_command(args)}")
        return summary, stop.exit_code
    return summary, 5 if summary.failures else 0


def _load(args: argparse.Namespace, overrides: list[str]) -> Predictor[Any]:
    from resdet.detection.evaluation.prediction import emulation
    from resdet.detection.predictor import load

    predictor = load(args.weights, args.device, overrides, trust_paths=args.trust_paths)
    if args.overlap is not None and args.tile is None:
        raise ConfigError("--overlap: is that of tiles; give --tile, their side in pixels")
    if not predictor.facts.origin[0].is_dir():  # an export has its own precision
        for line in emulation("test.precision", predictor.precision, predictor.device):
            say(line)
    return predictor if args.tile is None else predictor.tiled(args.tile, overlap(args))


def _options(
    args: argparse.Namespace, overrides: list[str], predictor: Predictor[Any]
) -> FolderOptions:
    from resdet.datasets.formats.coco_ids import coco_ids
    from resdet.detection.inference.options import FolderOptions

    least, of_classes = thresholds(args.conf, predictor.classes)
    return FolderOptions(
        score_threshold=predictor.output.threshold if least is None else least,
        class_thresholds=of_classes,
        only_classes=names(args.classes, predictor.classes),
        batch_size=args.batch_size,
        draw=args.draw,
        resume=args.resume,
        workers=args.workers,
        coco_ids=coco_ids(args.coco_ids) if args.coco_ids else None,
        sort_by_class=args.sort_by_class,
        save_crops=args.save_crop,
        provenance=_provenance(args, overrides, predictor),
    )


def _write_annotations(out: Path, format: str) -> None:
    from resdet.detection.inference.annotations import write_annotations

    folder, plan = write_annotations(out, format)
    say(f"annotations: {folder}")
    for line in plan.losses:
        say(f"  lost: {line}")


def _write_page(out: Path, files: list[InputFile], predictor: Predictor[Any]) -> None:
    from resdet.datasets.image import read_image
    from resdet.detection.inference.folder_page import write_folder_page

    def read(path: Path) -> Any:
        return read_image(path, predictor.rules).pixels

    page = write_folder_page(out, {file.name: file.path for file in files}, read)
    say(f"open in a browser: {page} ({page.stat().st_size / 1e6:.1f} MB)")


def _shard(files: list[One], text: str) -> list[One]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise ConfigError(f"--shard {text}: expected I/N with I from 1 to N")
    return files[index - 1 :: count]


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
        "shard": args.shard,
        **({"every": args.every} if args.every is not None else {}),
        **({"tile": args.tile, "overlap": overlap(args)} if args.tile is not None else {}),
        "coco_ids_sha256": sha256_of(args.coco_ids) if args.coco_ids else None,
        "versions": {name: _version(name) for name in ("resdet", "torch", "torchvision")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _print_summary(summary: FolderSummary, noun: str, inputs: str) -> None:
    rate = summary.new / summary.seconds if summary.seconds > 0 else 0.0
    earlier = summary.done - summary.new
    say(
        f"{summary.done} of {summary.total} {inputs} done"
        + (f" ({earlier} earlier)" if earlier else "")
        + f", {summary.found} {noun}, {len(summary.failures)} failed, "
        f"{rate:.2f} {inputs}/s"
    )
    if summary.warned:
        say(f"  {summary.warned} with warnings, such as damage: see `warnings` in the records")
    for name, reason in summary.failures[:20]:
        say(f"  failed: {name}: {reason}")
    if len(summary.failures) > 20:
        say(f"  … and {len(summary.failures) - 20} more: see the records with an error")
    say(f"results: {summary.out}")


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("infer"))
