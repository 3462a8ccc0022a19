"""Pillow's images of any mode as RGB of 8 bits, a strip of rows at a time.

Pillow keeps four bytes for a pixel and copies an image in most conversions; of a strip that is
little memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
#: Pixels of a strip.
_STRIP = 2**20


def flattened(image: Image.Image, background: tuple[int, int, int]) -> Pixels:
    """Any mode of 8 bits to (h, w, 3) RGB, transparent pixels on ``background``. Raises ValueError
    for floating-point pixels."""
    if image.mode == "F":
        raise ValueError("unsupported: floating-point pixels")
    if not image.has_transparency_data:
        return _in_strips(image, lambda strip: np.asarray(strip.convert("RGB")))
    return _in_strips(image, lambda strip: _blended(strip.convert("RGBA"), background))


def blended(rgba: Pixels, background: tuple[int, int, int]) -> Pixels:
    """``rgba`` (h, w, 4) on ``background`` as (h, w, 3), by the arithmetic of Pillow."""
    pixels = np.empty((*rgba.shape[:2], 3), np.uint8)
    rows = _rows(rgba.shape[1])
    for top in range(0, len(rgba), rows):
        strip = Image.fromarray(rgba[top : top + rows])
        pixels[top : top + rows] = _blended(strip, background)
    return pixels


def from_grey(image: Image.Image, top: int) -> Pixels:
    """Grey values 0..``top`` to (h, w, 3) uint8, rounded. Raises ValueError for other values."""

    def scaled(strip: Image.Image) -> Pixels:
        values = np.asarray(strip)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > top:
            raise ValueError(f"unsupported: grey values {low}..{high} exceed 16 bits")
        grey = (values.astype(np.uint32) * 255 + top // 2) // top
        return grey.astype(np.uint8)[:, :, None]

    return _in_strips(image, scaled)


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Pixels]) -> Pixels:
    """(h, w, 3) of what ``convert`` makes of each strip, which may have one channel."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = _rows(width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = convert(image.crop((0, top, width, bottom)))
    return pixels


def _rows(width: int) -> int:
    return max(1, _STRIP // width)


def _blended(strip: Image.Image, background: tuple[int, int, int]) -> Pixels:
    canvas = Image.new("RGBA", strip.size, (*background, 255))
    canvas.alpha_composite(strip)
    return np.asarray(canvas.convert("RGB"))
