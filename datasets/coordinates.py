"""Evidence for 0-based or 1-based coordinates in the boxes of a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .findings import Finding
from .records import RawImage, RawObject

Coordinates = Literal["one_based", "zero_based"]

#: Minimum number of boxes at the far edges for evidence.
_LEAST_AT_FAR_EDGE = 10


@dataclass(frozen=True)
class EdgeCounts:
    """How many of ``boxes`` start at -1, 0 or 1 on either axis, and how many end at a far edge.
    With the right convention, boxes that touch the near edges start at 0."""

    boxes: int = 0
    before: int = 0
    at_zero: int = 0
    at_one: int = 0
    at_far_edge: int = 0


def count_edges(images: Sequence[RawImage]) -> EdgeCounts:
    boxes = before = at_zero = at_one = far = 0
    for image in images:
        height, width = image.size
        for obj in image.objects:
            x1, y1, x2, y2 = obj.box
            low = min(x1, y1)
            boxes += 1
            before += low == -1
            at_zero += 0 in (x1, y1)
            at_one += low == 1
            far += x2 == width or y2 == height
    return EdgeCounts(boxes, before, at_zero, at_one, far)


def check_coordinates(images: Sequence[RawImage], coordinates: Coordinates) -> list[Finding]:
    """One warning if the boxes contradict the convention they were read with, else nothing."""
    edges = count_edges(images)
    if coordinates == "one_based" and edges.before:
        image, obj = _first_starting_at(-1, images)
        seen = f"coordinate 0 in {edges.before} of {edges.boxes} boxes that should count from 1"
        return [_warn("zero_based_coordinates", image, obj, f"{seen}: zero_based?")]
    never_zero = edges.before == edges.at_zero == 0
    if coordinates == "zero_based" and never_zero and edges.at_far_edge >= _LEAST_AT_FAR_EDGE:
        if not edges.at_one:
            return []
        image, obj = _first_starting_at(1, images)
        seen = (
            f"none of {edges.boxes} boxes starts at 0, {edges.at_one} start at 1 and "
            f"{edges.at_far_edge} end at the far edge"
        )
        return [_warn("one_based_coordinates", image, obj, f"{seen}: counted from 1?")]
    return []


def _first_starting_at(value: int, images: Sequence[RawImage]) -> tuple[RawImage, RawObject]:
    return next(
        (image, obj) for image in images for obj in image.objects if min(obj.box[:2]) == value
    )


def _warn(kind: str, image: RawImage, obj: RawObject, reason: str) -> Finding:
    return Finding(kind, "warning", image.source, reason, image=image.path, box=obj.box)
