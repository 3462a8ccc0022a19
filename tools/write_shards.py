"""Pack class folders into tar shards that training reads as a stream.

resdet write-shards data/images --out data/shards
resdet write-shards /data/ILSVRC2012 --layout ilsvrc --out /mnt/shards --size-mb 500
resdet write-shards --check /mnt/shards

Each split becomes a folder of tar files in webdataset's format (KEY.jpg holds the unchanged image
file, KEY.cls the class index) and an index.jsonl. Images are packed in a seeded random order. To
continue an interrupted run, run the same command again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say, say_next
from resdet.tools.progress import count_progress
from resdet.tools.source_arguments import format_named

if TYPE_CHECKING:
    from resdet.datasets.catalog import DataSplit
    from resdet.datasets.formats.format import Source

HELP = "pack class folders into tar shards for streaming"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, nargs="?", help="folder of the data set")
    parser.add_argument(
        "--layout",
        type=format_named("class"),
        default="image_folder",
        metavar="FORMAT",
        help="image_folder: SPLIT/CLASS/images; ilsvrc, tiny_imagenet, cub: as distributed",
    )
    parser.add_argument("--train", default="train", help="training folder")
    parser.add_argument("--val", default="val", help="validation folder")
    parser.add_argument("--val-fraction", type=float, help="fraction of training to use as val")
    parser.add_argument("--out", type=Path, help="output folder, gets train and val")
    parser.add_argument("--size-mb", type=int, default=256, help="maximum shard size in MiB")
    parser.add_argument("--seed", type=int, default=0, help="of the order and of --val-fraction")
    parser.add_argument("--check", type=Path, metavar="DIR", help="verify existing shards")


def run(args: argparse.Namespace) -> int:
    """Pack or verify; raises ConfigError and DataError."""
    if args.check is not None:
        if args.source is not None or args.out is not None:
            raise ConfigError("--check takes neither a source folder nor --out")
        return _check(args.check)
    if args.source is None or args.out is None:
        raise ConfigError("give the data set folder and --out, or --check DIR")
    if args.seed < 0:
        raise ConfigError(f"--seed: {args.seed} is negative")
    return _pack(args)


def _pack(args: argparse.Namespace) -> int:
    from resdet.datasets.catalog_classes import describe_labelled, labelled_splits
    from resdet.detection.files import folder_lock

    source = _source(args)
    splits = dict(zip(("train", "val"), labelled_splits(source), strict=True))
    for name, split in splits.items():
        say(f"{name}: {describe_labelled(split)}", flush=True)
    with folder_lock(args.out):
        for name, split in splits.items():
            _write(name, split, args)
    say(f"{args.out} is complete")
    say_next("resdet", "write-shards", "--check", args.out)
    return 0


def _source(args: argparse.Namespace) -> Source:
    fields = args.layout.source.model_fields
    for option, usual in (("train", "train"), ("val", "val")):
        if option not in fields and getattr(args, option) != usual:
            raise ConfigError(f"--{option}: not for {args.layout.name}")
    names = {"root": args.source, "train": args.train, "val": args.val, "headers": True}
    names = {name: value for name, value in names.items() if name in fields}
    if args.val_fraction is None:
        return args.layout.source(**names)
    if "val_fraction" not in fields:
        raise ConfigError(f"--val-fraction: not for {args.layout.name}")
    if not 0 < args.val_fraction < 1:
        raise ConfigError(f"val_fraction: {args.val_fraction:g} is not between 0 and 1")
    return args.layout.source(**names, val_fraction=args.val_fraction, split_seed=args.seed)


def _write(name: str, split: DataSplit, args: argparse.Namespace) -> None:
    from resdet.datasets.shards.write import plan_shards, write_shards

    plan = plan_shards(split, max_bytes=args.size_mb * 2**20, seed=args.seed)
    with count_progress(f"writing {name}", len(plan.shards), "shards") as advance:
        done = write_shards(
            plan,
            args.out / name,
            report=advance,
        )
    earlier = f", {done} of them already existed" if done else ""
    say(f"{name}: {plan.count} images in {len(plan.shards)} shards{earlier}")


def _check(folder: Path) -> int:
    """Verify the shards in ``folder``, or in each of its subfolders."""
    from resdet.datasets.shards.index import INDEX, read_shards
    from resdet.datasets.shards.write import verify_shards

    indices = [folder / INDEX] if (folder / INDEX).exists() else sorted(folder.glob(f"*/{INDEX}"))
    if not indices:
        raise ConfigError(f"--check: no {INDEX} in {folder} or its subfolders")
    for index in indices:
        shards = read_shards(index.parent)
        name = index.parent.name
        with count_progress(f"verifying {name}", len(shards.shards), "shards") as advance:
            for _ in verify_shards(index.parent, shards.shards):
                advance()
        say(f"{index.parent}: {len(shards)} images in {len(shards.shards)} shards verified")
    return 0


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("write-shards"))
