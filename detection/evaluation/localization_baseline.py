"""The boxes of a trivial localizer: the mean box of each class.

K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..structures import Annotation, Detections, Located, Record
from .localization import label_of


def mean_boxes(records: Sequence[Record], classes: Sequence[str]) -> Tensor:
    """(K, 4) f32: the mean of all boxes of each class, as fractions of width and height.

    An image with several boxes counts as often; a class without a box has nan. Raises ValueError
    for a record with boxes whose size is not known.
    """
    annotated = [record for record in records if len(record.annotation)]
    annotations = [Annotation.empty(), *(record.annotation for record in annotated)]
    sides = [_sides(record).expand(len(record.annotation), 4) for record in annotated]
    labels = torch.cat([annotation.labels for annotation in annotations])
    boxes = torch.cat([annotation.boxes for annotation in annotations])
    fractions = boxes / torch.cat([torch.zeros(0, 4, dtype=torch.float64), *sides])
    total = torch.zeros(len(classes), 4, dtype=torch.float64).index_add_(0, labels, fractions)
    count = labels.bincount(minlength=len(classes))[:, None]
    return (total / count).float()  # 0 / 0 is nan


def locate_by_mean_box(records: Sequence[Record], boxes: Tensor) -> dict[str, Located]:
    """The mean box (K, 4) of each record's class in its image, in pixels, by image id.

    It has score 1 and is left out where the class has none. There are no predicted classes. Raises
    ValueError for a record without class or size.
    """
    return {
        record.image_id: Located(Detections.empty(), _mean_box(record, boxes)) for record in records
    }


def _mean_box(record: Record, boxes: Tensor) -> Detections:
    label = label_of(record, len(boxes))
    fractions = boxes[label]
    if fractions.isnan().any():
        return Detections.empty()
    pixels = (fractions.double() * _sides(record)).float()
    return Detections(pixels[None], torch.ones(1), torch.tensor([label]))


def _sides(record: Record) -> Tensor:
    """(4,) f64: width, height, width, height."""
    height, width = record.size
    if min(height, width) <= 0:
        raise ValueError(f"{record.path}: the size of the image is not known")
    return torch.tensor([width, height, width, height], dtype=torch.float64)
