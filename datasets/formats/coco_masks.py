"""The bounding boxes of COCO's polygons and run-length encoded (RLE) masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..records import RawBox


def box_of(segmentation: object) -> RawBox | None:
    """(x1, y1, x2, y2) of polygons ``[[x, y, x, y, ...], ...]`` or of an RLE ``{"size": [h, w],
    "counts": [...]}``, whose counts may be compressed text; None if it is empty or there is none.

    Raises ValueError for anything else.
    """
    if segmentation is None or segmentation in ([], {}):
        return None
    if isinstance(segmentation, dict):
        return _box_of_runs(segmentation)
    if not isinstance(segmentation, list):
        raise ValueError(f"segmentation is {segmentation!r:.40}, expected polygons or an RLE")
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    points = [_number(value) for polygon in polygons for value in _even(polygon)]
    if not points:
        return None
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def _even(polygon: object) -> Sequence[Any]:
    if not isinstance(polygon, list) or len(polygon) % 2:
        raise ValueError(f"segmentation has {polygon!r:.40}, expected pairs of x and y")
    return polygon


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"segmentation has {value!r:.40}, expected a number")
    return float(value)


def _box_of_runs(rle: dict[str, Any]) -> RawBox | None:
    """Runs of zeros and ones in turn, column by column."""
    match rle.get("size"):
        case [int(height), int(width)] if height > 0 and width > 0:
            pass
        case size:
            raise ValueError(f"the size of an RLE is {size!r:.40}, expected [height, width]")
    counts = rle.get("counts")
    runs = _uncompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError(f"the counts of an RLE are {counts!r:.40}, expected lengths of runs")
    if sum(runs) != height * width:
        raise ValueError(f"an RLE of {sum(runs)} pixels, for {width}x{height}")
    left, top, right, bottom = width, height, 0, 0
    start = 0
    for number, run in enumerate(runs):
        if number % 2 and run:
            first, last = divmod(start, height), divmod(start + run - 1, height)
            one_column = first[0] == last[0]
            left, right = min(left, first[0]), max(right, last[0] + 1)
            top = min(top, first[1] if one_column else 0)
            bottom = max(bottom, last[1] + 1 if one_column else height)
        start += run
    return None if right == 0 else (float(left), float(top), float(right), float(bottom))


def _uncompressed(text: str) -> list[int]:
    """The runs in COCO's text: numbers of five bits a character from "0" (48) on, the lowest first,
    with a sixth bit where more follow; from the fourth on, less the run before the last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the counts of an RLE hold {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0  # a negative number
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the counts of an RLE end within a number")
    return runs
