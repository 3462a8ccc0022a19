"""What a localizer found in one image, and what is wrong with it.

P predictions, best first · R objects of the image's class. The names of errors are those of
`error_types.py`. Every object of the image's class counts, and an object may be found more than
once, as in the rules of ILSVRC.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..structures import Detections
from .error_types import BACKGROUND

#: The least overlap of a right box.
IOU = 0.5

#: The kinds of boxes, with their definitions.
KINDS: Mapping[str, str] = {
    "right": "the image's class, IoU >= 0.5 with one of its objects",
    "localization": "the image's class, 0.1 <= IoU < 0.5",
    "classification": "another class, IoU >= 0.5",
    "both": "another class, 0.1 <= IoU < 0.5",
    "background": "IoU < 0.1 with each of its objects",
}
#: What may be wrong with the box of the true class and with the first prediction.
ERRORS: Mapping[str, str] = {name: KINDS[name] for name in KINDS if name != "right"} | {
    "missed": "there is no such box"
}


@dataclass(frozen=True, eq=False)
class LocatedCase:
    """One image of the class ``label`` with its objects ``truth`` (R, 4), the ``predicted`` boxes
    and the box of the ``true_class``, none if there is none. ``overlaps`` (P,) and ``true_overlap``
    (0 or 1,) are their largest IoUs with an object."""

    label: int
    truth: Tensor
    predicted: Detections
    true_class: Detections
    overlaps: Tensor
    true_overlap: Tensor

    def outcome(self) -> dict[str, float]:
        """Its contribution to each number of `localization.DEFINITIONS`."""
        named = self.predicted.labels == self.label
        right = named & (self.overlaps >= IOU)
        overlap = self.true_overlap.sum().item()
        return {
            "top5_localization_error": not right.any(),
            "top1_localization_error": not right[:1].any(),
            "true_class_error": overlap < IOU,
            "top5_classification_error": not named.any(),
            "top1_classification_error": not named[:1].any(),
            "mean_true_class_iou": overlap,
        }

    def content(self) -> dict[str, Any]:
        """The objects and boxes of its entry in ``images.json``; numbers that are not finite are
        None."""
        return {
            "objects": {"boxes": _boxes(self.truth)},
            "true_class": self._described(self.true_class, self.true_overlap),
            "predicted": self._described(self.predicted, self.overlaps),
        }

    def _described(self, found: Detections, overlaps: Tensor) -> dict[str, list[Any]]:
        return {
            "boxes": _boxes(found.boxes),
            "labels": found.labels.tolist(),
            "scores": [_finite(score) for score in found.scores.tolist()],
            "ious": overlaps.tolist(),
            "kinds": list(self._kinds(found, overlaps)),
        }

    def _kinds(self, found: Detections, overlaps: Tensor) -> Iterator[str]:
        for label, overlap in zip(found.labels.tolist(), overlaps.tolist(), strict=True):
            if overlap < BACKGROUND:
                yield "background"
            elif label == self.label:
                yield "right" if overlap >= IOU else "localization"
            else:
                yield "classification" if overlap >= IOU else "both"


def _boxes(boxes: Tensor) -> list[list[float | None]]:
    return [[_finite(side) for side in box] for box in boxes.tolist()]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
