"""Peak memory of images just below ``data.max_pixels``: decoding each, and ``infer`` over all.

    python benchmarks/image_memory.py [--side 9459] [--json out.json]

The script writes images of SIDE x SIDE pixels in every accepted format that is compressed. Each is
read in a process of its own, whose resident memory is compared before and after. The infer command
then processes all of them, and one small image for comparison, with default settings and a tiny
detector of random weights.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from folder import write_weights
from measuring import make_parser, write_json
from PIL import Image
from resdet.datasets.image import read_image, read_size

MB = 2**20


def main() -> None:
    parser = make_parser(__doc__, side=9459)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", args.side)
        decoding = {}
        for path in sorted(folder.glob("images/*")):
            decoding[path.name] = peak = decoding_peak(path)
            height, width = read_size(path)
            print(f"{path.name}: {peak / MB:.0f} MB, {peak / (height * width):.1f} bytes a pixel")
        write_weights(folder / "w.pt")
        write_images(folder / "small", 500, only="rgb.jpg")
        infer = {part: infer_peak(folder, part) for part in ("small", "images")}
        print(f"infer: one small image {infer['small'] / MB:.0f} MB")
        print(f"infer: these {len(decoding)} images {infer['images'] / MB:.0f} MB")
        write_json({"decoding": decoding, "infer": infer}, args)


def write_images(folder: Path, side: int, only: str | None = None) -> None:
    """Images of one colour, whose files are small."""
    folder.mkdir()
    writers: dict[str, Callable[[Path], None]] = {
        "rgb.jpg": lambda path: _new("RGB", side).save(path),
        "progressive.jpg": lambda path: _new("RGB", side).save(
            path, progressive=True, subsampling=0
        ),
        "cmyk.jpg": lambda path: _new("CMYK", side).save(path),
        "rgb.tif": lambda path: _new("RGB", side).save(path, compression="tiff_lzw"),
        "rgb.jp2": lambda path: _new("RGB", int(side / 2**0.5)).save(path),  # counts twice
        "rgba.png": lambda path: _new("RGBA", side).save(path, compress_level=1),
        "deep.png": lambda path: Image.fromarray(np.full((side, side), 30_000, np.uint16)).save(
            path, compress_level=1
        ),
        "rgb.webp": lambda path: _new("RGB", side).save(path, method=0),
        "rgba.webp": lambda path: _new("RGBA", side).save(path, method=0),
        "rgb.avif": lambda path: _new("RGB", side).save(path, speed=10),
    }
    for name, write in writers.items():
        if only in (None, name):
            write(folder / name)


def _new(mode: str, side: int) -> Image.Image:
    return Image.new(mode, (side, side), (200, 100, 50, 128)[: len(mode)])


def _peak() -> int:
    """Bytes of resident memory at the peak (Linux counts in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def decoding_peak(path: Path) -> int:
    """Bytes that reading an image adds to a process."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_read, [path])


def _read(path: Path) -> int:
    before = _peak()
    read_image(path)
    return _peak() - before


def infer_peak(folder: Path, part: str) -> int:
    """Bytes of resident memory of ``infer`` at its peak."""
    command = [sys.executable, "-m", "resdet.tools.cli", "infer", "--device", "cpu"]
    command += ["--weights", str(folder / "w.pt"), str(folder / part)]
    peak, running = 0, subprocess.Popen([*command, "--out", str(folder / f"{part}-out")])  # noqa: S603  itself
    status = Path(f"/proc/{running.pid}/status")
    while running.poll() is None:
        if found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text()):
            peak = int(found[1]) * 1024
        time.sleep(0.05)
    if running.returncode:
        raise SystemExit(f"infer ended with status {running.returncode}")
    return peak


if __name__ == "__main__":
    main()
