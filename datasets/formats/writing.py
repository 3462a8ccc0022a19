"""What all writers of formats share: images to write, boxes that fit, numbers, new files."""

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
    """One image to write: the file ``source`` goes to ``name`` below the folder of its split.

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


@dataclass(frozen=True)
class Writer:
    """How a data set is written.

    ``fit(object, (h, w))`` is the object as the format holds it; ``write(folder, splits, classes,
    place)`` makes annotations and places images. The other fields say what images may be called
    and what changes silently.
    """

    fit: Callable[[RawObject, tuple[int, int]], Fit]
    write: Callable[[Path, Splits, Sequence[str], Place], None]
    #: All images of all splits are in one folder without subfolders.
    flat: bool = False
    #: An image and its annotation share their name without suffix.
    pairs_by_stem: bool = True
    #: The images of a split are found by their suffix.
    known_suffixes: bool = False
    keeps_class_list: bool = True
    #: What becomes of ignored objects, where that differs from the source.
    ignored: str = ""


def fit_box(obj: RawObject, size: tuple[int, int] = (0, 0)) -> Fit:
    """The object if its box has finite corners and a width and height, as every format demands."""
    width, height = extent(obj.box) if all(map(math.isfinite, obj.box)) else (math.nan, math.nan)
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
