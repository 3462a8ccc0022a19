"""Speed of the image checks of ``check-data`` compared with decoding alone.

    python benchmarks/check_data.py [--images 10000] [--workers 2] [--repeats 3] [--json out.json]

The images are generated JPEGs of 640 x 480 with gradients, discs and noise; their file size is that
of photographs. Decoding alone is `read_image` in a pool of as many processes. Both include the
start of their processes and run in turns; ratios are computed within each turn. A second check is
measured as well, which finds all images in the cache.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from measuring import describe_machine, make_parser, ratios, spread, timed, write_json
from resdet.datasets.checks.images import check_images
from resdet.datasets.image import ImageRules, read_image

HEIGHT, WIDTH = 480, 640


def main() -> None:
    args = make_parser(__doc__, images=2000, workers=2, repeats=3).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_json(measure(args, Path(folder)), args)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    print(json.dumps(describe_machine(), indent=1))
    paths = [folder / f"{number:06d}.jpg" for number in range(args.images)]
    with _pool(args.workers) as pool:
        sizes = pool.map(draw, paths, chunksize=64)
    print(f"{len(paths)} images of {WIDTH} x {HEIGHT}, {sum(sizes) / len(sizes) / 1e3:.0f} kB each")
    rates: dict[str, list[float]] = {"decoded": [], "checked": [], "again": []}
    for turn in range(args.repeats):
        checks = partial(check, paths, args.workers, folder / f"cache{turn}.jsonl")
        for name, call in zip(
            rates, (partial(decode, paths, args.workers), checks, checks), strict=True
        ):
            rates[name].append(len(paths) / timed(call))
    rates["ratio"] = ratios(rates["checked"], rates["decoded"])
    print("images per second, and the ratio checked / decoded")
    for name, values in rates.items():
        each = spread(values)
        print(f"  {name:8s} median {each['median']:.3g}  {each['min']:.3g} to {each['max']:.3g}")
    return {"images_per_second": rates}


def draw(path: Path) -> int:
    """Write one image, different for each name, and return its size in bytes."""
    rng = np.random.default_rng(int(path.stem))
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    for _ in range(8):
        centre = int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        cv2.circle(pixels, centre, int(rng.integers(10, 90)), colour, -1)
    noise = cv2.randn(np.zeros((HEIGHT, WIDTH, 3), np.int16), (0, 0, 0), (9, 9, 9))
    data = cv2.imencode(".jpg", np.clip(pixels + noise, 0, 255).astype(np.uint8))[1].tobytes()
    path.write_bytes(data)
    return len(data)


def decode(paths: Sequence[Path], workers: int) -> None:
    with _pool(workers) as pool:
        for _ in pool.imap_unordered(decode_one, paths, chunksize=16):
            pass


def decode_one(path: Path) -> None:
    read_image(path)


def check(paths: Sequence[Path], workers: int, cache: Path) -> None:
    facts = check_images(
        paths, ImageRules(), workers=workers, cache=cache, progress=lambda done, total: None
    )
    faulty = [each.path for each in facts if each.findings or each.size != (HEIGHT, WIDTH)]
    if faulty:
        raise SystemExit(f"unexpected findings: {faulty[:5]}")


def _pool(workers: int) -> multiprocessing.pool.Pool:
    context = multiprocessing.get_context("forkserver")
    return context.Pool(workers, cv2.setNumThreads, (1,))


if __name__ == "__main__":
    main()
