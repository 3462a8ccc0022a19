"""What is an image on its way into another annotation format, and what are its numbers?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..records import RawBox, RawObject

#: What is written of a pixel coordinate. Float32, which detectors train on, is coarser than 1e-6
#: from 16 pixels on, and the error of arithmetic is below it: 0.1 + 0.7 is written as 0.8.
PIXEL_DECIMALS = 6


@dataclass(frozen=True)
class Outgoing:
    """One image: the file ``source`` will stand at ``name`` below the folder of its split.

    ``size`` is (h, w) as displayed; the objects are what the new format can hold.
    """

    source: Path
    name: PurePosixPath
    size: tuple[int, int]
    objects: tuple[RawObject, ...]


#: Images by split.
Splits = Mapping[str, Sequence[Outgoing]]
#: Puts an image (first) where it belongs in the new data set (second).
Place = Callable[[Path, Path], None]
#: An object as a format holds it, None if it cannot, and in words what is lost ("" for nothing).
Fit = tuple[RawObject | None, str]


def fit_box(obj: RawObject) -> Fit:
    """The object if its box has finite corners and a width and height, as every format demands."""
    if not all(math.isfinite(corner) for corner in obj.box):
        return None, "objects without a finite box are left out"
    width, height = extent(obj.box)
    if not (math.isfinite(width) and math.isfinite(height)):
        return None, "objects without a finite box are left out"
    if width <= 0 or height <= 0:
        return None, "objects whose box is empty or has swapped corners are left out"
    return obj, ""


def extent(box: RawBox) -> tuple[float, float]:
    """Width and height of a box with rounded corners."""
    x1, y1, x2, y2 = (rounded(corner) for corner in box)
    return rounded(x2 - x1), rounded(y2 - y1)


def rounded(pixels: float) -> float:
    return round(pixels, PIXEL_DECIMALS) + 0.0  # -0.0 becomes 0.0


def number(value: float, decimals: int = PIXEL_DECIMALS) -> str:
    """Decimals without an exponent and without trailing zeros."""
    text = f"{round(value, decimals) + 0.0:.{decimals}f}"
    return text.rstrip("0").rstrip(".")


def write_new(path: Path, text: str) -> None:
    """A text file where none was; folders are made. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)
