"""CIFAR-10 as class folders of PNG files, from its binary version.

A file ``*_batch*.bin`` is a sequence of records: one byte for the label, then the red, green and
blue values of 32 x 32 pixels, row by row.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ...detection.errors import DataError

SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE
#: {split: its files}; ``val`` has the 10,000 test images.
BATCHES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "val": ("test_batch.bin",),
}
NAMES = "batches.meta.txt"


def write_class_folders(
    batches: Path, out: Path, *, progress: Callable[[str, int, int], None] = lambda *_: None
) -> None:
    """Write ``out/<split>/<class>/<number>.png`` from the files in the folder ``batches``;
    ``progress(what, done, total)`` is in bytes of these.

    A split that is there already is kept; one appears only when it is complete. Raises DataError
    for a file that is missing or has another content, and where ``out`` cannot be written.
    """
    names = _class_names(batches / NAMES)
    for split, files in BATCHES.items():
        folder, part = out / split, out / f".{split}.part"
        if folder.is_dir():
            continue
        try:
            shutil.rmtree(part, ignore_errors=True)
            for name in names:
                (part / name).mkdir(parents=True)
            sizes = [(batches / file).stat().st_size for file in files]
            first = done = 0
            for file, size in zip(files, sizes, strict=True):
                first += _write(batches / file, part, names, first)
                done += size
                progress(f"images of {split}", done, sum(sizes))
            part.replace(folder)
        except OSError as error:
            place = error.filename or folder
            raise DataError(f"{place}: cannot be read or written: {error.strerror}") from error


def _class_names(path: Path) -> list[str]:
    try:
        names = path.read_text("utf-8").split()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not names or len(set(names)) != len(names) or any("/" in name for name in names):
        raise DataError(f"{path}: does not list class names")
    return names


def _write(path: Path, out: Path, names: list[str], first: int) -> int:
    """Write the images of a file, numbered from ``first``; returns their number."""
    data = np.fromfile(path, dtype=np.uint8)
    if not len(data) or len(data) % RECORD:
        raise DataError(f"{path}: {len(data)} bytes, expected records of {RECORD} bytes")
    records = data.reshape(-1, RECORD)
    if (worst := int(records[:, 0].max())) >= len(names):
        raise DataError(f"{path}: label {worst}, but there are {len(names)} classes")
    pixels = records[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    for number, (label, image) in enumerate(zip(records[:, 0], pixels, strict=True), first):
        done, encoded = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
        if not done:
            raise DataError(f"{path}: image {number} could not be encoded as PNG")
        (out / names[label] / f"{number:05d}.png").write_bytes(encoded.tobytes())
    return len(records)
