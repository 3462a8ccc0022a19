"""Which options do all tools share that read the splits of a detection data set?"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.datasets.formats.source import Source

FORMATS = ("voc", "coco", "yolo")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, ``--from``, ``--split``, ``--annotations``, ``--out``, ``--coordinates`` and
    ``--exif``."""
    parser.add_argument(
        "source", type=Path, help="folder of the data set; of the images with --annotations"
    )
    parser.add_argument("--from", dest="source_format", choices=FORMATS, required=True)
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
        "with the images in SOURCE/SPLIT)",
    )
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder")
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
        help="whether boxes were drawn on images turned by EXIF (default apply)",
    )


def named_sources(args: argparse.Namespace) -> list[Source]:
    """One source for each ``--split``, with its ``--annotations`` if given; raises ConfigError."""
    from resdet.datasets.formats.source import Source

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
