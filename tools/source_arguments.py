"""Options of the tools that read the splits of a detection data set, and formats by name."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.datasets.formats.format import Carries, Format, Source


def format_named(carries: Carries | None = None) -> Callable[[str], Format[Any]]:
    """The ``type`` of an option: a format by name, if its images carry that."""

    def find(word: str) -> Format[Any]:
        from resdet.datasets.formats import find_format

        try:
            return find_format(word.replace("-", "_"), carries)  # as in image-folder
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return find


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the source folder and the options that describe it, and ``--out``."""
    parser.add_argument(
        "source", type=Path, help="data set folder, or with --annotations the image folder"
    )
    parser.add_argument(
        "--from",
        dest="format",
        type=format_named("boxes"),
        required=True,
        metavar="FORMAT",
        help="format of the source: voc, coco or yolo",
    )
    parser.add_argument(
        "--split", dest="splits", action="append", required=True, help="may be repeated"
    )
    parser.add_argument(
        "--annotations",
        action="append",
        type=Path,
        metavar="JSON",
        help="COCO file, one for each --split (default: SOURCE/annotations/instances_SPLIT.json "
        "with the images in SOURCE/SPLIT)",
    )
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
    parser.add_argument(
        "--coordinates",
        choices=("one_based", "zero_based"),
        default="one_based",
        help="coordinates of a VOC source; VOC is always written one-based",
    )
    parser.add_argument(
        "--exif",
        choices=("apply", "ignore"),
        default="apply",
        help="whether boxes refer to images after EXIF rotation",
    )


def named_sources(args: argparse.Namespace) -> list[Source]:
    """One source for each ``--split``, with its ``--annotations`` if given; raises ConfigError."""
    from resdet.datasets.formats import named_source

    splits, files = args.splits, args.annotations or [None] * len(args.splits)
    for split in splits:
        if not re.fullmatch(r"[\w-][\w.-]*", split):
            raise ConfigError(f"--split: {split!r} is not a name of letters, digits, '_', '-', '.'")
    if len(set(splits)) < len(splits):
        raise ConfigError(f"--split: {', '.join(splits)}: one is given twice")
    fields = args.format.source.model_fields
    if args.annotations and "annotations" not in fields:
        raise ConfigError(f"--annotations: only for coco, not {args.format.name}")
    if len(files) != len(splits):
        raise ConfigError(f"{len(splits)} --split, but {len(files)} --annotations")
    update = {"coordinates": args.coordinates} if "coordinates" in fields else {}
    return [
        named_source(args.format, args.source, split, file).model_copy(update=update)
        for split, file in zip(splits, files, strict=True)
    ]
