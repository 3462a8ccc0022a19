"""Crops of images for classifiers and localizers, for training and testing.

A crop is called as ``crop(pixels, seed)`` with RGB ``pixels`` (h, w, 3) uint8 and returns a tensor
(h', w', 3) uint8, or (10, h', w', 3) for ten views. It has no state: all random choices come from
``seed``, so that neither workers nor restarts change them. A `PlacedCrop` also gives its place in
the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from torch import Tensor

from ...detection.errors import ConfigError
from ...detection.structures import Annotation, Sample
from .augment import ALLOWED, Augmentation, Spec, shift_colour
from .crop_geometry import CropGeometry, crop_then_scale, flip, random_part, scale_then_crop
from .transforms import to_tensor


class Crop(Protocol):
    """A function of an image and a seed; ``fixed``: whether all its crops have one size."""

    @property
    def fixed(self) -> bool: ...

    def __call__(self, pixels: np.ndarray, seed: int) -> Tensor: ...


@runtime_checkable
class PlacedCrop(Crop, Protocol):
    """A crop that gives one view; ``place`` is its geometry in an image of ``size`` (h, w)."""

    def place(self, size: tuple[int, int], seed: int) -> CropGeometry: ...


@dataclass(frozen=True)
class PaperCrop:
    """Training crop of the ResNet paper, section 3.4.

    The shorter side is resized to an integer drawn evenly from ``short_sides`` (both included),
    a random ``size`` x ``size`` part is cut out and flipped with probability ``flip``, and
    a multiple of each principal component of colour is added to all pixels, the multiple being its
    std times a normal number of std ``colour_std``.

    Raises ConfigError for sides smaller than the crop.
    """

    short_sides: tuple[int, int] = (256, 480)
    size: int = 224
    flip: float = 0.5
    colour_std: float = 0.1
    fixed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        low, high = self.short_sides
        if not 0 < self.size <= low <= high:
            raise ConfigError(
                f"crop: expected size <= shorter sides from low to high, got size {self.size}, "
                f"shorter sides {low} to {high}"
            )

    def __call__(self, pixels: np.ndarray, seed: int) -> Tensor:
        geometry, multiples = self._drawn(_size(pixels), seed)
        return to_tensor(shift_colour(scale_then_crop(pixels, geometry), multiples))

    def place(self, size: tuple[int, int], seed: int) -> CropGeometry:
        return self._drawn(size, seed)[0]

    def _drawn(self, size: tuple[int, int], seed: int) -> tuple[CropGeometry, np.ndarray]:
        """The crop's geometry, and the multiples (3,) of the components of colour."""
        # All numbers are drawn whether used or not: changing one option leaves the others' draws.
        random = np.random.default_rng(seed)
        low, high = self.short_sides
        short_side = int(random.integers(low, high, endpoint=True))
        flipped = bool(random.random() < self.flip)
        place = random.random(2)
        multiples = random.normal(size=3) * self.colour_std

        whole = CropGeometry.at_short_side(size, short_side)
        # `random` is below 1, so that the last row and column are reached and never passed.
        y, x = (
            int(where * (side - self.size + 1))
            for where, side in zip(place, whole.size, strict=True)
        )
        geometry = replace(whole, offset=(y, x), size=(self.size, self.size), flipped=flipped)
        return geometry, multiples


@dataclass(frozen=True)
class ResizedCrop:
    """The modern training crop: a random part of the image, resized to ``size`` x ``size``.

    Its area is drawn evenly from ``scale`` of the image's, its width / height log-evenly from
    ``ratio`` (Szegedy et al., CVPR 2015, section 6). It is flipped with probability ``flip``;
    ``augment`` names photometric albumentations transforms, as in `Augmentation`.
    """

    size: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    augment: Sequence[Spec] = ()
    fixed: ClassVar[bool] = True
    _augmentation: Augmentation | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high or (name == "scale" and high > 1):
                raise ConfigError(f"crop.{name}: ({low:g}, {high:g}) is not a range")
        if self.augment:
            object.__setattr__(self, "_augmentation", _photometric(self.augment))

    def __call__(self, pixels: np.ndarray, seed: int) -> Tensor:
        geometry, augment_seed = self._drawn(_size(pixels), seed)
        pixels = crop_then_scale(pixels, geometry)
        if self._augmentation is not None:
            pixels, _ = self._augmentation(pixels, Annotation.empty(), augment_seed)
        return to_tensor(pixels)

    def place(self, size: tuple[int, int], seed: int) -> CropGeometry:
        return self._drawn(size, seed)[0]

    def _drawn(self, size: tuple[int, int], seed: int) -> tuple[CropGeometry, int]:
        """The crop's geometry, and the seed of the augmentation."""
        random = np.random.default_rng(seed)
        flipped = bool(random.random() < self.flip)
        augment_seed = int(random.integers(2**32))
        y, x, h, w = random_part(size, self.scale, self.ratio, random)
        scale_y, scale_x = scale = (self.size / h, self.size / w)
        offset = (y * scale_y, x * scale_x)
        geometry = CropGeometry(size, scale, flipped, offset=offset, size=(self.size, self.size))
        return geometry, augment_seed


@dataclass(frozen=True)
class PaddedCrop:
    """Training crop for small images (ResNet paper, section 4.2): ``padding`` black pixels on
    each side, then a random ``size`` x ``size`` part, flipped with probability ``flip``.

    An image whose shorter side is not ``size`` is resized to it first.
    """

    size: int = 32
    padding: int = 4
    flip: float = 0.5
    fixed: ClassVar[bool] = True

    def __call__(self, pixels: np.ndarray, seed: int) -> Tensor:
        random = np.random.default_rng(seed)
        flipped = bool(random.random() < self.flip)
        pixels = _with_short_side(pixels, self.size)
        edge = (self.padding, self.padding)
        padded = np.pad(pixels, (edge, edge, (0, 0)))
        y, x = (int(random.integers(side - self.size, endpoint=True)) for side in padded.shape[:2])
        part = padded[y : y + self.size, x : x + self.size]
        return to_tensor(flip(part, flipped))


@dataclass(frozen=True)
class CentreCrop:
    """The middle ``size`` x ``size`` of the image at shorter side ``resize``: 1-crop testing;
    flipped if ``flipped``."""

    resize: int = 256
    size: int = 224
    flipped: bool = False
    resampling: str = "opencv"
    fixed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_fits(self.resize, self.size)

    def __call__(self, pixels: np.ndarray, seed: int = 0) -> Tensor:
        place = self.place(_size(pixels), seed)
        return to_tensor(scale_then_crop(pixels, place, self.resampling))

    def place(self, size: tuple[int, int], seed: int = 0) -> CropGeometry:
        whole = CropGeometry.at_short_side(size, self.resize, self.resampling)
        corner = _middle(whole.size, self.size)
        return replace(whole, offset=corner, size=(self.size, self.size), flipped=self.flipped)


@dataclass(frozen=True)
class TenCrop:
    """Corners (top left, top right, bottom left, bottom right) and middle of the image's middle
    square of side ``resize``, then those of the flipped square: (10, size, size, 3).

    The 10-crop testing of AlexNet (Krizhevsky et al., 2012, sections 2 and 4.1), to which the
    ResNet paper refers: the shorter side is resized, then the middle square is cut out, of which
    the crops are taken.
    """

    resize: int = 256
    size: int = 224
    resampling: str = "opencv"
    fixed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_fits(self.resize, self.size)

    def __call__(self, pixels: np.ndarray, seed: int = 0) -> Tensor:
        square = CentreCrop(self.resize, self.resize, resampling=self.resampling)
        pixels = square(pixels).numpy()
        views = []
        y, x = _middle(_size(pixels), self.size)
        for shown in (pixels, cv2.flip(pixels, 1)):
            near, far = slice(None, self.size), slice(-self.size, None)
            corners = ((near, near), (near, far), (far, near), (far, far))
            views += [*(shown[rows, columns] for rows, columns in corners)]
            views.append(shown[y : y + self.size, x : x + self.size])
        return torch.from_numpy(np.stack(views))


@dataclass(frozen=True)
class FullImage:
    """The whole image at ``short_side``, flipped if ``flipped``: fully-convolutional testing."""

    short_side: int
    flipped: bool = False
    resampling: str = "opencv"
    fixed: ClassVar[bool] = False

    def __call__(self, pixels: np.ndarray, seed: int = 0) -> Tensor:
        place = self.place(_size(pixels), seed)
        return to_tensor(scale_then_crop(pixels, place, self.resampling))

    def place(self, size: tuple[int, int], seed: int = 0) -> CropGeometry:
        whole = CropGeometry.at_short_side(size, self.short_side, self.resampling)
        return replace(whole, flipped=self.flipped)


def crop_sample(
    pixels: np.ndarray,
    crops: Sequence[Crop],
    *,
    image_id: str = "",
    seed: int = 0,
    label: int | None = None,
) -> Sample:
    """The image ``pixels`` (h, w, 3) uint8 under all crops; a crop may give several views.

    The views of placed crops have their geometry.
    """
    samples = []
    for crop in crops:
        made = crop(pixels, seed)
        geometry = crop.place(_size(pixels), seed) if isinstance(crop, PlacedCrop) else None
        for image in made if made.dim() == 4 else (made,):
            samples.append(Sample(image, None, geometry, image_id, seed, label))
    first, *views = samples
    return replace(first, views=tuple(views))


# ------------------------------------------------------------------------------------- pixels


def _size(pixels: np.ndarray) -> tuple[int, int]:
    return pixels.shape[0], pixels.shape[1]


def _with_short_side(pixels: np.ndarray, short_side: int) -> np.ndarray:
    return scale_then_crop(pixels, CropGeometry.at_short_side(_size(pixels), short_side))


def _middle(size: tuple[int, int], part: int) -> tuple[int, int]:
    # Python's rounding of halves to even, as in torchvision.
    height, width = size
    return round((height - part) / 2), round((width - part) / 2)


def _check_fits(side: int, size: int) -> None:
    if not 0 < size <= side:
        raise ConfigError(f"crop: a crop of {size} does not fit into a shorter side of {side}")


def _photometric(specs: Sequence[Spec]) -> Augmentation:
    moving = [spec.name for spec in specs if ALLOWED.get(spec.name) == "geometric"]
    if moving:
        raise ConfigError(f"crop.augment: {moving[0]} would change the crop's shape or place")
    return Augmentation(specs)
