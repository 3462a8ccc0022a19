"""Which command packs class folders into tar shards, to be read as a stream?

resdet write-shards data/images --out data/shards
resdet write-shards /data/ILSVRC2012 --layout ilsvrc --out /mnt/shards --size-mb 500
resdet write-shards --check /mnt/shards

Each split becomes a folder of tar files that webdataset reads (KEY.jpg with the image's own
bytes, KEY.cls with the number of its class) and index.jsonl. Images are packed in a seeded random
order. The same command again goes on where a killed one stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.datasets.catalog import DataSplit
    from resdet.datasets.shards.index import Shard

HELP = "pack class folders into tar shards for streaming"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, nargs="?", help="folder of the data set")
    parser.add_argument(
        "--layout",
        choices=("image-folder", "ilsvrc"),
        default="image-folder",
        help="image-folder: SPLIT/CLASS/images; ilsvrc: as ILSVRC2012 is distributed "
        "(default image-folder)",
    )
    parser.add_argument("--train", default="train", help="folder of training (default train)")
    parser.add_argument("--val", default="val", help="folder of validation (default val)")
    parser.add_argument(
        "--val-fraction", type=float, help="hold this part of each class out of training as val"
    )
    parser.add_argument("--out", type=Path, help="gets the folders train and val")
    parser.add_argument(
        "--size-mb", type=int, default=256, help="largest shard in MB of 2^20 bytes (default 256)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the order, and of the held-out part"
    )
    parser.add_argument(
        "--check", type=Path, metavar="DIR", help="read shards again and compare their checksums"
    )


def run(args: argparse.Namespace) -> int:
    """Pack or check; raises ConfigError and DataError."""
    if args.check is not None:
        if args.source is not None or args.out is not None:
            raise ConfigError("--check: takes neither a source nor --out")
        return _check(args.check)
    if args.source is None or args.out is None:
        raise ConfigError("give the folder of the data set and --out, or --check DIR")
    if args.seed < 0:
        raise ConfigError(f"--seed: {args.seed} is negative")
    return _pack(args)


def _pack(args: argparse.Namespace) -> int:
    from resdet.datasets.formats.labelled import LabelledSource, describe_labelled, labelled_splits
    from resdet.detection.files import only_run

    source = LabelledSource(
        args.source,
        args.layout,
        args.train,
        args.val,
        val_fraction=args.val_fraction,
        split_seed=args.seed,
    )
    splits = dict(zip(("train", "val"), labelled_splits(source), strict=True))
    for name, split in splits.items():
        print(f"{name}: {describe_labelled(split)}", flush=True)
    with only_run(args.out):
        for name, split in splits.items():
            _write(name, split, args)
    print(f"{args.out} is complete")
    return 0


def _write(name: str, split: DataSplit, args: argparse.Namespace) -> None:
    from resdet.datasets.shards.write import plan_shards, write_shards

    plan = plan_shards(split, max_bytes=args.size_mb * 2**20, seed=args.seed)
    with _progress(name, len(plan.shards)) as report:
        done = write_shards(plan, args.out / name, report=report)
    there = f", {done} of them there already" if done else ""
    print(f"{name}: {plan.count} images in {len(plan.shards)} shards{there}")


def _check(folder: Path) -> int:
    """Of one split, or of all in the folder."""
    from resdet.datasets.shards.index import INDEX, read_shards
    from resdet.datasets.shards.write import verify_shards

    indices = [folder / INDEX] if (folder / INDEX).exists() else sorted(folder.glob(f"*/{INDEX}"))
    if not indices:
        raise ConfigError(f"--check: no {INDEX} in {folder} or in the folders in it")
    for index in indices:
        shards = read_shards(index.parent)
        with _progress(index.parent.name, len(shards.shards)) as report:
            for shard in verify_shards(index.parent, shards.shards):
                report(shard)
        print(f"{index.parent}: {len(shards)} images in {len(shards.shards)} shards are whole")
    return 0


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[Shard], None]]:
    """A bar on a terminal's stderr, elsewhere a line for each shard."""
    from rich.console import Console
    from rich.progress import Progress

    shown = sys.stderr.isatty()
    with Progress(console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(name, total=total)

        def report(shard: Shard) -> None:
            progress.advance(task)
            if not shown:
                print(f"{name}: {shard.name}, {len(shard)} images", file=sys.stderr, flush=True)

        yield report


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("write-shards"))
