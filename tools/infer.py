"""The command ``infer``: images in, detections as JSON lines, COCO JSON, CSV and drawings out."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.detection.inference.folder import InputFile, Summary

HELP = "find objects in images, folders, globs or lists of images"

#: Seconds between two lines of progress where there is no terminal.
_REPORT_EVERY = 10.0
_OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_0-9]+)+=")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        required=True,
        type=Path,
        action="append",
        help="trained weights; repeat it for an ensemble",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="folder, glob, list file (.txt) or image; config overrides such as "
        "test.nms_iou=0.4 may stand among them",
    )
    parser.add_argument("--out", required=True, type=Path, help="new or empty folder for results")
    parser.add_argument(
        "--conf", "--conf-thres", type=float, default=0.5, help="lowest score kept (0.5)"
    )
    parser.add_argument("--classes", default="", metavar="A,B", help="keep only these classes")
    parser.add_argument("--batch-size", "--batch", type=int, default=1, help="images a pass (1)")
    parser.add_argument("--device", help="cpu, cuda or cuda:1; the first GPU if there is one")
    parser.add_argument("--workers", type=int, default=2, help="threads that read, and draw (2)")
    parser.add_argument(
        "--draw",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write the images with their boxes to OUT/drawn",
    )
    parser.add_argument("--resume", action="store_true", help="skip what OUT has already")
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N", help="every N-th image, from the I-th"
    )
    parser.add_argument("--strict", action="store_true", help="exit code 5 if an image failed")


def run(args: argparse.Namespace) -> int:
    """0; 5 if images failed under ``--strict``; 130 or 143 when interrupted.

    Raises ConfigError and WeightsError as `load`, `find_inputs` and `run_folder` do.
    """
    from resdet.detection.engine.signals import StopRequest
    from resdet.detection.inference.folder import FolderOptions, find_inputs, run_folder
    from resdet.detection.predictor import load

    overrides, inputs = _split(args.inputs)
    files = _shard(find_inputs(inputs, exclude=args.out), args.shard)
    predictor = load(args.weights, args.device, overrides)
    options = FolderOptions(
        score_threshold=args.conf,
        only_classes=tuple(name for name in args.classes.split(",") if name),
        batch_size=args.batch_size,
        draw=args.draw,
        resume=args.resume,
        workers=args.workers,
        provenance=_provenance(args, overrides),
    )
    print(f"{len(files)} images, {len(predictor.classes)} classes, on {predictor.device}")
    print(f"testing with: {predictor.testing}")
    with StopRequest() as stop, _progress(sys.stderr.isatty()) as report:
        summary = run_folder(
            predictor, files, args.out, options, stop=lambda: stop.requested, report=report
        )
    _print_summary(summary)
    if summary.interrupted:
        print(f"interrupted; continue with: {_resume_command(args)}")
        return stop.exit_code
    return 5 if args.strict and summary.failures else 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(overrides, inputs): an argument like ``test.nms_iou=0.4`` that is no file is an override."""
    overrides = [item for item in arguments if _OVERRIDE.match(item) and not Path(item).exists()]
    inputs = [item for item in arguments if item not in overrides]
    if not inputs:
        raise ConfigError("no input: name a folder, a glob, a list file or an image")
    return overrides, inputs


def _shard(files: list[InputFile], text: str) -> list[InputFile]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise ConfigError(f"--shard {text}: expected I/N with I from 1 to N")
    return files[index - 1 :: count]


def _provenance(args: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    return {
        "weights": [path.name for path in args.weights],
        "weights_sha256": [_sha256(path) for path in args.weights],
        "overrides": overrides,
        "shard": args.shard,
        "versions": {name: _version(name) for name in ("resdet", "torch", "torchvision")},
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


Report = Callable[[int, int, int], None]


def _progress(terminal: bool) -> contextlib.AbstractContextManager[Report]:
    return _bar() if terminal else contextlib.nullcontext(_Lines())


@contextlib.contextmanager
def _bar() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.2f} images/s, {task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", rate=0.0, failed=0)

        def report(done: int, total: int, failed: int) -> None:
            speed = progress.tasks[0].speed or 0.0
            progress.update(task, completed=done, total=total, rate=speed, failed=failed)

        yield report


class _Lines:
    """A line of progress every `_REPORT_EVERY` seconds."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._reports = 0

    def __call__(self, done: int, total: int, failed: int) -> None:
        self._reports += 1
        now = time.monotonic()
        if now - self._last >= _REPORT_EVERY:
            self._last = now
            rate = self._reports / (now - self._start)
            print(f"{done}/{total}, {rate:.2f} images/s, {failed} failed", file=sys.stderr)


def _print_summary(summary: Summary) -> None:
    rate = summary.new / summary.seconds if summary.seconds > 0 else 0.0
    earlier = summary.done - summary.new
    print(
        f"{summary.done} of {summary.total} images done"
        + (f" ({earlier} earlier)" if earlier else "")
        + f", {summary.detections} detections, {len(summary.failures)} failed, "
        f"{rate:.2f} images/s"
    )
    for name, reason in summary.failures[:20]:
        print(f"  failed: {name}: {reason}")
    if len(summary.failures) > 20:
        print(f"  … and {len(summary.failures) - 20} more: see the records with an error")
    print(f"results: {summary.out}")


def _resume_command(args: argparse.Namespace) -> str:
    words = ["resdet", "infer"]
    for path in args.weights:
        words += ["--weights", str(path)]
    words += args.inputs
    words += ["--out", str(args.out), "--conf", str(args.conf)]
    words += ["--classes", args.classes] if args.classes else []
    words += ["--batch-size", str(args.batch_size), "--workers", str(args.workers)]
    words += ["--device", args.device] if args.device else []
    words += [] if args.draw else ["--no-draw"]
    words += ["--shard", args.shard] if args.shard != "1/1" else []
    words += ["--strict"] if args.strict else []
    return shlex.join([*words, "--resume"])


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("infer"))
