"""Which command brings PASCAL VOC, COCO or drawn scenes onto this disk?

resdet get-data voc2007 --out data
resdet get-data synthetic --out data --train 1000 --val 200
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.datasets.acquire.download import Progress

HELP = "download VOC or COCO, or draw a synthetic data set"

DOWNLOADS = ("voc2007", "voc2012", "coco2017")
#: Options of the synthetic set and what they are when not given.
SCENES = {"train": 1000, "val": 200, "seed": 0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=(*DOWNLOADS, "synthetic"))
    parser.add_argument("--out", type=Path, default=Path("data"), help="folder of all data sets")
    parser.add_argument(
        "--delete-archives", action="store_true", help="delete each archive once it is unpacked"
    )
    for name, default in SCENES.items():
        what = "seed" if name == "seed" else f"number of {name} images"
        parser.add_argument(f"--{name}", type=int, help=f"synthetic: {what} (default {default})")


def run(args: argparse.Namespace) -> int:
    """Download or draw ``args.dataset`` below ``args.out``; raises DataError and ConfigError."""
    scenes = {name: getattr(args, name) for name in SCENES if getattr(args, name) is not None}
    if args.dataset == "synthetic":
        if args.delete_archives:
            raise ConfigError("--delete-archives: synthetic has no archives")
        _draw(args.out, scenes)
    else:
        if scenes:
            raise ConfigError(f"--{next(iter(scenes))}: only for synthetic, not {args.dataset}")
        _download(args.dataset, args.out, delete_archives=args.delete_archives)
    print(f"{args.dataset} is complete; use it with data.root={args.out}")
    return 0


def _draw(out: Path, scenes: dict[str, int]) -> None:
    from resdet.datasets.acquire.synthetic import make_scenes

    chosen = SCENES | scenes
    make_scenes(out / "synthetic", train=chosen["train"], val=chosen["val"], seed=chosen["seed"])


def _download(dataset: str, out: Path, *, delete_archives: bool) -> None:
    from resdet.datasets.acquire.download import DATASETS, install

    with _progress_bars() as progress:
        for archive in DATASETS[dataset]:
            install(archive, out, progress=progress)
            if delete_archives:
                (out / "archives" / archive.name).unlink(missing_ok=True)


@contextmanager
def _progress_bars() -> Iterator[Progress]:
    """A bar on stderr for each thing being done, so that stdout stays the result."""
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    tasks: dict[str, bars.TaskID] = {}
    with bars.Progress(*columns, console=Console(stderr=True)) as shown:

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=total)
            shown.update(tasks[what], completed=done)

        yield report


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("get-data"))
