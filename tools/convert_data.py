"""Convert a data set into another annotation format.

resdet convert-data data/bccd --to coco --out data/bccd_coco
resdet convert-data coco/val2017 --from coco --annotations val.json --split val --to yolo --out y

Images are copied byte by byte. Content that the new format cannot store is an error; --allow-loss
drops it. Losses are printed and listed in conversion.txt in the new folder.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from resdet.detection.printing import say, say_next
from resdet.tools.progress import count_progress
from resdet.tools.source_arguments import (
    add_policies,
    add_source_arguments,
    format_named,
    named_sources,
    reading_of,
)

if TYPE_CHECKING:
    from resdet.datasets.convert.convert import ConversionPlan
    from resdet.datasets.convert.reading import SourceSplit

HELP = "convert a data set between VOC, COCO, YOLO, labelme, Label Studio, CVAT and CSV"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    add_policies(parser, "keep")
    parser.add_argument(
        "--to",
        dest="target",
        type=format_named("boxes"),
        required=True,
        metavar="FORMAT",
        help="voc, coco, yolo, labelme, label_studio, cvat or csv",
    )
    parser.add_argument(
        "--allow-loss", action="store_true", help="drop and count what cannot be converted"
    )
    parser.add_argument("--link", action="store_true", help="hard-link images, do not copy them")


def run(args: argparse.Namespace) -> int:
    """Convert; raises ConfigError and DataError."""
    sources = named_sources(args)

    from resdet.datasets.convert.convert import (
        expect_lossless,
        plan_conversion,
        write_plan,
    )
    from resdet.datasets.convert.placing import expect_free
    from resdet.datasets.convert.reading import read_splits

    expect_free(args.out)
    policy = None if args.on_bad_box == "keep" else args.on_bad_box
    parts = read_splits(sources, reading_of(args), policy)
    plan = plan_conversion(parts, args.target.name)
    if not args.allow_loss:
        expect_lossless(plan)
    with count_progress("writing", sum(len(part) for part in plan.splits.values())) as report:
        write_plan(plan, args.out, link=args.link, report=report)
    _print_summary(parts, plan, args)
    return 0


def _print_summary(
    parts: list[SourceSplit], plan: ConversionPlan, args: argparse.Namespace
) -> None:
    for part in parts:
        written = plan.splits[part.split]
        before = sum(len(image.objects) for image in part.images)
        after = sum(len(one.objects) for one in written)
        empty = sum(not one.objects for one in written)
        lost = f" of {before}" if before != after else ""
        say(f"{part.split}: {len(written)} images ({empty} empty), {after}{lost} objects")
    say(f"classes: {', '.join(plan.classes) or 'none'}")
    for line in plan.losses:
        say(f"lost: {line}")
    for line in plan.notes:
        say(f"note: {line}")
    if args.exif == "ignore":
        say("note: boxes stay as drawn before EXIF rotation: set data.exif=ignore to train on it")
    say(f"{args.out} is complete ({plan.target})")
    say_next("resdet", "check-data", args.out)


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("convert-data"))
