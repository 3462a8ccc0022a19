"""Images of pages with boxes above them, within a budget of bytes.

The boxes are vector graphics and their labels text of the page, in the colours of the drawings.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..drawing import class_colour
from ..errors import ImageError
from ..printing import printable
from .rendering import jpeg_data_uri

#: Returns the pixels (h, w, 3) RGB of a file; raises ImageError.
Reader = Callable[[Path], NDArray[np.uint8]]

#: Bytes of all images of a page.
BUDGET = 10_000_000
#: The largest width and height of an image that is shown beside another one, in pixels of CSS.
_CASE = (640, 440)
#: Characters of a label in an image; the whole name is in its tooltip.
_LABEL = 24
#: A label is above its box unless the box starts this close to the upper edge, in pixels.
_HEADROOM = 16
#: The width of a letter of a label, in pixels.
_LETTER = 8


@dataclass(frozen=True)
class Mark:
    """A box in pixels of the image that is shown; ``style`` is a class of page.css."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    name: str = ""
    style: str = ""
    labelled: bool = True
    #: The base line of the label, if it is not above the box.
    base: float | None = None

    @property
    def label(self) -> str:
        if not self.labelled:
            return ""
        return self.name if len(self.name) <= _LABEL else f"{self.name[: _LABEL - 1]}…"

    @property
    def label_y(self) -> float:
        """The base line of the label."""
        if self.base is not None:
            return self.base
        return self.y - 4 if self.y >= _HEADROOM else self.y + 14


@dataclass(frozen=True)
class Shot:
    """An image of a page: ``uri`` is a JPEG data URI, or empty if it cannot be shown, and ``why``
    the reason; the sizes are in pixels."""

    caption: str
    uri: str = ""
    width: int = 0
    height: int = 0
    why: str = ""
    marks: tuple[Mark, ...] = ()

    @property
    def fitted(self) -> tuple[int, int]:
        """(width, height) at which a case is shown: as large as `_CASE` allows."""
        scale = min(_CASE[0] / max(1, self.width), _CASE[1] / max(1, self.height))
        return max(1, round(self.width * scale)), max(1, round(self.height * scale))

    @staticmethod
    def vector(caption: str, drawing: str, width: int, height: int) -> Shot:
        """An SVG file, which is shown as it is."""
        data = base64.b64encode(drawing.encode("utf-8")).decode("ascii")
        return Shot(caption, f"data:image/svg+xml;base64,{data}", width, height)

    @staticmethod
    def inline(caption: str, pixels: NDArray[np.uint8], *, max_side: int) -> Shot:
        """``pixels`` (h, w, 3) RGB, scaled down until no side is longer than ``max_side``."""
        image = Image.fromarray(pixels)
        image.thumbnail((max_side, max_side))
        uri = jpeg_data_uri(np.asarray(image))
        return Shot(caption, uri, image.width, image.height)


@dataclass
class ImageBudget:
    """Bytes of images that a page may still take."""

    left: int
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = self.left

    @property
    def spent(self) -> bool:
        return self.left <= 0

    @property
    def why(self) -> str:
        """The reason for an image that is left out."""
        return f"the page's {self.total / 1e6:.0f} MB for images are spent"

    def take(self, shot: Shot) -> Shot:
        self.left -= len(shot.uri)
        return shot


def read_shot(
    caption: str, path: Path, read: Reader, budget: ImageBudget, side: int
) -> tuple[Shot, float]:
    """The image, at most ``side`` pixels wide and high, or why there is none; and the factor from
    its pixels to those that are shown."""
    if budget.spent:
        return Shot(caption, why=budget.why), 1.0
    try:
        pixels = read(path)
    except ImageError as error:
        return Shot(caption, why=str(error)), 1.0
    shot = budget.take(Shot.inline(caption, pixels, max_side=side))
    return shot, shot.width / pixels.shape[1]


def scaled_box(box: Sequence[float], scale: float) -> list[float]:
    """A box in pixels of the image that is shown, for the script of a page."""
    return [round(side * scale, 1) for side in box]


def apart(marks: Iterable[Mark]) -> tuple[Mark, ...]:
    """The marks, with a label at or below the lower edge of its box where it would cover one
    before it."""
    placed: list[Mark] = []
    for mark in marks:
        taken = [
            other.label_y
            for other in placed
            if other.label
            and abs(mark.x - other.x) < _LETTER * max(len(mark.label), len(other.label))
        ]
        end = mark.y + mark.height
        free = (y for y in (mark.label_y, end - 5, end + _HEADROOM) if _far(y, taken))
        placed.append(replace(mark, base=next(free, None)))
    return tuple(placed)


def _far(y: float, taken: Sequence[float]) -> bool:
    return all(abs(y - other) >= _HEADROOM for other in taken)


def class_hex(label: int) -> str:
    """The colour of a class in all drawings, as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*class_colour(label))


def mark_of(
    box: Sequence[float], scale: float, size: tuple[int, int], *, colour: str, name: str = ""
) -> Mark | None:
    """The mark of a box in pixels of the file, on an image of ``size`` (h, w) that is scaled by
    ``scale``; cut a little beyond the image, and None for a box that is not finite."""
    if not all(map(math.isfinite, box)):
        return None
    height, width = size
    x1, x2 = sorted(min(max(x * scale, -4.0), width + 4.0) for x in (box[0], box[2]))
    y1, y2 = sorted(min(max(y * scale, -4.0), height + 4.0) for y in (box[1], box[3]))
    x, y, wide, high = (round(value, 1) for value in (x1, y1, x2 - x1, y2 - y1))
    return Mark(x, y, wide, high, colour, printable(name))
