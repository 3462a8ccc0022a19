"""Crop the objects of a detection data set into a classification data set.

resdet crop-objects data/synthetic --from voc --split train --split val --out data/objects
resdet train-cls --cfg caltech40_r18.yaml data.source.root=data/objects --out runs/objects

Each object becomes SPLIT/CLASS/IMAGE_NUMBER.jpg: a square around its box. Objects marked as
difficult or as crowd are skipped. --background adds squares without an object as a class of their
own, because the backbone of a detector must distinguish objects from background.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from resdet.detection.printing import say, say_next
from resdet.tools.progress import count_progress
from resdet.tools.source_arguments import (
    add_policies,
    add_source_arguments,
    named_sources,
    reading_of,
)

if TYPE_CHECKING:
    from resdet.datasets.catalog import DataSplit, OnBadBox
    from resdet.datasets.convert.reading import SourceSplit

HELP = "crop the objects of a detection data set into a classification data set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    add_policies(parser)
    parser.add_argument(
        "--margin",
        type=float,
        default=0.15,
        help="context on each side of a box, relative to its longer side",
    )
    parser.add_argument(
        "--jitter",
        type=float,
        default=0.0,
        help="maximum random shift and scale of a square, relative to its side",
    )
    parser.add_argument("--min-side", type=int, default=32, help="smallest square in pixels")
    parser.add_argument(
        "--background",
        type=int,
        default=0,
        metavar="N",
        help="also crop N squares per image with little or no object, as class `background`",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of --jitter and --background")


def run(args: argparse.Namespace) -> int:
    """Crop and print a summary; raises ConfigError and DataError."""
    sources = named_sources(args)

    from resdet.datasets.convert.crop_objects import BACKGROUND, CropRule, write_object_crops
    from resdet.datasets.convert.placing import expect_free
    from resdet.datasets.convert.reading import read_splits
    from resdet.detection.errors import ConfigError

    if args.seed < 0:
        raise ConfigError(f"--seed: {args.seed} is negative")
    if args.background < 0:
        raise ConfigError(f"--background: {args.background} is negative")
    rule = CropRule(args.margin, args.jitter, args.min_side)
    expect_free(args.out)
    reading = reading_of(args)
    parts = read_splits(sources, reading)
    splits = _labelled(parts, args.on_bad_box)
    with count_progress("cropping", sum(len(split.records) for split in splits.values())) as report:
        counts = write_object_crops(
            splits,
            args.out,
            rule,
            background=args.background,
            seed=args.seed,
            rules=reading.rules,
            report=report,
        )
    for name, split in splits.items():
        ignored = sum(int(record.annotation.ignore.sum()) for record in split.records)
        dropped = sum(finding.outcome == "dropped" for finding in split.findings)
        classes = ", ".join(f"{label} {counts[name][label]}" for label in split.classes)
        empty = counts[name][BACKGROUND] if args.background else 0
        say(
            f"{name}: {counts[name].total() - empty} objects ({classes}), skipped: {ignored} "
            f"ignored, {dropped} with bad boxes"
            + (f"; {empty} squares of background" if args.background else "")
        )
    say(f"{args.out} is complete")
    say_next("resdet", "check-data", args.out)
    return 0


def _labelled(parts: Sequence[SourceSplit], on_bad_box: OnBadBox) -> dict[str, DataSplit]:
    from resdet.datasets.catalog import assemble

    classes = sorted({name for part in parts for name in part.classes})
    return {
        part.split: assemble(part.images, classes=classes, on_bad_box=on_bad_box) for part in parts
    }


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("crop-objects"))
