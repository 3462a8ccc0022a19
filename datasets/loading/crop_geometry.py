"""The geometry of crops: mapping of boxes between image and crop, and cutting of pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from ...detection.ops.boxes import area, clip
from ...detection.structures import Annotation, Geometry
from .resampling import RESAMPLINGS
from .transforms import interpolation

#: Boxes are drawn at most this often, as in the published Inception and torchvision code.
_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class CropGeometry(Geometry):
    """The image is scaled, then the part of ``size`` (h, w) at ``offset`` (y, x), in scaled pixels,
    is cut out and flipped.

    The part may extend beyond the image: offsets may be negative. Boxes are mapped in float64:
    offsets of strongly enlarged boxes are large, and their subtraction would lose digits of
    float32.
    """

    offset: tuple[float, float]
    size: tuple[int, int]

    @staticmethod
    def whole(original: tuple[int, int], size: tuple[int, int]) -> CropGeometry:
        """The whole image, resized to ``size`` (h, w)."""
        scale = (size[0] / original[0], size[1] / original[1])
        return CropGeometry(original, scale, offset=(0.0, 0.0), size=size)

    @staticmethod
    def at_short_side(
        original: tuple[int, int], short_side: int, resampling: str = "opencv"
    ) -> CropGeometry:
        """The whole image, its shorter side resized to ``short_side``."""
        return CropGeometry.whole(original, RESAMPLINGS[resampling].size(original, short_side))

    def apply(self, boxes: Tensor) -> Tensor:
        """Original pixels (..., 4) to pixels of the crop, without clipping."""
        moved = boxes.double() * _twice(self.scale, boxes) - _twice(self.offset, boxes)
        # Rounded before the flip: a side on the crop's edge becomes exactly 0, not a tiny number.
        moved = moved.to(boxes.dtype)
        return self._flip(moved, self.size[1]) if self.flipped else moved

    def invert(self, boxes: Tensor) -> Tensor:
        """Pixels of the crop (..., 4) to original pixels."""
        moved = boxes.double()
        moved = self._flip(moved, self.size[1]) if self.flipped else moved
        return ((moved + _twice(self.offset, boxes)) / _twice(self.scale, boxes)).to(boxes.dtype)


def _twice(pair: tuple[float, float], boxes: Tensor) -> Tensor:
    y, x = pair
    return boxes.new_tensor([x, y, x, y], dtype=torch.float64)


def crop_annotation(
    annotation: Annotation, geometry: CropGeometry, *, least_visible: float
) -> Annotation:
    """The objects of an image in the pixels of a crop, with boxes clipped to it.

    An object of which less than ``least_visible`` of its area is in the crop is marked ``ignore``:
    its clipped box ends where the crop does, which does not tell where the object ends, and the
    visible part is not background either. One that is entirely outside is left out.
    """
    moved = geometry.apply(annotation.boxes)
    clipped = clip(moved, geometry.size)
    shown = area(clipped)
    hidden = shown / area(moved) < least_visible
    return Annotation(clipped, annotation.labels, annotation.ignore | hidden)[shown > 0]


def random_part(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    random: np.random.Generator,
) -> tuple[int, int, int, int]:
    """(y, x, h, w) of a part of an image of ``size`` (h, w), for `ResizedCrop`.

    Where no part that fits is drawn (very long images), the largest in the middle whose
    width / height is as near to ``ratio`` as the image's shape allows.
    """
    height, width = size
    for _ in range(_TRIES):
        area = height * width * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            y = int(random.integers(height - h, endpoint=True))
            x = int(random.integers(width - w, endpoint=True))
            return y, x, h, w
    aspect = min(max(width / height, ratio[0]), ratio[1])
    h = max(1, min(height, round(width / aspect)))
    w = max(1, min(width, round(height * aspect)))
    return (height - h) // 2, (width - w) // 2, h, w


# ------------------------------------------------------------------------------------- pixels


def scale_then_crop(
    pixels: np.ndarray, geometry: CropGeometry, resampling: str = "opencv"
) -> np.ndarray:
    """The crop of ``pixels`` (h, w, 3) uint8; the offset is whole and inside the image."""
    height, width = (
        round(n * scale) for n, scale in zip(geometry.original, geometry.scale, strict=True)
    )
    if (height, width) != geometry.original:
        pixels = RESAMPLINGS[resampling].resize(pixels, (height, width))
    y, x = map(int, geometry.offset)
    return flip(pixels[y : y + geometry.size[0], x : x + geometry.size[1]], geometry.flipped)


def crop_then_scale(pixels: np.ndarray, geometry: CropGeometry) -> np.ndarray:
    """As `scale_then_crop`, but scales the crop only; its corners are whole original pixels."""
    y, x, height, width = (
        round(value / scale)
        for pair in (geometry.offset, geometry.size)
        for value, scale in zip(pair, geometry.scale, strict=True)
    )
    part = flip(pixels[y : y + height, x : x + width], geometry.flipped)
    method = interpolation(geometry.scale)
    return cv2.resize(np.ascontiguousarray(part), geometry.size[::-1], interpolation=method)


def flip(pixels: np.ndarray, flipped: bool) -> np.ndarray:
    return cv2.flip(pixels, 1) if flipped else pixels
