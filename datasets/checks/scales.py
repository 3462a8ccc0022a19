"""How large the objects of a data set are at the training scales that a config may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..record_columns import Records
from .statistics import AnchorFit, Anchors, fit_anchors, size_of_boxes

#: Side of an object in cells of the feature map from which on a network tells it well from others.
_CELLS = 2


@dataclass(frozen=True)
class ScaleFit:
    """The objects at one training scale: how anchors cover them, and of all classes the one with
    the smallest objects. Three quarters of the objects of ``smallest_class`` have at least
    ``least_side`` pixels there, as the square root of their area."""

    anchors: AnchorFit
    smallest_class: str
    least_side: float

    @property
    def wanted_side(self) -> int:
        """The ``least_side`` of objects that are large enough."""
        return _CELLS * self.anchors.stride

    @property
    def shows_all(self) -> bool:
        """Whether the objects of every class are large enough."""
        return self.least_side >= self.wanted_side


@dataclass(frozen=True)
class Scales:
    """``fits`` by the name that the scale has, and the median sides of the images in pixels."""

    short_side: int
    long_side: int
    fits: Mapping[str, ScaleFit]


def measure_scales(
    records: Records, classes: Sequence[str], wanted: Mapping[str, Anchors]
) -> Scales | None:
    """The objects of ``records`` at each of the ``wanted`` scales; None without objects."""
    labels = records.labels[~records.ignore]
    if not len(labels) or not wanted:
        return None
    short, long = (
        np.median(each) for each in (records.sizes.min(axis=1), records.sizes.max(axis=1))
    )
    fits = {}
    for name, anchors in wanted.items():
        sides = size_of_boxes(records, anchors)
        lower = {
            classes[label]: float(np.quantile(sides[labels == label], 0.25))
            for label in np.unique(labels).tolist()
        }
        least = min(lower, key=lambda each: lower[each])
        fits[name] = ScaleFit(fit_anchors(records, anchors), least, lower[least])
    return Scales(round(float(short)), round(float(long)), fits)
