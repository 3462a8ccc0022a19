"""Transforms from an image to a network input, with the same resize in training and inference.

A transform is called as ``transform(pixels, annotation, seed)`` with RGB ``pixels`` (h, w, 3) uint8
and returns the image tensor (h', w', 3) uint8, the annotation in its pixels, and the `Geometry`
between the two. It has no state: all random choices come from ``seed``, so that neither workers
nor restarts change them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from ...detection.structures import Annotation, Geometry, Sample
from .augment import Augmentation, Spec


class Transform(Protocol):
    """The interface of a transform."""

    def __call__(
        self, pixels: np.ndarray, annotation: Annotation, seed: int
    ) -> tuple[Tensor, Annotation, Geometry]: ...


def resized_size(size: tuple[int, int], short_side: int, long_side_max: int) -> tuple[int, int]:
    """The (h, w) that `resize` makes of an image of ``size`` (h, w), without touching pixels.

    The shorter side becomes ``short_side`` unless the longer would exceed ``long_side_max``; then
    the longer becomes ``long_side_max``. The aspect ratio is kept up to rounding, which is half up,
    as in detectron2's ResizeShortestEdge; no side falls below 1.
    """
    height, width = size
    factor = short_side / min(height, width)
    if factor * max(height, width) > long_side_max:
        factor = long_side_max / max(height, width)
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize(
    pixels: np.ndarray, short_side: int, long_side_max: int
) -> tuple[np.ndarray, tuple[float, float]]:
    """``pixels`` (h, w, 3) uint8 at `resized_size`, with the exact (sy, sx) = new / old."""
    height, width = pixels.shape[:2]
    new_height, new_width = resized_size((height, width), short_side, long_side_max)
    scale = (new_height / height, new_width / width)
    if scale == (1.0, 1.0):
        return pixels, scale
    method = interpolation(scale)
    return cv2.resize(pixels, (new_width, new_height), interpolation=method), scale


def interpolation(scale: tuple[float, float]) -> int:
    """OpenCV's method for a resize by ``scale`` (sy, sx): bilinear as in the published systems.

    That reads only 2x2 pixels, so that fine texture would alias when an image shrinks below half;
    there each new pixel is the mean of the area it covers.
    """
    return cv2.INTER_AREA if min(scale) < 0.5 else cv2.INTER_LINEAR


def to_tensor(pixels: np.ndarray) -> Tensor:
    """``pixels`` as a tensor that shares their memory, or a copy if torch cannot share it."""
    # A flipped view has a negative stride and a decoded image may be read-only: torch takes
    # neither, so those are copied.
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"]))


def make_sample(
    pixels: np.ndarray,
    annotation: Annotation,
    transforms: Sequence[Transform],
    *,
    image_id: str,
    seed: int = 0,
) -> Sample:
    """The image under the first transform, and its views under the others."""
    first, *others = transforms
    image, moved, geometry = first(pixels, annotation, seed)
    views = []
    for transform in others:
        view, _, seen = transform(pixels, Annotation.empty(), seed)
        views.append(Sample(view, None, seen, image_id, seed))
    return Sample(image, moved, geometry, image_id, seed, views=tuple(views))


@dataclass(frozen=True)
class EvalTransform:
    """Resize, and flip if ``flipped``; the geometry inverts to the original image.

    ``seed`` has no effect.
    """

    short_side: int
    long_side_max: int
    flipped: bool = False

    def __call__(
        self, pixels: np.ndarray, annotation: Annotation, seed: int = 0
    ) -> tuple[Tensor, Annotation, Geometry]:
        height, width = pixels.shape[:2]
        if self.flipped:
            pixels = cv2.flip(pixels, 1)
        resized, scale = resize(pixels, self.short_side, self.long_side_max)
        geometry = Geometry((height, width), scale, self.flipped)
        return (
            to_tensor(resized),
            replace(annotation, boxes=geometry.apply(annotation.boxes)),
            geometry,
        )


class TrainTransform:
    """Flip left-right, augment, resize to one of several shorter sides.

    ``flip`` is the probability of the flip, ``short_sides`` are drawn from with equal chance (the
    paper trains with one), ``augment`` names albumentations transforms and their parameters; see
    `Augmentation` for the names and the ConfigError. They run before the resize, so that a crop
    still ends at the wanted size.

    The geometry holds the flip and the resize. What ``augment`` moves is not in it: with a
    geometric augmentation the network's boxes cannot be mapped back to the image.
    """

    def __init__(
        self,
        short_sides: Sequence[int],
        long_side_max: int,
        flip: float,
        augment: Sequence[Spec] = (),
    ) -> None:
        self.short_sides = tuple(short_sides)
        self.long_side_max = long_side_max
        self.flip = flip
        self.augmentation = Augmentation(augment) if augment else None

    def __call__(
        self, pixels: np.ndarray, annotation: Annotation, seed: int
    ) -> tuple[Tensor, Annotation, Geometry]:
        # All numbers are drawn whether used or not: changing one option leaves the others' draws.
        random = np.random.default_rng(seed)
        flipped = bool(random.random() < self.flip)
        short_side = self.short_sides[random.integers(len(self.short_sides))]
        augment_seed = int(random.integers(2**32))

        height, width = pixels.shape[:2]
        if flipped:
            pixels = cv2.flip(pixels, 1)  # forty times faster than numpy's flipped view
            whole = Geometry((height, width), flipped=True)
            annotation = replace(annotation, boxes=whole.apply(annotation.boxes))
        if self.augmentation is not None:
            pixels, annotation = self.augmentation(pixels, annotation, augment_seed)

        augmented_height, augmented_width = pixels.shape[:2]
        resized, scale = resize(np.ascontiguousarray(pixels), short_side, self.long_side_max)
        zoom = Geometry((augmented_height, augmented_width), scale)
        annotation = replace(annotation, boxes=zoom.apply(annotation.boxes))
        return to_tensor(resized), annotation, Geometry((height, width), scale, flipped)
