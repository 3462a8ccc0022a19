"""Which command turns a data set into VOC, COCO or YOLO text?

resdet convert-data data/bccd --from voc --split train --split val --to coco --out data/bccd_coco
resdet convert-data coco/val2017 --from coco --annotations val.json --split val --to yolo --out y

Pictures are copied byte by byte. What the new format cannot hold is refused, or with --allow-loss
left out; it is always told, and listed in conversion.txt beside the result.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.datasets.conversion import Plan
    from resdet.datasets.source import Source, SourceSplit

HELP = "convert a data set between VOC, COCO and YOLO text"

FORMATS = ("voc", "coco", "yolo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, help="folder of the data set; of the pictures with --annotations"
    )
    parser.add_argument("--from", dest="source_format", choices=FORMATS, required=True)
    parser.add_argument("--to", dest="target_format", choices=FORMATS, required=True)
    parser.add_argument(
        "--split",
        dest="splits",
        action="append",
        required=True,
        help="one of them; may be repeated",
    )
    parser.add_argument(
        "--annotations",
        action="append",
        type=Path,
        metavar="JSON",
        help="COCO file, one for each --split (default: SOURCE/annotations/instances_SPLIT.json "
        "with the pictures in SOURCE/SPLIT)",
    )
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument(
        "--allow-loss", action="store_true", help="leave out, and count, what cannot be converted"
    )
    parser.add_argument(
        "--link", action="store_true", help="hard-link the pictures instead of copying them"
    )
    parser.add_argument(
        "--coordinates",
        choices=("one_based", "zero_based"),
        default="one_based",
        help="of a VOC source (default one_based, as PASCAL's); VOC is always written one-based",
    )
    parser.add_argument(
        "--exif",
        choices=("apply", "ignore"),
        default="apply",
        help="whether boxes were drawn on pictures turned by EXIF (default apply)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert; raises ConfigError and DataError."""
    sources = _sources(args)

    from resdet.datasets.conversion import expect_lossless, plan_conversion, write_plan
    from resdet.datasets.image import ImageRules
    from resdet.datasets.placing import expect_free
    from resdet.datasets.source import read_split

    expect_free(args.out)
    rules = ImageRules(exif=args.exif)
    parts = [read_split(each, coordinates=args.coordinates, rules=rules) for each in sources]
    plan = plan_conversion(parts, args.source_format, args.target_format)
    if not args.allow_loss:
        expect_lossless(plan)
    with _progress(sum(len(part) for part in plan.splits.values())) as report:
        write_plan(plan, args.out, link=args.link, report=report)
    _print_summary(parts, plan, args)
    return 0


def _sources(args: argparse.Namespace) -> list[Source]:
    """One source for each ``--split``, with its ``--annotations`` if given; raises ConfigError."""
    from resdet.datasets.source import Source

    splits, annotations = args.splits, args.annotations
    for split in splits:
        if not re.fullmatch(r"[\w-][\w.-]*", split):
            raise ConfigError(f"--split: {split!r} is not a name of letters, digits, '_', '-', '.'")
    if len(set(splits)) < len(splits):
        raise ConfigError(f"--split: {', '.join(splits)}: one is given twice")
    if annotations and args.source_format != "coco":
        raise ConfigError(f"--annotations: only for coco, not {args.source_format}")
    if annotations and len(annotations) != len(splits):
        raise ConfigError(f"{len(splits)} --split, but {len(annotations)} --annotations")
    files = annotations or [None] * len(splits)
    return [
        Source(args.source_format, args.source, split, file)
        for split, file in zip(splits, files, strict=True)
    ]


def _print_summary(parts: list[SourceSplit], plan: Plan, args: argparse.Namespace) -> None:
    for part in parts:
        pictures = plan.splits[part.split]
        before = sum(len(image.objects) for image in part.images)
        after = sum(len(picture.objects) for picture in pictures)
        empty = sum(not picture.objects for picture in pictures)
        lost = f" of {before}" if before != after else ""
        print(f"{part.split}: {len(pictures)} pictures ({empty} empty), {after}{lost} objects")
    print(f"classes: {', '.join(plan.classes) or 'none'}")
    for line in plan.losses:
        print(f"lost: {line}")
    for line in plan.notes:
        print(f"note: {line}")
    if args.exif == "ignore":
        print("note: boxes stay as drawn before EXIF rotation: set data.exif=ignore to train on it")
    print(f"{args.out} is complete ({plan.target})")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr, on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task("pictures", total=total)
        yield lambda: shown.advance(task)


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("convert-data"))
