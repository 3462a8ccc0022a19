"""Warnings beside the numbers of detections: classes without objects, labels that look permuted,
recalls of other tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from .columns import Columns, Ints
from .voc import VOC_IOU, area_ap, best_objects, precision_recall


def describe_labels(columns: Columns, names: Sequence[str], mean_ap: float) -> Iterator[str]:
    """Notes on classes without objects and on labels that look permuted."""
    objects = np.bincount(columns.truth.labels[~columns.truth.ignore], minlength=len(names))
    yield from describe_empty(objects.tolist(), names)
    # Right boxes with wrong names indicate class names in another order.
    if mean_ap < 0.01 and len(names) > 1:
        yield from permuted_labels(columns, names)


def describe_empty(objects: Sequence[int], names: Sequence[str]) -> Iterator[str]:
    """A note on the classes without ``objects``."""
    if not any(objects):
        yield "no objects to find: every average precision is undefined"
    elif empty := [name for name, count in zip(names, objects, strict=True) if not count]:
        yield f"without objects, left out of the means: {', '.join(empty)}"


def describe_recalls(exact: float, means: Mapping[str, float]) -> Iterator[str]:
    """A note if floating-point recalls, as other tools have them, give another 11-point AP."""
    if any(abs(mean - exact) > 1e-9 for mean in means.values()):
        yield (
            f"voc_ap50_11point is {exact:.4f} at exact recalls, {means['matlab']:.4f} at those of "
            f"the VOC kit (MATLAB's 0:0.1:1), {means['python']:.4f} at those of its Python ports "
            "(numpy.arange)"
        )


def permuted_labels(columns: Columns, classes: Sequence[str]) -> list[str]:
    """The note, if the boxes without labels have an AP above 0.3; else nothing."""
    agnostic = _without_classes(columns)
    if area_ap(precision_recall(agnostic, iou=VOC_IOU)[0]) > 0.3:
        return [_permutation(columns, agnostic, classes)]
    return []


def _without_classes(columns: Columns) -> Columns:
    """The same boxes as objects of a single class."""
    return replace(
        columns,
        num_classes=1,
        truth=replace(columns.truth, labels=np.zeros_like(columns.truth.labels)),
        found=replace(columns.found, labels=np.zeros_like(columns.found.labels)),
    )


def _permutation(columns: Columns, agnostic: Columns, classes: Sequence[str]) -> str:
    """A note with the class that each class is mostly found as."""
    overlap, target = best_objects(agnostic)
    hits = np.flatnonzero(overlap >= VOC_IOU)
    # Detections of every score and class lie on an object: only the best of each object counts.
    hits = hits[np.argsort(-columns.found.scores[hits], kind="stable")]
    objects, first = np.unique(target[hits], return_index=True)
    counts: Ints = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (columns.truth.labels[objects], columns.found.labels[hits[first]]), 1)
    pairs = [
        f"{classes[true]!r} is found as {classes[row.argmax()]!r}"
        for true, row in enumerate(counts)
        if row.any() and row.argmax() != true
    ]
    return f"the labels look permuted (boxes are right, names are wrong): {', '.join(pairs)}"
