"""Regions of images warped to squares, and the data set of regions that trains a localizer.

Stage two of localization (ResNet paper, appendix C), in the manner of R-CNN. R objects, P regions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from ...detection.errors import ConfigError, DataError
from ...detection.ops.boxes import iou
from ...detection.structures import Batch, Record, Sample
from ..image import DEFAULT_RULES, ImageRules
from .crop_geometry import CropGeometry, flip
from .dataset import ImageDataset, class_of, read_record
from .transforms import interpolation
from .workers import BatchLoader

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: The colour beyond an image's edge: the mean of ImageNet, RGB, which normalisation makes 0.
OUTSIDE = (124, 116, 104)

# ---------------------------------------------------------------------------------------- warp


@dataclass(frozen=True)
class Square:
    """The input of a network of stage two: ``size`` pixels, with ``padding`` pixels of context on
    each side, as in R-CNN (16 at 227; Girshick et al., arXiv:1311.2524, supplement).

    Raises ConfigError for a padding that leaves no room for the region.
    """

    size: int
    padding: int

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.padding < self.size:
            raise ConfigError(
                f"padding: {self.padding} on each side leaves nothing of size {self.size}"
            )


def warp(
    pixels: np.ndarray,
    box: Tensor | Sequence[float],
    square: Square,
    *,
    flipped: bool = False,
    outside: tuple[int, int, int] = OUTSIDE,
) -> tuple[np.ndarray, CropGeometry]:
    """The region ``box`` (4,) of ``pixels`` (h, w, 3) uint8 with context, (size, size, 3) uint8.

    The box becomes exactly [padding, padding, size - padding, size - padding]. Beyond its edges the
    image is padded with the colour ``outside``.

    Raises ValueError for a box without area.
    """
    original = (pixels.shape[0], pixels.shape[1])
    geometry = _geometry_around(box, original, square, flipped)
    part, corner = _part(pixels, geometry, outside)
    offset = [
        at - first * scale
        for at, first, scale in zip(geometry.offset, corner, geometry.scale, strict=True)
    ]
    return flip(_resampled(part, geometry.scale, offset, square.size), flipped), geometry


def _geometry_around(
    box: Tensor | Sequence[float], original: tuple[int, int], square: Square, flipped: bool
) -> CropGeometry:
    x1, y1, x2, y2 = map(float, box)
    if not (math.isfinite(x1 + y1 + x2 + y2) and x1 < x2 and y1 < y2):
        raise ValueError(f"box ({x1:g}, {y1:g}, {x2:g}, {y2:g}) has no area")
    size, padding = square.size, square.padding
    room = size - 2 * padding
    scale = (room / (y2 - y1), room / (x2 - x1))
    offset = (y1 * scale[0] - padding, x1 * scale[1] - padding)
    return CropGeometry(original, scale, flipped, offset=offset, size=(size, size))


def _part(
    pixels: np.ndarray, geometry: CropGeometry, outside: tuple[int, int, int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels that the crop reads, and the place (y, x) in the image of the first of them."""
    (top, bottom), (left, right) = (
        # One more on each side, which bilinear interpolation reads.
        (math.floor(at / scale) - 1, math.ceil((at + side) / scale) + 1)
        for at, scale, side in zip(geometry.offset, geometry.scale, geometry.size, strict=True)
    )
    part = np.full((bottom - top, right - left, 3), outside, np.uint8)
    height, width = geometry.original
    y1, y2 = np.clip((top, bottom), 0, height)
    x1, x2 = np.clip((left, right), 0, width)
    part[y1 - top : y2 - top, x1 - left : x2 - left] = pixels[y1:y2, x1:x2]
    return part, (top, left)


def _resampled(
    part: np.ndarray, scale: Sequence[float], offset: Sequence[float], size: int
) -> np.ndarray:
    """(size, size, 3), whose pixel i covers (i + offset) / scale to (i + 1 + offset) / scale."""
    height, width = part.shape[:2]
    rows, columns = (
        _weights(factor, at, size, length)
        for factor, at, length in zip(scale, offset, (height, width), strict=True)
    )
    new = (rows @ part.reshape(height, -1).astype(np.float32)).reshape(size, width, 3)
    new = (columns @ cv2.transpose(new).reshape(width, -1)).reshape(size, size, 3)
    return cv2.transpose(np.rint(new).astype(np.uint8))


def _weights(scale: float, offset: float, size: int, length: int) -> csr_array:
    """(size, length): the part of each old pixel in each new one, along one direction.

    Bilinear, or the mean over an area where the image shrinks below half, as `interpolation`
    says. OpenCV averages over whole pixels only, and older releases warp to a 32nd of a pixel.
    """
    new = np.arange(size)[:, None]
    if interpolation((scale, scale)) == cv2.INTER_AREA:
        start, stop = (new + offset) / scale, (new + 1 + offset) / scale
        old = np.floor(start) + np.arange(math.ceil(1 / scale) + 1)
        covered = np.minimum(stop, old + 1) - np.maximum(start, old)
        weights = covered.clip(0) * scale
    else:
        # Pixel i covers [i, i + 1): its middle is at i + 1/2.
        middle = (new + 0.5 + offset) / scale - 0.5
        old = np.floor(middle) + np.arange(2)
        weights = 1 - abs(middle - old)
    starts = np.arange(0, old.size + 1, old.shape[1])
    from scipy.sparse import csr_array  # half a second to import

    flat = (weights.astype(np.float32).ravel(), old.astype(np.int64).ravel(), starts)
    return csr_array(flat, shape=(size, length))


# ------------------------------------------------------------------------------------- inference


def warp_regions(pixels: np.ndarray, boxes: Tensor, squares: Sequence[Square]) -> Batch:
    """The regions ``boxes`` (P, 4) of ``pixels`` (h, w, 3) uint8: a batch of P images with their
    geometries for the first square, and a view of it for each other one."""
    samples = []
    for box in boxes:
        warped = (warp(pixels, box, square) for square in squares)
        first, *views = (
            Sample(torch.from_numpy(image), None, geometry) for image, geometry in warped
        )
        samples.append(replace(first, views=tuple(views)))
    return Batch.collate(samples, pad=False)


def region_loader(
    regions: Sequence[tuple[Record, Tensor]],
    squares: Sequence[Square],
    *,
    rules: ImageRules,
    workers: int,
) -> BatchLoader:
    """`warp_regions` of each image's boxes, in order: the workers read, crop and warp.

    Warnings about the images are not repeated: the images were read before for their proposals.
    Raises ImageError as `ImageDataset` does.
    """
    read = partial(_read_regions, regions, squares, rules)
    return BatchLoader(read, [[index] for index in range(len(regions))], workers=workers)


def _read_regions(
    regions: Sequence[tuple[Record, Tensor]],
    squares: Sequence[Square],
    rules: ImageRules,
    indices: list[int],
) -> Batch:
    [(record, boxes)] = (regions[index] for index in indices)
    return warp_regions(read_record(record, rules).pixels, boxes, squares)


# -------------------------------------------------------------------------------------- training


class RegionDataset(ImageDataset):
    """``dataset[SampleKey]`` reads one image and gives one of its regions, warped to a square;
    its annotation has all objects of the image in the pixels of the square, not clipped to it: a
    regressed box may reach over the edge, and overlaps are what they were in the image.

    ``proposals`` are {image id: boxes (P, 4) in original pixels}. The objects' own boxes are
    regions too, as in R-CNN; those marked ``ignore`` are neither region nor object. With
    probability ``positive_fraction`` it is a region whose IoU with an object is ``positive_iou`` or
    more, else one below that; an image without regions of that kind gives one of the other. It is
    flipped with probability ``flip``.

    The paper takes equally many proposals of each image. Then one region each of images in
    random order is what it calls RoI-centric: a batch drawn from the regions of the whole data set.

    Raises ConfigError for invalid settings, and DataError, naming the image, for one
    without an entry in ``proposals`` or without regions and for a region without area.
    """

    def __init__(
        self,
        records: Sequence[Record],
        proposals: Mapping[str, Tensor],
        square: Square,
        *,
        positive_iou: float,
        positive_fraction: float,
        flip: float,
        rules: ImageRules = DEFAULT_RULES,
    ) -> None:
        super().__init__(records, rules)
        if not 0 < positive_iou <= 1:
            raise ConfigError(f"positive_iou: {positive_iou:g} is not in (0, 1]")
        for name, chance in (("positive_fraction", positive_fraction), ("flip", flip)):
            if not 0 <= chance <= 1:
                raise ConfigError(f"{name}: {chance:g} is not between 0 and 1")
        for record in self.records:
            _check_regions(record, proposals.get(record.image_id))
        self.proposals, self.square = proposals, square
        self.positive_iou, self.positive_fraction = positive_iou, positive_fraction
        self.flip = flip

    def make(self, pixels: np.ndarray, record: Record, seed: int) -> Sample:
        # All numbers are drawn whether used or not: changing one option leaves the others' draws.
        random = np.random.default_rng(seed)
        positive = bool(random.random() < self.positive_fraction)
        flipped = bool(random.random() < self.flip)
        pool = self._pool(record, positive)
        box = pool[int(random.random() * len(pool))]
        image, geometry = warp(pixels, box, self.square, flipped=flipped)
        found = record.annotation
        moved = replace(found, boxes=geometry.apply(found.boxes))
        return Sample(
            torch.from_numpy(image),
            moved,
            image_id=record.image_id,
            seed=seed,
            label=class_of(record),
        )

    def _pool(self, record: Record, positive: bool) -> Tensor:
        """The regions (P, 4) of the wanted kind, or of the other if there are none."""
        objects = _objects(record)
        regions = torch.cat([objects, self.proposals[record.image_id]])
        hit = (iou(regions, objects) >= self.positive_iou).any(dim=1)
        wanted = regions[hit == positive]
        return wanted if len(wanted) else regions


def _objects(record: Record) -> Tensor:
    return record.annotation.boxes[~record.annotation.ignore]


def _check_regions(record: Record, proposals: Tensor | None) -> None:
    where = f"{record.path}: proposals of {record.image_id!r}"
    if proposals is None:
        raise DataError(f"{where}: there are none, not even an empty list")
    if proposals.dim() != 2 or proposals.shape[1] != 4 or proposals.dtype != torch.float32:
        actual = f"{tuple(proposals.shape)} of {proposals.dtype}"
        raise DataError(f"{where}: expected (P, 4) of torch.float32, got {actual}")
    usable = proposals.isfinite().all(dim=1) & (proposals[:, 2:] > proposals[:, :2]).all(dim=1)
    if not usable.all():
        number = int(usable.logical_not().nonzero()[0])
        sides = ", ".join(f"{side:g}" for side in proposals[number].tolist())
        raise DataError(f"{where}: box {number} ({sides}) has no area")
    if len(proposals) == 0 and len(_objects(record)) == 0:
        raise DataError(f"{where}: none, and the image has no object")
