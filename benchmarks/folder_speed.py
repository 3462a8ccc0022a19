"""Images per second of a folder on a CPU: `resdet infer`, a loop around torchvision's, ultralytics.

    python benchmarks/folder_speed.py [--images 6] [--ultralytics PYTHON] [--copies 50]

R101-C4 at 600 px with 300 proposals, random weights; torchvision's detector has the same ones and
runs in a plain loop, image by image, as a new process gives and takes memory
(`folder_speed_torchvision.py`). ultralytics' YOLOv8n at 640 px is another, smaller network: its
row is the way of running a folder, not the same work (`folder_speed_ultralytics.py`, AGPL: in an
environment of its own, whose Python is ``--ultralytics``). Every side decodes the same JPEGs in
full and writes its results as JSON. Each command runs on as many images and on three times as many;
images per second are those of the difference, which leaves out its start. ultralytics' folders have
``--copies`` links to each image, as its network is that much faster.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import torch
from measuring import describe_machine, make_parser, spread, write_json
from resdet.datasets.acquire.synthetic import make_scenes
from resdet.detection.engine.checkpoint import save_checkpoint
from sides import make_config, make_model

HERE = Path(__file__).resolve().parent


def main() -> None:
    args = parse_arguments()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_folders(folder, args)
        write_weights(folder / "best.pt", args)
        rates: dict[str, list[float]] = {}
        for turn in range(args.repeats):
            for side, copies, words in commands(folder, args):
                few, many = (
                    seconds(
                        [*words, folder / part, "--out", folder / f"{side}_{part}_{turn}"], args
                    )
                    for part in (f"few_{copies}", f"many_{copies}")
                )
                rates.setdefault(side, []).append(2 * args.images * copies / (many - few))
    report = {side: spread(values) for side, values in rates.items()}
    for side, values in report.items():
        print(
            f"{side:14s} {values['median']:.3f} images/s "
            f"({values['min']:.3f} to {values['max']:.3f})"
        )
    write_json({"images_per_second": report}, args)


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        images=6,
        size=(600, 1000),
        depth=101,
        classes=20,
        proposals=300,
        rois=128,
        threads=os.cpu_count(),
        repeats=3,
    )
    parser.add_argument("--ultralytics", type=Path, metavar="PYTHON")
    parser.add_argument("--copies", type=int, default=50, help="of each image, for ultralytics")
    return parser.parse_args()


def make_folders(folder: Path, args: argparse.Namespace) -> None:
    """Folders ``few_N`` and ``many_N`` with N links to each image; many are three times as many."""
    height, width = args.size
    make_scenes(folder / "scenes", train=3 * args.images, val=1, size=(height, width))
    images = sorted((folder / "scenes" / "JPEGImages").glob("train_*.jpg"))
    for copies in {1, args.copies}:
        for part, count in (("few", args.images), ("many", 3 * args.images)):
            (folder / f"{part}_{copies}").mkdir()
            for image, copy in product(images[:count], range(copies)):
                (folder / f"{part}_{copies}" / f"{copy}_{image.name}").hardlink_to(image)


@torch.no_grad()
def write_weights(path: Path, args: argparse.Namespace) -> None:
    """The detector of the other benchmarks, at the size of the images."""
    height, width = args.size
    values = make_config(args).model_dump(mode="json")
    values["image"] |= {"short_side_test": height, "long_side_max": width}
    names = [f"class {number}" for number in range(args.classes)]
    model = make_model(make_config(args), args.classes).state_dict()
    save_checkpoint(path, {"config": values, "classes": names, "model": model, "step": 0})


def commands(folder: Path, args: argparse.Namespace) -> Iterator[tuple[str, int, list[object]]]:
    """Name, links to each image and words of each side; the folder and ``--out`` follow."""
    weights = ("--weights", folder / "best.pt")
    ours = [sys.executable, "-m", "resdet.tools.cli", "infer", *weights]
    ours += ["--no-draw", "--conf", 0.05, "--device", "cpu"]
    yield "resdet infer", 1, ours
    yield "torchvision", 1, [sys.executable, HERE / "folder_speed_torchvision.py", *weights]
    if args.ultralytics:
        yield "ultralytics", args.copies, [args.ultralytics, HERE / "folder_speed_ultralytics.py"]


def seconds(words: Sequence[object], args: argparse.Namespace) -> float:
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    start = time.perf_counter()
    done = subprocess.run(  # noqa: S603  the commands above
        [str(word) for word in words], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
