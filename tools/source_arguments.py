"""Options of the tools that read the splits of a detection data set, and formats by name."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.arguments import add_max_pixels_argument

if TYPE_CHECKING:
    from resdet.datasets.formats.format import Carries, Format, Reading, Source


def format_named(carries: Carries | None = None) -> Callable[[str], Format[Any]]:
    """The ``type`` of an option: a format by name, if its images carry that."""

    def find(word: str) -> Format[Any]:
        from resdet.datasets.formats import FORMATS, find_format

        try:
            # As in image-folder and labelstudio.
            plain = {name.replace("_", ""): name for name in FORMATS}
            name = word.replace("-", "_")
            return find_format(plain.get(name.replace("_", ""), name), carries)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return find


def add_format_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--from``, the format of a detection data set."""
    parser.add_argument(
        "--from",
        dest="format",
        type=format_named("boxes"),
        metavar="FORMAT",
        help="format of the source (default: recognised)",
    )


def add_names_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--classes``, the names of numbered classes."""
    parser.add_argument(
        "--classes",
        metavar="A,B",
        help="classes of the numbers 0, 1, ... of a YOLO folder without a file of names",
    )


def given_names(args: argparse.Namespace, format: Format[Any]) -> list[str] | None:
    """The names in ``--classes``; raises ConfigError for a format without numbers."""
    if args.classes is None:
        return None
    if "names" not in format.source.model_fields:
        raise ConfigError(f"--classes: only for yolo, {format.name} has names")
    return [name.strip() for name in args.classes.split(",")]


def recognised_format(args: argparse.Namespace) -> Format[Any]:
    """The format that ``--from`` names or ``--annotations`` implies, else that of the folder, which
    is printed with the reason. Raises ConfigError for an unknown layout."""
    from resdet.datasets.formats import format_of_file, recognise

    if args.format:
        return args.format
    if args.annotations:
        files = args.annotations if isinstance(args.annotations, list) else [args.annotations]
        return format_of_file(files[0])
    recognition = recognise(args.source, "boxes")
    say(recognition)
    return recognition.format


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the source folder and the options that describe it, and ``--out``."""
    parser.add_argument(
        "source", type=Path, help="data set folder, or with --annotations the image folder"
    )
    add_format_argument(parser)
    parser.add_argument(
        "--split",
        dest="splits",
        action="append",
        default=[],
        help="split to read, may be repeated (default: all)",
    )
    parser.add_argument(
        "--annotations",
        action="append",
        default=[],
        type=Path,
        metavar="JSON",
        help="file of annotations (COCO, CSV, CVAT, Label Studio), one for each --split "
        "(default: those found in SOURCE)",
    )
    add_names_argument(parser)
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


def add_policies(parser: argparse.ArgumentParser, *more: str, boxes: str = "error") -> None:
    """Add the options for what cannot be used, as in the ``data`` section of a config. That for
    boxes, whose default is ``boxes``, has the choices ``more`` too."""
    parser.add_argument(
        "--on-bad-box",
        choices=("error", "drop", "clip", "fix", *more),
        default=boxes,
        help=f"what happens to boxes that training does not accept (default: {boxes})",
    )
    parser.add_argument(
        "--on-bad-image",
        choices=("error", "skip"),
        default="error",
        help="skip leaves out images that are missing or cannot be used, and counts them",
    )
    parser.add_argument(
        "--on-size-mismatch",
        choices=("error", "scale"),
        default="error",
        help="scale the boxes of images that were resized after they were annotated",
    )
    add_max_pixels_argument(parser)
    add_outside_argument(parser)


def add_outside_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-outside``."""
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="read images outside of the data folder where the annotations name them",
    )


def reading_of(args: argparse.Namespace) -> Reading:
    """The reading that the options ask for."""
    from resdet.datasets.formats.format import Reading
    from resdet.datasets.image import MAX_PIXELS, ImageRules

    rules = ImageRules(
        exif=args.exif, on_bad_image=args.on_bad_image, max_pixels=args.max_pixels or MAX_PIXELS
    )
    return Reading(rules, on_size_mismatch=args.on_size_mismatch, allow_outside=args.allow_outside)


def named_sources(args: argparse.Namespace) -> dict[str, Source]:
    """The sources by the names of their splits: one for each ``--split``, with its
    ``--annotations`` if given, else all. Raises ConfigError."""
    from resdet.datasets.formats import with_names
    from resdet.datasets.listing import listed_once

    with listed_once():
        format = recognised_format(args)
        names = given_names(args, format)
        sources = _found_sources(args, format)
    fields = format.source.model_fields
    update = {"coordinates": args.coordinates} if "coordinates" in fields else {}
    return {
        split: with_names(source.model_copy(update=update), names)
        for split, source in sources.items()
    }


def _found_sources(args: argparse.Namespace, format: Format[Any]) -> dict[str, Source]:
    from resdet.datasets.formats import named_source

    if args.annotations and "annotations" not in format.source.model_fields:
        raise ConfigError(
            f"--annotations: not for {format.name}, whose annotations are not one file"
        )
    if not args.splits and not args.annotations:
        found = dict(format.splits(args.source)) if args.source.is_dir() else {}
        if not found:
            raise ConfigError(f"{args.source}: no {format.name} data there; --split names a split")
        return found
    splits = args.splits or [path.stem for path in args.annotations]
    _check_names(splits, args.annotations)
    files = args.annotations or [None] * len(splits)
    return {
        split: named_source(format, args.source, split, file)
        for split, file in zip(splits, files, strict=True)
    }


def _check_names(splits: list[str], files: list[Path]) -> None:
    for split in splits:
        if not re.fullmatch(r"[\w-][\w.-]*", split):
            raise ConfigError(
                f"--split: {split!r} is not a name (letters, digits, '_', '-'; not first, '.'); "
                "without --split everything is read"
            )
    if len(set(splits)) < len(splits):
        raise ConfigError(f"--split: {', '.join(splits)}: one is given twice")
    if files and len(files) != len(splits):
        raise ConfigError(f"{len(splits)} --split, but {len(files)} --annotations")
