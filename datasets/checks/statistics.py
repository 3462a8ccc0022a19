"""Counts and histograms of a data set, and how well anchors cover its objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..catalog import DataSplit
from ..record_columns import Records

#: An object without an anchor of this IoU is hard to propose.
GOOD_IOU = 0.5
#: Fraction of the objects that another anchor size must cover to be suggested.
LEAST_GAIN = 0.01

#: Fraction of the objects that other sizes must cover for a warning. With boxes of COCO's sizes it
#: is about 5 % for the ResNet paper's anchors, 14 % for those of VOC, to which the paper adds one.
_MANY_GAINED = 0.1
#: Fraction of objects without a good anchor above which there is a warning in any case.
_MOST_POOR = 0.5

#: Sizes that may be suggested, in steps of the square root of 2.
_CANDIDATES = (8.0, 11.0, 16.0, 23.0, 32.0, 45.0, 64.0, 91.0, 128.0, 181.0, 256.0, 362.0, 512.0)
_SIZE_EDGES = (0.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_RATIO_EDGES = (0.0, 0.125, 0.25, 0.5, 0.707, 1.414, 2.0, 4.0, 8.0)
_Floats = NDArray[np.floating]
#: Objects that are compared with anchors at a time: their arrays fit the processor's cache.
_CHUNK = 1 << 13


@dataclass(frozen=True)
class SplitCounts:
    """``empty`` counts images without objects, ``ignored`` difficult and crowd objects."""

    name: str
    images: int
    empty: int
    objects: int
    ignored: int


@dataclass(frozen=True)
class ClassCounts:
    """``objects`` has one count per split, in the order of the report's splits."""

    name: str
    objects: tuple[int, ...]


@dataclass(frozen=True)
class Histogram:
    """``counts[i]`` values lie in [``edges[i]``, ``edges[i + 1]``); the outer bins are open."""

    title: str
    unit: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Anchors:
    """Anchors of a network, their distance, and the scale of its training images in pixels."""

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    short_side: int
    long_side_max: int
    stride: int


#: Those of a detector's default config, which a folder without a config is compared with.
DEFAULT_ANCHORS = Anchors((32, 64, 128, 256, 512), (0.5, 1.0, 2.0), 600, 1000, 16)


@dataclass(frozen=True)
class AnchorFit(Anchors):
    """How well anchors cover the objects at the training scale.

    ``poor`` of ``objects`` have no anchor of IoU 0.5 or more; with ``suggested_sizes`` it would be
    ``suggested_poor``. Without better sizes, both equal the given ones.
    """

    objects: int
    poor: int
    suggested_sizes: tuple[float, ...]
    suggested_poor: int

    @property
    def misfit(self) -> str:
        """What does not fit, in words, and what would fit better; "" where sizes of the same number
        are not much better, and most objects have an anchor."""
        many = self.poor - self.suggested_poor > _MANY_GAINED * self.objects
        if not many and self.poor <= _MOST_POOR * self.objects:
            return ""
        reason = f"{self.poor / self.objects:.1%} of the objects have no anchor of IoU {GOOD_IOU}"
        if many:
            sizes = ", ".join(f"{size:g}" for size in self.suggested_sizes)
            share = self.suggested_poor / self.objects
            return f"{reason}; with rpn.anchor_sizes=[{sizes}] it would be {share:.1%}"
        return (
            f"{reason}, and other sizes are not much better: the objects are small or long for a "
            f"stride of {self.stride} px; larger images show more of them (image.short_side_train, "
            "long_side_max), other shapes are rpn.anchor_ratios"
        )


def count_splits(splits: Mapping[str, DataSplit]) -> tuple[SplitCounts, ...]:
    return tuple(
        SplitCounts(
            name,
            len(split.records),
            int((split.records.counts == 0).sum()),
            len(split.records.labels),
            int(split.records.ignore.sum()),
        )
        for name, split in splits.items()
    )


def count_classes(splits: Mapping[str, DataSplit]) -> tuple[ClassCounts, ...]:
    """Counts in label order; all splits must have the same classes."""
    names = next(iter(splits.values())).classes if splits else ()
    tables = [np.bincount(each.records.labels, minlength=len(names)) for each in splits.values()]
    return tuple(
        ClassCounts(name, tuple(int(table[label]) for table in tables))
        for label, name in enumerate(names)
    )


def size_histograms(records: Records, anchors: Anchors | None) -> tuple[Histogram, ...]:
    """Box sizes as annotated and, with ``anchors``, at the training scale; box shapes."""
    boxes, _ = _boxes(records)
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    roots = np.sqrt(width * height)
    found = [_histogram("box size: square root of the area", "px", _SIZE_EDGES, roots)]
    if anchors:
        scaled = size_of_boxes(records, anchors)
        found.append(_histogram("box size at the training scale", "px", _SIZE_EDGES, scaled))
    found.append(_histogram("box shape", "height / width", _RATIO_EDGES, height / width))
    return tuple(found)


def size_of_boxes(records: Records, anchors: Anchors) -> _Floats:
    """(R,) the square root of the area of each box at the training scale, without ignored ones."""
    boxes, sizes = _boxes(records)
    roots: _Floats = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) * _scales(sizes, anchors)
    return roots


def image_histograms(records: Records) -> tuple[Histogram, ...]:
    """Image sizes and shapes, for data sets without boxes."""
    height, width = records.sizes.astype(np.float64).T
    roots = np.sqrt(height * width)
    return (
        _histogram("image size: square root of the area", "px", _SIZE_EDGES, roots),
        _histogram("image shape", "height / width", _RATIO_EDGES, height / width),
    )


def fit_anchors(records: Records, anchors: Anchors) -> AnchorFit:
    """Count objects without an anchor of IoU 0.5, and search sizes that leave fewer of them."""
    boxes, sizes = _boxes(records)
    scales = _scales(sizes, anchors)[:, None]
    boxes, grid = boxes * scales, np.ceil(sizes[:, ::-1] * scales / anchors.stride)
    wanted = sorted({*_CANDIDATES, *anchors.sizes})
    shapes = anchor_shapes(wanted, anchors.ratios)
    good = np.zeros((len(wanted), len(boxes)))  # the best IoU with an anchor of each size, or 0
    for start in range(0, len(boxes), _CHUNK):
        part = slice(start, start + _CHUNK)
        ious = anchor_ious(boxes[part], shapes, grid[part], anchors.stride)
        best = ious.reshape(len(wanted), len(anchors.ratios), -1).max(axis=1)
        good[:, part] = np.where(best >= GOOD_IOU, best, 0.0)
    by_size = dict(zip(wanted, good, strict=True))

    def count_poor(sizes: Sequence[float]) -> int:
        covered = np.zeros(len(boxes), dtype=bool)
        for size in sizes:
            covered |= by_size[size] > 0
        return int((~covered).sum())

    poor = count_poor(anchors.sizes)
    suggested = _suggest({size: by_size[size] for size in _CANDIDATES}, len(anchors.sizes))
    suggested_poor = count_poor(suggested) if suggested else poor
    if poor - suggested_poor <= LEAST_GAIN * len(boxes):
        suggested, suggested_poor = anchors.sizes, poor
    return AnchorFit(
        **vars(anchors),
        objects=len(boxes),
        poor=poor,
        suggested_sizes=suggested,
        suggested_poor=suggested_poor,
    )


def anchor_ious(boxes: _Floats, shapes: _Floats, grid: _Floats, stride: int) -> _Floats:
    """(A, R) the largest IoU of each box with the anchors of each shape in its image.

    ``boxes`` (R, 4) in network pixels, ``shapes`` (A, 2) widths and heights, ``grid`` (R, 2)
    columns and rows of its feature map, whose cells are ``stride`` network pixels apart. The
    overlap on each axis decreases with the distance of the centres, so the nearest cell has the
    best anchor of each shape.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).T
    centres = (boxes[:, 2:] + boxes[:, :2]).T / 2
    nearest = np.clip(np.round(centres / stride), 0, np.maximum(grid.T - 1, 0))
    distance = np.abs(centres - nearest * stride)
    ious = np.empty((len(shapes), len(boxes)))
    for shape, anchor in enumerate(shapes):
        side = anchor[:, None]
        overlap = np.minimum((sides + side) / 2 - distance, np.minimum(sides, side))
        width, height = np.maximum(overlap, 0)
        both = width * height
        ious[shape] = both / (sides[0] * sides[1] + anchor.prod() - both)
    return ious


def anchor_shapes(sizes: Sequence[float], ratios: Sequence[float]) -> _Floats:
    """(A, 2) widths and heights of the anchors of `detection.ops.anchors.cell_anchors`."""
    roots, sides = np.sqrt(np.array(ratios)), np.array(sizes)[:, None]
    return np.stack([sides / roots, sides * roots], axis=-1).reshape(-1, 2)


def _suggest(good: Mapping[float, _Floats], count: int) -> tuple[float, ...]:
    """Up to ``count`` sizes, chosen greedily: each best covers the objects not yet covered.
    ``good`` has the IoU (R,) of each object, or 0 where it is too small."""
    chosen: list[float] = []
    uncovered = np.ones_like(next(iter(good.values())), dtype=bool)
    while len(chosen) < count:
        size = max(good, key=lambda each: float(good[each][uncovered].sum()))
        gained = uncovered & (good[size] > 0)
        if gained.sum() <= LEAST_GAIN * len(uncovered):
            break
        chosen.append(size)
        uncovered &= ~gained
    return tuple(sorted(chosen))


def _boxes(records: Records) -> tuple[_Floats, _Floats]:
    """Boxes (R, 4) without ignored objects, and the (h, w) of their images (R, 2)."""
    sizes, counted = np.repeat(records.sizes, records.counts, axis=0), ~records.ignore
    return records.boxes[counted].astype(np.float64), sizes[counted].astype(np.float64)


def _scales(sizes: _Floats, anchors: Anchors) -> _Floats:
    """Scale factor (R,) from each image to the network input."""
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    return np.minimum(anchors.short_side / short, anchors.long_side_max / long)


def _histogram(title: str, unit: str, edges: Sequence[float], values: _Floats) -> Histogram:
    """Values beyond the edges count in the outermost bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return Histogram(title, unit, tuple(edges), tuple(int(count) for count in counts))
