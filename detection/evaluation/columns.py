"""Detections and ground truth of a whole data set as a few long arrays.

M rows · images in the `id_order` of their ids · K classes.

All metrics are computed from these columns: checks are made once, and no result depends on the
order of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import DataError, first_few
from ..structures import Annotation, Detections, Record

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TruthColumns:
    """Every object: ``boxes`` (M, 4) px, ``labels`` (M,), ``images`` (M,), ``ignore`` (M,), and
    ``areas`` (M,) px² of its mask or else its box."""

    boxes: Floats
    labels: Ints
    images: Ints
    ignore: Bools
    areas: Floats


@dataclass(frozen=True, eq=False)
class FoundColumns:
    """Every detection: ``boxes`` (M, 4) px, ``labels`` (M,), ``images`` (M,), ``scores`` (M,)."""

    boxes: Floats
    labels: Ints
    images: Ints
    scores: Floats


@dataclass(frozen=True, eq=False)
class Columns:
    """A data set with its detections. ``images`` of both parts index ``image_ids``, in their
    `id_order`."""

    image_ids: tuple[str, ...]
    num_classes: int
    truth: TruthColumns
    found: FoundColumns


def id_order(image_id: str) -> tuple[int, str]:
    """The key that image ids are sorted by: numbers by value, as pycocotools sorts the ids of COCO,
    then all others. Equal scores are ranked in this order."""
    return int(image_id) if image_id.isdecimal() and len(image_id) < 20 else 10**20, image_id


def gather(
    detections: Mapping[str, Detections], records: Sequence[Record], num_classes: int
) -> Columns:
    """Concatenate everything once, images by `id_order`, rows of an image in their given order.

    Raises DataError for a repeated, missing or unknown image id, a label outside [0, K), and a
    score or box that is not finite or has its corners swapped.
    """
    records = sorted(records, key=lambda record: id_order(record.image_id))
    image_ids = tuple(record.image_id for record in records)
    _check_ids(image_ids, detections)
    truth = gather_truth([record.annotation for record in records])
    found = _found([detections[image_id] for image_id in image_ids])
    return checked(Columns(image_ids, num_classes, truth, found))


def checked(columns: Columns, path: Path | None = None) -> Columns:
    """``columns``, as read from ``path``; raises DataError for labels, boxes and scores as `gather`
    does."""
    try:
        _check(columns)
    except DataError as error:
        raise DataError(f"{path}: {error}" if path else str(error)) from error
    return columns


def _check(columns: Columns) -> None:
    found, image_ids = columns.found, columns.image_ids
    _check_rows("object", columns.truth, image_ids, columns.num_classes)
    _check_rows("detection", found, image_ids, columns.num_classes)
    _refuse("detection", found.images, ~np.isfinite(found.scores), image_ids, "score not finite")


def keep_classes(columns: Columns, labels: Sequence[int]) -> Columns:
    """The objects and detections of some classes alone, ``labels``, which become 0, 1 .. in this
    order."""
    renumbered = np.full(columns.num_classes, -1, dtype=np.int64)
    renumbered[list(labels)] = np.arange(len(labels))

    def kept(rows: TruthColumns | FoundColumns) -> Any:
        known = renumbered[rows.labels] >= 0
        parts = {each.name: getattr(rows, each.name)[known] for each in fields(rows)}
        return type(rows)(**parts | {"labels": renumbered[parts["labels"]]})

    truth, found = kept(columns.truth), kept(columns.found)
    return Columns(columns.image_ids, len(labels), truth, found)


def gather_truth(annotations: Sequence[Annotation]) -> TruthColumns:
    """The objects of several images, in order, with their areas."""
    # The leading empty part is for a data set without images.
    parts = [Annotation.empty(), *(annotation.to("cpu") for annotation in annotations)]
    boxes = torch.cat([part.boxes for part in parts]).double().numpy()
    areas = torch.cat([_areas(part) for part in parts]).numpy()
    return TruthColumns(
        boxes=boxes,
        labels=torch.cat([part.labels for part in parts]).numpy(),
        images=_image_index([len(annotation) for annotation in annotations]),
        ignore=torch.cat([part.ignore for part in parts]).numpy(),
        areas=np.where(np.isnan(areas), (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), areas),
    )


def _areas(annotation: Annotation) -> torch.Tensor:
    """(R,) nan where the box's area is meant."""
    if annotation.areas is not None:
        return annotation.areas
    return torch.full((len(annotation),), torch.nan, dtype=torch.float64)


def _found(detections: list[Detections]) -> FoundColumns:
    every = Detections.cat([Detections.empty(), *(part.to("cpu") for part in detections)])
    return FoundColumns(
        boxes=every.boxes.detach().double().numpy(),
        labels=every.labels.numpy(),
        images=_image_index([len(part) for part in detections]),
        scores=every.scores.detach().double().numpy(),
    )


def _image_index(rows: list[int]) -> Ints:
    return np.repeat(np.arange(len(rows), dtype=np.int64), np.array(rows, dtype=np.int64))


def _check_ids(image_ids: tuple[str, ...], detections: Mapping[str, Detections]) -> None:
    repeated = [a for a, b in pairwise(image_ids) if a == b]
    if repeated:
        raise DataError(
            f"data set: {first_few(map(repr, repeated))}: image id used by more than one record"
        )
    missing = [image_id for image_id in image_ids if image_id not in detections]
    if missing:
        raise DataError(
            f"detections: {first_few(map(repr, missing))}: no entry for {len(missing)} of "
            f"{len(image_ids)} images of the data set (an image where nothing was found needs an "
            "empty entry)"
        )
    unknown = sorted(set(detections) - set(image_ids))
    if unknown:
        raise DataError(
            f"detections: {first_few(map(repr, unknown))}: image id not in the data set"
        )


def _check_rows(
    kind: str, rows: TruthColumns | FoundColumns, image_ids: tuple[str, ...], num_classes: int
) -> None:
    unknown = (rows.labels < 0) | (rows.labels >= num_classes)
    _refuse(kind, rows.images, unknown, image_ids, f"label outside 0..{num_classes - 1}")
    broken = ~np.isfinite(np.abs(rows.boxes).max(axis=1))
    _refuse(kind, rows.images, broken, image_ids, "box not finite")
    swapped = (rows.boxes[:, 2:] - rows.boxes[:, :2]).min(axis=1) < 0
    _refuse(kind, rows.images, swapped, image_ids, "box with x2 < x1 or y2 < y1")


def _refuse(kind: str, images: Ints, bad: Bools, image_ids: tuple[str, ...], reason: str) -> None:
    if not bad.any():
        return
    row = int(bad.argmax())
    position = row - int(np.searchsorted(images, images[row]))
    raise DataError(
        f"image {image_ids[images[row]]!r}: {kind} {position}: {reason} ({int(bad.sum())} in all)"
    )
