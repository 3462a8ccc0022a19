"""The limits of an evaluation of some of the classes: images, objects and predictions of the others
are left out, and the labels count the chosen classes alone.

K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import DataError, first_few
from ..structures import Detections, Located, Record


def chosen_labels(only: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The labels of the classes ``only``, rising; those of all ``classes`` if none is named.

    Raises DataError for a name that is not among them.
    """
    if unknown := [name for name in only if name not in classes]:
        known = first_few([repr(name) for name in classes], 10)
        raise DataError(f"classes: no class {unknown[0]!r:.80}; there are {known}")
    chosen = set(only or classes)
    return [label for label, name in enumerate(classes) if name in chosen]


def numbering(kept: Sequence[int], count: int) -> Tensor:
    """(K,) the place of each of the ``count`` labels in ``kept``, -1 for others."""
    numbers = torch.full((count,), -1)
    numbers[list(kept)] = torch.arange(len(kept))
    return numbers


def limited_records(records: Iterable[Record], number: Tensor) -> list[Record]:
    """The images of the classes that have a ``number`` (K,), with the objects of these."""
    limited = []
    for record in records:
        label = -1 if record.image_label is None else int(number[record.image_label])
        if label >= 0:
            own = record.annotation[number[record.annotation.labels] >= 0]
            own = replace(own, labels=number[own.labels])
            limited.append(replace(record, image_label=label, annotation=own))
    return limited


def limited_boxes(found: Mapping[str, Located], number: Tensor) -> dict[str, Located]:
    """The boxes of the classes that have a ``number`` (K,)."""

    def limited(boxes: Detections) -> Detections:
        boxes = boxes[number[boxes.labels] >= 0]
        return replace(boxes, labels=number[boxes.labels])

    return {
        name: Located(limited(each.predicted), limited(each.true_class))
        for name, each in found.items()
    }
