"""The ways to resize a whole image to a shorter side: that of this toolkit, and torchvision's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from .transforms import interpolation, resized_size


@dataclass(frozen=True)
class Resampling:
    """``size`` is the new (h, w) of an image of a given (h, w) for a shorter side; ``resize`` are
    the pixels (h, w, 3) uint8 at a new (h, w); ``words`` say how, for other programs."""

    size: Callable[[tuple[int, int], int], tuple[int, int]]
    resize: Callable[[np.ndarray, tuple[int, int]], np.ndarray]
    words: str


def _rounded(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    return resized_size(size, short_side, long_side_max=2**31)


def _cut_off(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    height, width = size
    long_side = int(short_side * max(size) / min(size))
    return (long_side, short_side) if width <= height else (short_side, long_side)


def _with_opencv(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    scale = (size[0] / pixels.shape[0], size[1] / pixels.shape[1])
    return cv2.resize(pixels, size[::-1], interpolation=interpolation(scale))


def _with_pillow(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    resized = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(resized.resize(size[::-1], Image.Resampling.BILINEAR))


#: The values of ``test.resampling``.
RESAMPLINGS: Mapping[str, Resampling] = {
    "opencv": Resampling(
        _rounded,
        _with_opencv,
        "factor = short_side / min(h, w). New sides: max(1, floor(side * factor + 0.5)). OpenCV's "
        "INTER_LINEAR on uint8, or INTER_AREA where new / old of a side is below 0.5",
    ),
    "pillow": Resampling(
        _cut_off,
        _with_pillow,
        "New sides: short_side, and floor(short_side * long / short). Pillow's BILINEAR on uint8, "
        "whose filter widens where an image shrinks",
    ),
}
