"""Types and functions that the writers of all formats share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..records import RawBox, RawObject

#: Decimals of pixel coordinates. Float32, which detectors train on, is coarser than 1e-6 from 16
#: pixels on; rounding removes the errors of arithmetic, so that 0.1 + 0.7 is written as 0.8.
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
#: ``place(source, target)`` copies or links an image into the new data set.
Place = Callable[[Path, Path], None]
#: (object as the format stores it, or None; what is lost, in words, or "").
Fit = tuple[RawObject | None, str]
#: The loss of a box that training clips as rounded too: it is noted, and is none.
ROUNDED = "boxes that leave the image by rounding are clipped"


@dataclass(frozen=True)
class Writer:
    """The writer of a format.

    ``fit(object, (h, w))`` returns the object as the format stores it; ``write(folder, splits,
    classes, place)`` writes the annotations and places the images. The other fields describe
    constraints on image names and changes that are not errors.
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
    #: Note on ignored objects if their meaning changes.
    ignored: str = ""


def fit_box(obj: RawObject, size: tuple[int, int] = (0, 0)) -> Fit:
    """The object if its box has finite corners, width and height, as every format requires."""
    width, height = extent(obj.box) if all(map(math.isfinite, obj.box)) else (math.nan, math.nan)
    if not (math.isfinite(width) and math.isfinite(height)):
        return None, "objects without a finite box are left out"
    if width <= 0 or height <= 0:
        return None, "objects whose box is empty or has swapped corners are left out"
    return obj, ""


def fit_known_box(obj: RawObject, size: tuple[int, int] = (0, 0)) -> Fit:
    """`fit_box` for formats without ignored objects."""
    if obj.ignore:
        return None, "difficult and crowd objects are left out"
    return fit_box(obj)


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
    """Write a new text file and its folder. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)
