"""The types that travel between the parts.

N images · R ground-truth boxes · D detections · K classes.

Conventions, stated once: images are RGB; sizes are (h, w); boxes are float32, absolute pixels,
(x1, y1, x2, y2), continuous and 0-based, so that x2 - x1 is the width; labels are 0..K-1 and the
background is index K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor


def _expect(tensor: Tensor, name: str, shape: tuple[int | None, ...], dtype: torch.dtype) -> None:
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
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor

    def __post_init__(self) -> None:
        _expect(self.boxes, "Annotation.boxes", (None, 4), torch.float32)
        _expect(self.labels, "Annotation.labels", (len(self.boxes),), torch.int64)
        _expect(self.ignore, "Annotation.ignore", (len(self.boxes),), torch.bool)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor | slice) -> Annotation:
        return Annotation(self.boxes[index], self.labels[index], self.ignore[index])

    def to(self, device: torch.device | str) -> Annotation:
        return Annotation(self.boxes.to(device), self.labels.to(device), self.ignore.to(device))

    @staticmethod
    def empty() -> Annotation:
        return Annotation(
            torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
        )


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

    ``original`` and the input's ``size`` are (h, w); ``scale`` is (sy, sx).
    """

    original: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    flipped: bool = False

    def apply(self, boxes: Tensor) -> Tensor:
        """Original pixels (..., 4) to network pixels."""
        if self.flipped:
            boxes = self._flip(boxes)
        return boxes * self._factors(boxes)

    def invert(self, boxes: Tensor) -> Tensor:
        """Network pixels (..., 4) to original pixels."""
        boxes = boxes / self._factors(boxes)
        return self._flip(boxes) if self.flipped else boxes

    def _factors(self, boxes: Tensor) -> Tensor:
        scale_y, scale_x = self.scale
        return boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])

    def _flip(self, boxes: Tensor) -> Tensor:
        x1, y1, x2, y2 = boxes.unbind(-1)
        width = self.original[1]
        return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


@dataclass(frozen=True)
class Sample:
    """One network input: ``image`` (h, w, 3) uint8 RGB with its annotation in the same pixels."""

    image: Tensor
    annotation: Annotation
    geometry: Geometry
    image_id: str
    seed: int = 0
    #: The same image in further sizes or mirrored, without annotation; testing only.
    views: tuple[Sample, ...] = ()

    def __post_init__(self) -> None:
        _expect(self.image, "Sample.image", (None, None, 3), torch.uint8)


@dataclass(frozen=True)
class Batch:
    """N network inputs: ``images`` (N, 3, H, W) uint8 RGB, zero-padded at the right and bottom.

    Pixels stay uint8 until the model normalises them: mean and deviation travel with the weights,
    and a batch is a quarter of the bytes between worker, main process and device. ``sizes`` are the
    (h, w) inside the padding, ``seeds`` drive the random choices made for each image.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    annotations: list[Annotation]
    geometries: list[Geometry]
    image_ids: list[str]
    seeds: list[int]
    #: The same images in further sizes or mirrored, one batch for each view; testing only.
    views: tuple[Batch, ...] = ()

    def __post_init__(self) -> None:
        _expect(self.images, "Batch.images", (len(self.sizes), 3, None, None), torch.uint8)

    def __len__(self) -> int:
        return len(self.sizes)

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            self.images.to(device, non_blocking=True),
            self.sizes,
            [annotation.to(device) for annotation in self.annotations],
            self.geometries,
            self.image_ids,
            self.seeds,
            tuple(view.to(device) for view in self.views),
        )

    def pin_memory(self) -> Batch:
        """Called by the data loader, so that the copy to a GPU runs beside the network."""
        return Batch(
            self.images.pin_memory(),
            self.sizes,
            self.annotations,
            self.geometries,
            self.image_ids,
            self.seeds,
            tuple(view.pin_memory() for view in self.views),
        )

    @staticmethod
    def collate(samples: Sequence[Sample]) -> Batch:
        """Pad to the largest height and width; the memory format is channels-last."""
        sizes = [(sample.image.shape[0], sample.image.shape[1]) for sample in samples]
        height, width = (max(side) for side in zip(*sizes, strict=True))
        images = torch.zeros(len(samples), height, width, 3, dtype=torch.uint8)
        for image, sample, (h, w) in zip(images, samples, sizes, strict=True):
            image[:h, :w] = sample.image
        return Batch(
            images.permute(0, 3, 1, 2),
            sizes,
            [sample.annotation for sample in samples],
            [sample.geometry for sample in samples],
            [sample.image_id for sample in samples],
            [sample.seed for sample in samples],
            tuple(map(Batch.collate, zip(*(sample.views for sample in samples), strict=True))),
        )


@dataclass(frozen=True)
class LabelledSample:
    """One image to classify: ``image`` (h, w, 3) uint8 RGB, ``label`` its class, 0..K-1."""

    image: Tensor
    label: int
    image_id: str
    seed: int = 0
    #: Further crops or sizes of the same image, whose scores are averaged; testing only.
    views: tuple[LabelledSample, ...] = ()
    #: Where the objects of its class are, in the pixels of ``image``; localization only.
    annotation: Annotation | None = None

    def __post_init__(self) -> None:
        _expect(self.image, "LabelledSample.image", (None, None, 3), torch.uint8)


@dataclass(frozen=True)
class LabelledBatch:
    """N images of one size to classify: ``images`` (N, 3, H, W) uint8 RGB, ``labels`` (N,) i64.

    There is no padding, as it would change what the network answers: images of different sizes
    belong into different batches. Pixels stay uint8 until the model normalises them, as in `Batch`.
    """

    images: Tensor
    labels: Tensor
    image_ids: list[str]
    seeds: list[int]
    #: Further crops or sizes of the same images, one batch for each; testing only.
    views: tuple[LabelledBatch, ...] = ()
    #: Where the objects of the images' classes are, one for each image; localization only.
    annotations: tuple[Annotation, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.image_ids)
        _expect(self.images, "LabelledBatch.images", (count, 3, None, None), torch.uint8)
        _expect(self.labels, "LabelledBatch.labels", (count,), torch.int64)
        if len(self.annotations) not in (0, count):
            raise ValueError(f"LabelledBatch: {count} images, {len(self.annotations)} annotations")

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device | str) -> LabelledBatch:
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            views=tuple(view.to(device) for view in self.views),
            annotations=tuple(annotation.to(device) for annotation in self.annotations),
        )

    def pin_memory(self) -> LabelledBatch:
        """Called by the data loader, so that the copy to a GPU runs beside the network."""
        return replace(
            self,
            images=self.images.pin_memory(),
            labels=self.labels.pin_memory(),
            views=tuple(view.pin_memory() for view in self.views),
        )

    @staticmethod
    def collate(samples: Sequence[LabelledSample]) -> LabelledBatch:
        """Stack images of one size; the memory format is channels-last.

        Raises ValueError where the sizes differ.
        """
        sizes = sorted({tuple(sample.image.shape[:2]) for sample in samples})
        if len(sizes) > 1:
            raise ValueError(f"images of one batch must have one size, got {sizes}")
        return LabelledBatch(
            torch.stack([sample.image for sample in samples]).permute(0, 3, 1, 2),
            torch.tensor([sample.label for sample in samples], dtype=torch.int64),
            [sample.image_id for sample in samples],
            [sample.seed for sample in samples],
            tuple(
                map(LabelledBatch.collate, zip(*(sample.views for sample in samples), strict=True))
            ),
            tuple(sample.annotation for sample in samples if sample.annotation is not None),
        )


@dataclass(frozen=True)
class Detections:
    """Scored boxes of one image, before or after suppression.

    ``boxes`` (D, 4) f32, ``scores`` (D,) f32, ``labels`` (D,) i64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        _expect(self.boxes, "Detections.boxes", (None, 4), torch.float32)
        _expect(self.scores, "Detections.scores", (len(self.boxes),), torch.float32)
        _expect(self.labels, "Detections.labels", (len(self.boxes),), torch.int64)

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
        return Detections(
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.scores for part in parts]),
            torch.cat([part.labels for part in parts]),
        )


@dataclass(frozen=True)
class Located:
    """Where one image's class is: ``predicted`` has one box for each of the classes thought most
    likely, best first, whose scores are those classes' probabilities; ``oracle`` has the one box of
    the true class, whose score is the localizer's, and is empty where the class is not known.
    """

    predicted: Detections
    oracle: Detections
