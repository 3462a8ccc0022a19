"""Run a model on images or videos and write JSON lines, COCO JSON, CSV, drawings and more."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.arguments import split_overrides
from resdet.tools.infer_arguments import add_arguments as add_arguments
from resdet.tools.infer_arguments import new_folder, resume_command
from resdet.tools.infer_settings import folder_options, load_model, shard_of
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
    if args.manifest is None and isinstance(args.out, str):
        raise ConfigError(f"--out {args.out}: only the results of a --manifest go to a URL")
    overrides, inputs = split_overrides(args.inputs)
    if args.resume and not inputs and args.manifest is None:
        from resdet.detection.inference.records import recorded_inputs

        inputs = recorded_inputs(args.out)
        args.inputs += inputs
    overrides += ["test.suppress.class_agnostic=true"] if args.agnostic_nms else []
    overrides += [f"data.max_pixels={args.max_pixels}"] if args.max_pixels is not None else []
    if args.manifest is not None:
        from resdet.tools.infer_manifest import run_on_manifest

        return run_on_manifest(args, overrides, inputs)
    if args.engine != "local" or args.actors is not None or args.parts != "jsonl":
        raise ConfigError("--engine, --actors and --parts: only of a run with --manifest")
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
    predictor = load_model(args, overrides, len(files))
    if args.format and isinstance(predictor.output, ClassOutput):
        raise ConfigError("--format: annotations are boxes, which a classifier lacks")
    options = folder_options(args, overrides, predictor)
    say(f"{len(files)} images, {len(predictor.classes)} classes, on {predictor.device}")
    say(f"testing with: {predictor.testing}")
    with StopRequest() as stop, inference_progress() as report:
        summary = run_folder(
            predictor, files, args.out, options, stop=lambda: stop.requested, report=report
        )
    _print_summary(summary, predictor.output.noun, "images")
    if summary.empty:
        say(_without_results(summary, options, predictor))
    for format in args.format if not summary.interrupted else ():
        _write_annotations(args.out, format.name, best=predictor.output.one_object)
    if not summary.interrupted and (args.page or summary.usable):
        _show(args, files, predictor)
    if summary.interrupted:
        say(f"interrupted; continue with: {resume_command(args)}")
        return summary, stop.exit_code
    failed = {name for name, _ in summary.failures}
    named = any(file.named and file.name in failed for file in files)
    unusable = named or (failed and (args.strict or len(failed) == summary.total))
    return summary, 5 if unusable else 0


def _without_results(
    summary: FolderSummary, options: FolderOptions, predictor: Predictor[Any]
) -> str:
    """How many images have no result, and why."""
    count = f"{summary.empty} of {summary.usable} images have no {predictor.output.noun}"
    subject = "no wanted class" if options.only_classes else "nothing"
    if options.least > 0:
        scores = options.thresholds(predictor.classes)
        several = len(set(scores[scores.isfinite()].tolist())) > 1
        why = f"{subject} in them scores {options.least:g} or more"
        why = f"{subject} in them reaches the score of its class" if several else why
        return f"{count}: {why}; lower --conf to see what scores less"
    return f"{count}, of any score" + (" of a wanted class" if options.only_classes else "")


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
    if args.timeout_per_image is not None:
        raise ConfigError("--timeout-per-image: is for images, not videos")
    predictor = load_model(args, overrides)
    options = folder_options(args, overrides, predictor)
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


def _write_annotations(out: Path, format: str, *, best: bool) -> None:
    from resdet.detection.inference.annotations import write_annotations

    folder, plan = write_annotations(out, format, best=best)
    say(f"annotations: {folder}")
    for line in plan.losses:
        say(f"  lost: {line}")


def _show(args: argparse.Namespace, files: list[InputFile], predictor: Predictor[Any]) -> None:
    """Write the page, or say how it is written of these results."""
    if not args.page:
        command = resume_command(argparse.Namespace(**{**vars(args), "page": True}))
        say(f"next: {command}")
        return
    from resdet.datasets.image import read_image
    from resdet.detection.inference.folder_page import write_folder_page

    def read(path: Path) -> Any:
        return read_image(path, predictor.rules).pixels

    words = predictor.facts.class_words
    sources = {file.name: file.path for file in files}
    page = write_folder_page(
        args.out, sources, read, words=words, located=predictor.output.one_object
    )
    say(f"open in a browser: {page} ({page.stat().st_size / 1e6:.1f} MB)")


def _shard(files: list[One], text: str) -> list[One]:
    index, count = shard_of(text)
    return files[index - 1 :: count]


def _print_summary(summary: FolderSummary, noun: str, inputs: str) -> None:
    earlier = summary.done - summary.new
    timed = summary.frames or summary.new * bool(summary.usable)  # no rate of mere failures
    rate = timed / summary.seconds if summary.seconds > 0 else 0.0
    say(
        f"{summary.done} of {summary.total} {inputs} done"
        + (f" ({earlier} earlier)" if earlier else "")
        + f", {summary.found} {noun}, {len(summary.failures)} failed"
        + (f", {rate:.2f} {'frames' if summary.frames else inputs}/s" if rate else "")
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
