"""Divide a data set into training, validation and test images.

resdet split data/cards --from voc --parts train=0.7 val=0.2 test=0.1
resdet split photos --from coco --annotations all.json --parts train=0.8 val=0.2 --seed 1

Each class is distributed by the fractions, and so are images without objects. Copies of an image
stay together; with --group-near also recompressed, scaled or brightened ones. VOC gets
ImageSets/Main/PART.txt, COCO gets PART.json beside its JSON, YOLO gets PART.txt.
"""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError, DataError, first_few
from resdet.detection.printing import progress_of, say
from resdet.tools.source_arguments import (
    add_format_argument,
    add_names_argument,
    add_policies,
    given_names,
    reading_of,
    recognised_format,
)

if TYPE_CHECKING:
    from resdet.datasets.convert.split import Member
    from resdet.datasets.formats.format import Format, Source

HELP = "split a data set into parts with equal fractions of every class"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, help="VOC or YOLO folder; for COCO the folder of the images"
    )
    add_format_argument(parser)
    parser.add_argument(
        "--parts", nargs="+", required=True, metavar="NAME=FRACTION", help="must sum to 1"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")
    parser.add_argument(
        "--split",
        dest="splits",
        action="append",
        metavar="SET",
        help="VOC: split this image set instead of all images (may be repeated)",
    )
    parser.add_argument("--annotations", type=Path, metavar="JSON", help="COCO: file to split")
    parser.add_argument("--out", type=Path, help="COCO: output folder (default: that of JSON)")
    parser.add_argument(
        "--group-near",
        action="store_true",
        help="also keep near copies, such as frames of a scene, together (decodes all images)",
    )
    add_names_argument(parser)
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace existing parts, and remove those of earlier splits that share images",
    )
    parser.add_argument(
        "--exif",
        choices=("apply", "ignore"),
        default="apply",
        help="whether sizes refer to images after EXIF rotation",
    )
    add_policies(parser, "keep", boxes="keep")


def run(args: argparse.Namespace) -> int:
    """Split; raises ConfigError and DataError."""
    fractions = _fractions(args.parts)
    format = recognised_format(args)
    if format.divide is None:
        raise ConfigError(f"--from: {format.name} is not divided; convert it to coco first")
    sources = _sources(args, format)

    from resdet.datasets.bad_boxes import resolve_boxes
    from resdet.datasets.convert.copies import groups_of_copies
    from resdet.datasets.convert.split import Member, stratified_split, write_parts
    from resdet.datasets.finding_kinds import as_option
    from resdet.datasets.findings import refuse
    from resdet.datasets.formats import read_images

    reading = reading_of(args)
    rules = reading.rules
    found = [image for source in sources for image in read_images(source, reading)]
    if not found:
        raise DataError(f"{args.source}: no images to divide")
    if args.on_bad_box != "keep":
        found, findings = resolve_boxes(found, args.on_bad_box)
        refuse(findings, str(args.source), as_option)
    images = list({image.image_id: image for image in found}.values())  # once, if listed twice
    paths, workers = [image.path for image in images], os.cpu_count() or 1
    with progress_of("decoding") as progress:
        groups = groups_of_copies(
            paths, rules, near=args.group_near, workers=workers, progress=progress
        )
    members = [
        Member(image.image_id, frozenset(obj.name for obj in image.objects), group)
        for image, group in zip(images, groups, strict=True)
    ]
    parts = stratified_split(members, fractions, seed=args.seed)
    if empty := [part for part, names in parts.items() if not names]:
        raise DataError(
            f"{args.source}: {', '.join(empty)}: no images; {len(members)} are too few for these "
            "fractions"
        )
    texts = format.divide(sources[0], parts, args.out)
    whole = getattr(sources[0], "annotations", args.source)  # a file, or the folder
    written, removed = write_parts(texts, whole, force=args.force)
    for line in _shares(members, parts):
        say(line)
    copies = len(members) - len(set(groups))
    kind = "exact or near" if args.group_near else "exact"
    say(f"{copies} images are {kind} copies of another and stay with it")
    say(f"written: {', '.join(map(str, written))}")
    if removed:
        say(f"removed, of an earlier split: {', '.join(map(str, removed))}")
    return 0


def _fractions(words: Sequence[str]) -> dict[str, float]:
    fractions: dict[str, float] = {}
    for word in words:
        name, _, fraction = word.partition("=")
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            raise ConfigError(f"--parts: {word!r} is not NAME=FRACTION")
        if name in fractions:
            raise ConfigError(f"--parts: {name!r} is given twice")
        try:
            fractions[name] = float(fraction)
        except ValueError:
            raise ConfigError(f"--parts: {word!r}: {fraction!r} is not a number") from None
    return fractions


def _sources(args: argparse.Namespace, format: Format[Any]) -> list[Source]:
    """The sources to divide; raises ConfigError for options of another format."""
    from resdet.datasets.formats import named_source, with_names

    names = given_names(args, format)
    in_file = "annotations" in format.source.model_fields
    if not in_file and (args.annotations or args.out):
        raise ConfigError("--annotations and --out: only for coco")
    if in_file and args.splits:
        raise ConfigError(f"--split: only for voc; {format.name} takes --annotations")
    if in_file and args.annotations is None:
        found = format.splits(args.source) if args.source.is_dir() else {}
        if len(found) != 1:
            files = first_few([each.title for each in found.values()]) or "none"
            raise ConfigError(f"{format.name}: give --annotations JSON; there are: {files}")
        return list(found.values())
    splits = dict.fromkeys(args.splits or [None])
    divided = [named_source(format, args.source, each, args.annotations) for each in splits]
    return [with_names(source, names) for source in divided]


def _shares(members: Sequence[Member], parts: Mapping[str, Sequence[str]]) -> list[str]:
    """A table of the number of images, in total and with each class, in each part."""
    classes = {member.name: member.classes or {"(no objects)"} for member in members}
    counts = {
        part: Counter(name for image in names for name in classes[image])
        for part, names in parts.items()
    }
    total = sum(counts.values(), Counter[str]())
    width = max(map(len, [*total, "images"]))
    cells = [("images", [len(names) for names in parts.values()], len(members))]
    cells += [
        (name, [count[name] for count in counts.values()], total[name]) for name in sorted(total)
    ]
    columns = "".join(f"{part:>16}" for part in parts)
    lines = [f"{'':<{width}}{columns}"]
    for name, row, whole in cells:
        shown = "".join(f"{count:>8} {count / max(whole, 1):>6.1%} " for count in row)
        lines.append(f"{name:<{width}}{shown}".rstrip())
    return lines


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("split"))
