"""How fast does the data doctor look at images, beside merely decoding them?

    python benchmarks/check_data.py [--images 10000] [--workers 2] [--repeats 3] [--json out.json]

The images are drawn: JPEGs of 640 x 480 with gradients, discs and noise, about as large in bytes
as photographs. Decoding is `read_image` in a pool of as many processes, which returns nothing. Both
include starting their processes; they run in turns, and a ratio is taken in each turn. Beside it:
a second look, which finds everything in the cache.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from resdet.datasets.checks.images import check_images
from resdet.datasets.image import ImageRules, read_image
from resdet.detection.environment import describe_environment

HEIGHT, WIDTH = 480, 640


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(args, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(report, default=str, indent=1) + "\n")


def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    machine = describe_environment()
    print(json.dumps(machine, indent=1))
    paths = [folder / f"{number:06d}.jpg" for number in range(args.images)]
    with _pool(args.workers) as pool:
        sizes = pool.map(draw, paths, chunksize=64)
    print(f"{len(paths)} images of {WIDTH} x {HEIGHT}, {sum(sizes) / len(sizes) / 1e3:.0f} kB each")
    rates: dict[str, list[float]] = {"decoded": [], "checked": [], "again": [], "ratio": []}
    for turn in range(args.repeats):
        cache = folder / f"cache{turn}.jsonl"
        check = partial(look, paths, args.workers, cache)
        rates["decoded"].append(rate(partial(decode, paths, args.workers), len(paths)))
        rates["checked"].append(rate(check, len(paths)))
        rates["again"].append(rate(check, len(paths)))
        rates["ratio"].append(rates["checked"][-1] / rates["decoded"][-1])
    print("images a second, and the ratio checked / decoded")
    for name, values in rates.items():
        low, high = min(values), max(values)
        print(f"  {name:8s} median {statistics.median(values):.3g}  {low:.3g} to {high:.3g}")
    return {"machine": machine, "settings": vars(args), "images_per_second": rates}


def draw(path: Path) -> int:
    """Writes one image, of its own for each name; its size in bytes."""
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


def rate(run: Callable[[], object], images: int) -> float:
    start = time.perf_counter()
    run()
    return images / (time.perf_counter() - start)


def decode(paths: Sequence[Path], workers: int) -> None:
    with _pool(workers) as pool:
        for _ in pool.imap_unordered(decode_one, paths, chunksize=16):
            pass


def decode_one(path: Path) -> None:
    read_image(path)


def look(paths: Sequence[Path], workers: int, cache: Path) -> None:
    facts = check_images(
        paths, ImageRules(), workers=workers, cache=cache, progress=lambda done, total: None
    )
    faulty = [each.path for each in facts if each.findings or each.size != (HEIGHT, WIDTH)]
    if faulty:
        raise SystemExit(f"false alarm: {faulty[:5]}")


def _pool(workers: int) -> multiprocessing.pool.Pool:
    context = multiprocessing.get_context("forkserver")
    return context.Pool(workers, cv2.setNumThreads, (1,))


if __name__ == "__main__":
    main()
