"""Download PASCAL VOC, COCO or CIFAR-10, or generate a synthetic data set.

resdet get-data voc2007 --out data
resdet get-data synthetic --out data --train 1000 --val 200
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from resdet.detection.errors import ConfigError
from resdet.detection.printing import progress_of, say, say_next
from resdet.tools.progress import download_progress

HELP = "download VOC, COCO or CIFAR-10, or generate a synthetic data set"

DOWNLOADS = ("voc2007", "voc2012", "coco2017", "cifar10")
#: Options of the synthetic data set and their defaults.
SCENES = {"train": 1000, "val": 200, "seed": 0}
#: Fewer scenes are drawn by one process.
FEW_SCENES = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=(*DOWNLOADS, "synthetic"))
    parser.add_argument(
        "--out", type=Path, default=Path("data"), help="parent folder of all data sets"
    )
    parser.add_argument(
        "--delete-archives", action="store_true", help="delete each archive after unpacking"
    )
    for name, default in SCENES.items():
        what = "seed" if name == "seed" else f"number of {name} images"
        parser.add_argument(f"--{name}", type=int, help=f"synthetic: {what} (default: {default})")


def run(args: argparse.Namespace) -> int:
    """Put ``args.dataset`` into ``args.out``; raises DataError and ConfigError."""
    scenes = {name: getattr(args, name) for name in SCENES if getattr(args, name) is not None}
    if args.dataset == "synthetic":
        if args.delete_archives:
            raise ConfigError("--delete-archives: the synthetic data set has no archives")
        folder = _draw(args.out, scenes)
    else:
        if scenes:
            raise ConfigError(f"--{next(iter(scenes))}: only for synthetic, not {args.dataset}")
        folder = _download(args.dataset, args.out, delete_archives=args.delete_archives)
    say(f"{args.dataset} is complete; use it with data.root={args.out}")
    say_next("resdet", "check-data", folder)
    return 0


def _draw(out: Path, scenes: dict[str, int]) -> Path:
    from resdet.datasets.acquire.synthetic import make_scenes

    chosen = SCENES | scenes
    # A few are drawn before processes have started.
    workers = os.cpu_count() or 1 if chosen["train"] + chosen["val"] >= FEW_SCENES else 0
    with progress_of("drawing", "scenes") as progress:
        make_scenes(
            out / "synthetic",
            train=chosen["train"],
            val=chosen["val"],
            seed=chosen["seed"],
            workers=workers,
            progress=progress,
        )
    return out / "synthetic"


def _download(dataset: str, out: Path, *, delete_archives: bool) -> Path:
    from resdet.datasets.acquire.cifar import write_class_folders
    from resdet.datasets.acquire.download import DATASETS, install

    with download_progress() as progress:
        for archive in DATASETS[dataset]:
            install(archive, out, progress=progress)
            if dataset == "cifar10":
                write_class_folders(out / archive.folder, out / dataset, progress=progress)
            if delete_archives:
                (out / "archives" / archive.name).unlink(missing_ok=True)
    folder = out / archive.folder  # of any archive: those of COCO have one above
    return {"cifar10": out / dataset, "coco2017": folder.parent}.get(dataset, folder)


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("get-data"))
