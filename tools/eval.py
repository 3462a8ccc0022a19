"""The command ``eval``: how good a detector is on a data set, as tables, numbers and curves."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

from resdet.detection.errors import ConfigError, DataError
from resdet.tools.arguments import add_config_arguments

HELP = "score a detector: VOC mAP@0.5, COCO AP, per class, with curves"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        required=True,
        type=Path,
        action="append",
        help="trained weights; repeat it for an ensemble",
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--split", choices=("val", "train"), default="val", help="which data (val)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the report")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--no-coco", action="store_true", help="leave out COCO's numbers (slow)")
    parser.add_argument("--save-json", action="store_true", help="write all detections too")


def run(args: argparse.Namespace) -> int:
    from resdet.detection.build import describe_testing
    from resdet.detection.config import dump_config, load_config, missing_paths
    from resdet.detection.engine.distributed import process_group
    from resdet.detection.evaluation.report import print_table, write_report
    from resdet.detection.evaluation.run import Timer
    from resdet.detection.stored import load_detectors
    from resdet.detection.testing import build_test_split, detect_split, score_split
    from rich.console import Console

    with process_group(args.device) as group:
        base = load_config(args.cfg) if args.cfg else None
        detector = load_detectors(args.weights, group.device, base=base, overrides=args.overrides)
        config = detector.config
        if args.print_config:
            print(dump_config(config), end="")
            return 0
        missing = missing_paths(config)
        if missing:
            raise ConfigError("\n".join(missing))
        split = build_test_split(detector, args.split)
        if not split.records:
            raise DataError(f"data.{args.split}: no pictures to evaluate")
        folder = args.out or _beside(args.weights[0])
        if group.is_main:
            _expect_writable(folder)
        if args.dry_run:
            print(f"{len(split.records)} pictures, classes {', '.join(detector.classes)}")
            return 0
        timer = Timer()
        found = detect_split(detector, split, group, progress=Console(stderr=True), timer=timer)
        if found is None:
            return 0
        evaluation = replace(
            score_split(detector, split, found, coco=not args.no_coco),
            testing=describe_testing(detector),
            seconds_per_image=timer.seconds_per_image,
        )
        print_table(evaluation, Console())
        written = write_report(evaluation, folder, detections=found if args.save_json else None)
        print("written: " + ", ".join(str(path) for path in written))
    return 0


def _expect_writable(folder: Path) -> None:
    """Said before the hour of evaluation, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error


def _beside(weights: Path) -> Path:
    """The run folder's ``eval`` for ``run/weights/best.pt``; else a folder beside the file."""
    run_folder = weights.parent.parent if weights.parent.name == "weights" else weights.parent
    return run_folder / "eval"


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("eval"))
