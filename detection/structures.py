"""The shared data types: annotations, records, samples, batches and detections.

N images · R ground-truth boxes · D detections · K classes.

Conventions, stated once: images are RGB; sizes are (h, w); boxes are float32, absolute pixels,
(x1, y1, x2, y2), continuous and 0-based, so that x2 - x1 is the width; labels are 0..K-1 and the
background is index K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor


def expect(tensor: Tensor, name: str, shape: tuple[int | None, ...], dtype: torch.dtype) -> None:
    wanted = tuple("?" if side is None else side for side in shape)
    fits = tensor.dim() == len(shape) and all(
        side is None or side == actual for side, actual in zip(shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype != dtype:
        actual = f"{tuple(tensor.shape)} of {tensor.dtype}"
        raise ValueError(f"{name}: expected shape {wanted} of {dtype}, got {actual}")


@dataclass(frozen=True)
class Annotation:
    """Ground truth of one image: ``boxes`` (R, 4) f32, ``labels`` (R,) i64, ``ignore`` (R,) bool.

    ``ignore`` marks objects that are neither right nor wrong: VOC *difficult*, COCO *crowd*.
    ``areas`` (R,) f64 px² are those of masks in the image as it is, for the evaluation by size; nan
    (or None for all objects): the box's. Samples of training have none.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    areas: Tensor | None = None

    def __post_init__(self) -> None:
        expect(self.boxes, "Annotation.boxes", (None, 4), torch.float32)
        expect(self.labels, "Annotation.labels", (len(self.boxes),), torch.int64)
        expect(self.ignore, "Annotation.ignore", (len(self.boxes),), torch.bool)
        if self.areas is not None:
            expect(self.areas, "Annotation.areas", (len(self.boxes),), torch.float64)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor | slice) -> Annotation:
        return self._each(lambda part: part[index])

    def to(self, device: torch.device | str) -> Annotation:
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Annotation:
        areas = None if self.areas is None else change(self.areas)
        return Annotation(change(self.boxes), change(self.labels), change(self.ignore), areas)

    @staticmethod
    def empty() -> Annotation:
        return Annotation(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).bool())


@dataclass(frozen=True)
class Record:
    """One image of a data set and what is known about it.

    ``size`` is (h, w) as displayed, after EXIF rotation. ``image_id`` is unique in its data set.
    """

    image_id: str
    path: Path
    size: tuple[int, int]
    annotation: Annotation = field(default_factory=Annotation.empty)
    image_label: int | None = None


@dataclass(frozen=True)
class Geometry:
    """How a network input was made from its image: flip left-right, then scale.

    ``original`` is the (h, w) of the image, ``scale`` is (sy, sx). `CropGeometry` adds a crop.
    """

    original: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    flipped: bool = False

    def apply(self, boxes: Tensor) -> Tensor:
        """Original pixels (..., 4) to network pixels."""
        if self.flipped:
            boxes = self._flip(boxes, self.original[1])
        return boxes * self._factors(boxes)

    def invert(self, boxes: Tensor) -> Tensor:
        """Network pixels (..., 4) to original pixels."""
        boxes = boxes / self._factors(boxes)
        return self._flip(boxes, self.original[1]) if self.flipped else boxes

    def _factors(self, boxes: Tensor) -> Tensor:
        scale_y, scale_x = self.scale
        return boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])

    @staticmethod
    def _flip(boxes: Tensor, width: int) -> Tensor:
        x1, y1, x2, y2 = boxes.unbind(-1)
        return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


@dataclass(frozen=True)
class Sample:
    """One network input: ``image`` (h, w, 3) uint8 RGB, and what is known about it.

    ``annotation`` holds the objects in the pixels of ``image``, ``label`` the class of the whole
    image, ``geometry`` how it was made from its file; each is None where it is not known or not
    needed. ``seed`` drives the random choices made for the image.
    """

    image: Tensor
    annotation: Annotation | None = None
    geometry: Geometry | None = None
    image_id: str = ""
    seed: int = 0
    label: int | None = None
    #: Further sizes, crops or flips of the same image; testing only.
    views: tuple[Sample, ...] = ()
    #: The unusable images in whose place it is, with the reasons: ``path: reason``.
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expect(self.image, "Sample.image", (None, None, 3), torch.uint8)


@dataclass(frozen=True)
class Batch:
    """N network inputs: ``images`` (N, 3, H, W) uint8 RGB, zero-padded at the right and bottom.

    Pixels are uint8 until the model normalises them: mean and std are stored with the weights, and
    transfers between worker, main process and device are four times smaller than with float32.
    ``sizes`` are the (h, w) inside the padding. ``annotations``, ``geometries`` and ``labels`` (N,)
    i64 have an entry for each image, or none at all where the samples have none.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    annotations: list[Annotation]
    geometries: list[Geometry]
    image_ids: list[str]
    seeds: list[int]
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    #: Further sizes, crops or flips of the same images, one batch for each; testing only.
    views: tuple[Batch, ...] = ()
    #: The unusable images that others replace, with the reasons: ``path: reason``.
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.sizes)
        expect(self.images, "Batch.images", (count, 3, None, None), torch.uint8)
        expect(self.labels, "Batch.labels", (None,), torch.int64)
        for name in ("annotations", "geometries", "labels"):
            if len(getattr(self, name)) not in (0, count):
                raise ValueError(f"Batch: {count} images, {len(getattr(self, name))} {name}")

    def __len__(self) -> int:
        return len(self.sizes)

    def to(self, device: torch.device | str) -> Batch:
        move = partial(Tensor.to, device=device, non_blocking=True)
        return replace(
            self,
            images=move(self.images),
            annotations=_in_one_storage(self.annotations, move),
            labels=move(self.labels),
            views=tuple(view.to(device) for view in self.views),
        )

    def pin_memory(self) -> Batch:
        """Called by the data loader, so that the copy to a GPU runs beside the network."""
        return replace(
            self,
            images=self.images.pin_memory(),
            annotations=_in_one_storage(self.annotations, _pinned),
            labels=_pinned(self.labels),
            views=tuple(view.pin_memory() for view in self.views),
        )

    @staticmethod
    def collate(samples: Sequence[Sample], *, pad: bool = True) -> Batch:
        """The samples and their views, padded to the largest height and width; channels-last.

        Boxes, labels and flags share one storage each, and so do views of one size: a tensor from a
        worker costs the main process one open file per storage, where the usual limit is 1024 for
        all batches of all workers.

        Raises ValueError where the sizes differ and ``pad`` is False: padding would change the
        output of a classifier.
        """
        views = list(zip(*((sample, *sample.views) for sample in samples), strict=True))
        stacks = [_stack([sample.image for sample in view], pad) for view in views]
        if len(stacks) > 1 and len({stack.shape for stack in stacks}) == 1:
            stacks = list(torch.stack(stacks).unbind())
        known = [sample.label for sample in samples if sample.label is not None]
        labels = torch.tensor(known, dtype=torch.int64)
        first, *others = (
            Batch(
                images.permute(0, 3, 1, 2),
                [(sample.image.shape[0], sample.image.shape[1]) for sample in view],
                _in_one_storage([s.annotation for s in view if s.annotation is not None]),
                [sample.geometry for sample in view if sample.geometry is not None],
                [sample.image_id for sample in view],
                [sample.seed for sample in view],
                labels,
            )
            for view, images in zip(views, stacks, strict=True)
        )
        skipped = tuple(line for sample in samples for line in sample.skipped)
        return replace(first, views=tuple(others), skipped=skipped)


def _stack(images: Sequence[Tensor], pad: bool) -> Tensor:
    """(N, H, W, 3) of N images (h, w, 3), with zeros at the right and bottom."""
    sizes = sorted({tuple(image.shape[:2]) for image in images})
    if len(sizes) == 1:
        return torch.stack(list(images))
    if not pad:
        raise ValueError(f"images of one batch must have one size, got {sizes}")
    height, width = (max(side) for side in zip(*sizes, strict=True))
    stacked = torch.zeros(len(images), height, width, 3, dtype=torch.uint8)
    for target, image in zip(stacked, images, strict=True):
        target[: image.shape[0], : image.shape[1]] = image
    return stacked


def _in_one_storage(
    annotations: Sequence[Annotation], change: Callable[[Tensor], Tensor] = lambda part: part
) -> list[Annotation]:
    """The annotations; all boxes are views of one tensor, and so are labels and flags."""
    if not annotations:
        return []
    names, counts = ("boxes", "labels", "ignore"), [len(each) for each in annotations]
    columns = (torch.cat([getattr(each, name) for each in annotations]) for name in names)
    return list(map(Annotation, *(change(column).split(counts) for column in columns)))


def _pinned(tensor: Tensor) -> Tensor:
    return tensor.pin_memory() if len(tensor) else tensor


@dataclass(frozen=True)
class Detections:
    """Scored boxes of one image, before or after suppression.

    ``boxes`` (D, 4) f32, ``scores`` (D,) f32, ``labels`` (D,) i64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        expect(self.boxes, "Detections.boxes", (None, 4), torch.float32)
        expect(self.scores, "Detections.scores", (len(self.boxes),), torch.float32)
        expect(self.labels, "Detections.labels", (len(self.boxes),), torch.int64)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor | slice) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.labels[index])

    def to(self, device: torch.device | str) -> Detections:
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device))

    @staticmethod
    def empty() -> Detections:
        return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))

    @staticmethod
    def cat(parts: Sequence[Detections]) -> Detections:
        """All detections of one image from several sources, in order."""
        if not parts:
            return Detections.empty()
        names = ("boxes", "scores", "labels")
        return Detections(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class Located:
    """The boxes of one image's classes: ``predicted`` has one for each of the most likely classes,
    best first, scored with the classes' probabilities; ``true_class`` has that of the true class,
    with the localizer's score, and is empty where the class is not known."""

    predicted: Detections
    true_class: Detections
