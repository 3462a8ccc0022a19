"""The EXIF orientation of an image: what is stated, what remains to be done, and turning pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TAG = 0x0112
#: EXIF 1..8: transpose, then flip up-down, then flip left-right.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_INVERSE = {6: 8, 8: 6}


@dataclass(frozen=True)
class Orientation:
    """``value`` 1..8 is the orientation of the stored pixels, ``pending`` the one that remains to
    be applied to the decoded ones. ``ignored`` says why a stated orientation is taken as 1."""

    value: int
    pending: int
    ignored: str = ""

    @property
    def swaps_sides(self) -> bool:
        """Whether what remains turns the image by 90 degrees."""
        return _TURNS[self.pending][0]


def read_orientation(image: Image.Image, *, apply: bool) -> Orientation:
    """The EXIF (or XMP) orientation; with ``apply`` the pixels are to be turned upright.

    Only the whole numbers 1 to 8 count. Others, text, fractions, lists, and what cannot be read are
    taken as 1. It never raises.
    """
    stated, ignored = _stated(image)
    value = 1
    if isinstance(stated, int) and not isinstance(stated, bool) and stated in _TURNS:
        value = stated
    elif not ignored:
        ignored = f"EXIF orientation {stated!r:.40} is none of 1 to 8: ignored"
    wanted, done = value if apply else 1, _turned_by_decoder(image, stated)
    if wanted == done:
        return Orientation(value, 1, ignored)
    return Orientation(value, wanted if done == 1 else _INVERSE.get(done, done), ignored)


def turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """``pixels`` (h, w, 3), stored with an orientation 1..8, as they are displayed."""
    transpose, up_down, left_right = _TURNS[orientation]
    if transpose:
        pixels = pixels.swapaxes(0, 1)
    if up_down:
        pixels = pixels[::-1]
    if left_right:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _stated(image: Image.Image) -> tuple[Any, str]:
    """The value of the tag, 1 without one; and why it cannot be read.

    The base class's method reads metadata in front of the pixels only; PNG's own would decode the
    image to look behind them.
    """
    try:
        return Image.Image.getexif(image).get(_TAG, 1), ""
    except Exception as error:  # damaged EXIF raises almost anything, and the pixels are still good
        return 1, f"EXIF cannot be read ({type(error).__name__}): its orientation is ignored"


def _turned_by_decoder(image: Image.Image, stated: Any) -> int:
    """The orientation that decoding applies: Pillow rotates TIFF, whose ``size`` is that of the
    result, by any value that equals a whole number."""
    if image.format != "TIFF":
        return 1
    return next((number for number in _TURNS if number == stated), 1)
