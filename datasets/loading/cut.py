"""How was a crop made from its image, and where are the image's objects in it?"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from ...detection.ops.boxes import area, clip
from ...detection.structures import Annotation
from .transforms import interpolation


@dataclass(frozen=True)
class Cut:
    """An image of ``original`` (h, w) is scaled by ``scale`` (sy, sx); of that, the part of
    ``size`` (h, w) from ``offset`` (y, x), in scaled pixels, is the crop; it is mirrored last.

    The part may reach over the image's edge: offsets may be negative.
    """

    original: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]
    size: tuple[int, int]
    flipped: bool = False

    @staticmethod
    def whole(original: tuple[int, int], size: tuple[int, int]) -> Cut:
        """The whole image, resized to ``size`` (h, w)."""
        scale = (size[0] / original[0], size[1] / original[1])
        return Cut(original, scale, (0.0, 0.0), size)

    def apply(self, boxes: Tensor) -> Tensor:
        """Original pixels (..., 4) to those of the crop, which the boxes may leave."""
        moved = boxes.double() * _twice(self.scale, boxes) - _twice(self.offset, boxes)
        # Rounded before it is mirrored: what ends at the crop's edge is 0 then, and no sliver.
        return self._mirrored(moved.to(boxes.dtype))

    def invert(self, boxes: Tensor) -> Tensor:
        """Pixels of the crop (..., 4) to original pixels."""
        moved = self._mirrored(boxes.double()) + _twice(self.offset, boxes)
        return (moved / _twice(self.scale, boxes)).to(boxes.dtype)

    def _mirrored(self, boxes: Tensor) -> Tensor:
        if not self.flipped:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(-1)
        width = self.size[1]
        return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def _twice(pair: tuple[float, float], boxes: Tensor) -> Tensor:
    # In double precision: offsets of strongly enlarged boxes are large, and what is left after
    # the subtraction is to be exact to the last digit of float32.
    y, x = pair
    return boxes.new_tensor([x, y, x, y], dtype=torch.float64)


def cut_annotation(annotation: Annotation, cut: Cut, *, least_visible: float) -> Annotation:
    """The objects of an image in the pixels of a crop, with boxes clipped to it.

    An object of which less than ``least_visible`` of its area is in the crop is marked ``ignore``:
    its clipped box ends where the crop does, which says nothing of where the object ends, and what
    is seen of it is not background either. One that is entirely outside is left out.
    """
    moved = cut.apply(annotation.boxes)
    clipped = clip(moved, cut.size)
    shown = area(clipped)
    hidden = shown / area(moved) < least_visible
    return Annotation(clipped, annotation.labels, annotation.ignore | hidden)[shown > 0]


# ------------------------------------------------------------------------------------- pixels


def scaled_then_cut(pixels: np.ndarray, cut: Cut) -> np.ndarray:
    """The crop of ``pixels`` (h, w, 3) uint8; the cut's offset is whole and inside the image."""
    height, width = (round(n * scale) for n, scale in zip(cut.original, cut.scale, strict=True))
    if (height, width) != cut.original:
        pixels = cv2.resize(pixels, (width, height), interpolation=interpolation(cut.scale))
    y, x = map(int, cut.offset)
    return mirrored(pixels[y : y + cut.size[0], x : x + cut.size[1]], cut.flipped)


def cut_then_scaled(pixels: np.ndarray, cut: Cut) -> np.ndarray:
    """Likewise, without the cost of scaling what is cut off; the part has whole original pixels."""
    y, x, height, width = (
        round(value / scale)
        for pair in (cut.offset, cut.size)
        for value, scale in zip(pair, cut.scale, strict=True)
    )
    part = mirrored(pixels[y : y + height, x : x + width], cut.flipped)
    method = interpolation(cut.scale)
    return cv2.resize(np.ascontiguousarray(part), cut.size[::-1], interpolation=method)


def mirrored(pixels: np.ndarray, flipped: bool) -> np.ndarray:
    return cv2.flip(pixels, 1) if flipped else pixels
