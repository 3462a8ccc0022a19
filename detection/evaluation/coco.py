"""The twelve COCO metrics of detections, for any data set.

Computed by pycocotools, the reference, or by hotcoco, an independent library in Rust with the same
numbers, from our own structures. That avoids problems of COCO files that pycocotools does not
detect: annotation id 0 or repeated ids (AP falls silently), a missing ``iscrowd`` or ``area``,
unknown ids, and an empty result list.

*small* (up to 32 x 32 px), *medium* and *large* (from 96 x 96 px) refer to the ``area`` in the
annotations, which in COCO is that of the mask; to the area of the box where they have none. Ignored
objects (VOC *difficult*, COCO *crowd*) are crowds: a detection that lies in one by at least the IoU
threshold, as a fraction of its own area, is neither right nor wrong.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from ..extras import require_extra
from .columns import Columns, Floats, FoundColumns, TruthColumns, keep_classes
from .definitions import COCO_SIZES

#: The reference, whose numbers are published.
PYCOCOTOOLS = "pycocotools"

#: In the order of ``COCOeval.stats``.
COCO_METRICS = (
    "coco_ap",
    "coco_ap50",
    "coco_ap75",
    "coco_ap_small",
    "coco_ap_medium",
    "coco_ap_large",
    "coco_ar1",
    "coco_ar10",
    "coco_ar100",
    "coco_ar_small",
    "coco_ar_medium",
    "coco_ar_large",
)


@dataclass(frozen=True)
class CocoScores:
    """``metrics`` by the names of COCO_METRICS and the AP of each class; nan without objects."""

    metrics: dict[str, float]
    class_ap: tuple[float, ...]


#: ``spread(function, items)``: the function of each item, in order; see `Group.spread`.
Spread = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


def coco_scores(
    columns: Columns,
    sizes: tuple[float, float] = COCO_SIZES,
    library: str = PYCOCOTOOLS,
    spread: Spread = map,
) -> CocoScores:
    """The box evaluation of one of `LIBRARIES` with its own parameters (100 detections per image
    and class), but for ``sizes``, the sides in px of the squares that part small, medium and large
    objects. ``spread`` shares pycocotools' classes among processes, with the same numbers to the
    last bit. Raises ConfigError where the library is not installed."""
    return LIBRARIES[library](columns, sizes, spread)


def describe_library(library: str) -> str:
    """The note on numbers that are not of the reference."""
    return f"COCO numbers computed by {library} {version(library)} instead of {PYCOCOTOOLS}"


def _by_pycocotools(columns: Columns, sizes: tuple[float, float], spread: Spread) -> CocoScores:
    """Class by class, since a whole data set takes gigabytes in pycocotools' form: classes are
    independent but for the means, which it makes of all together."""
    from pycocotools.cocoeval import COCOeval

    whole = COCOeval(iouType="bbox")
    params = whole.params
    ious, last = len(params.iouThrs), (0, len(params.areaRng), len(params.maxDets))
    # The leading empty parts are for a data set without classes; K is the last axis but two.
    parts: dict[str, list[Floats]] = {
        "precision": [np.zeros((ious, len(params.recThrs), *last))],
        "recall": [np.zeros((ious, *last))],
    }
    rows = np.concatenate([columns.truth.labels, columns.found.labels])
    longest_first = np.argsort(-np.bincount(rows, minlength=columns.num_classes), kind="stable")
    labels = longest_first.tolist()
    curves = dict(zip(labels, spread(partial(_class_curves, columns, sizes), labels), strict=True))
    for label in range(columns.num_classes):
        for name, arrays in parts.items():
            arrays.append(curves[label][name])
    whole.eval = {name: np.concatenate(arrays, axis=-3) for name, arrays in parts.items()}
    return summarized(whole)


def _class_curves(columns: Columns, sizes: tuple[float, float], label: int) -> dict[str, Floats]:
    """What the averages need of a class: ``precision`` (T IoUs, 101 recalls, 1, 4 areas, 3 counts)
    and ``recall`` without the second axis."""
    evaluator = matched(_of_class(columns, label), sizes)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    return {name: evaluator.eval[name] for name in ("precision", "recall")}


def _of_class(columns: Columns, label: int) -> Columns:
    """The images with objects or detections of a class, and these alone."""
    one = keep_classes(columns, [label])
    images = np.union1d(one.truth.images, one.found.images)
    return Columns(
        tuple(columns.image_ids[image] for image in images),
        1,
        replace(one.truth, images=np.searchsorted(images, one.truth.images)),
        replace(one.found, images=np.searchsorted(images, one.found.images)),
    )


def _by_hotcoco(columns: Columns, sizes: tuple[float, float], spread: Spread) -> CocoScores:
    """In less than a second, so that nothing is spread."""
    require_extra("hotcoco")
    from hotcoco import COCO, COCOeval

    truth, found = columns.truth, columns.found
    index = COCO.from_arrays(
        [{"id": image + 1} for image in range(len(columns.image_ids))],
        [{"id": label + 1, "name": str(label)} for label in range(columns.num_classes)],
        truth.images + 1,
        truth.labels + 1,
        _with_sides(truth.boxes),
        area=truth.areas,
        iscrowd=truth.ignore.astype(np.int64),
    )
    ids = [found.images + 1, found.labels + 1, found.scores]
    image, label, score = (column[:, None].astype(np.float64) for column in ids)
    results = np.concatenate([image, _with_sides(found.boxes), score, label], axis=1)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # That sizes other than COCO's give other numbers, as our definitions say too.
        warnings.simplefilter("ignore", UserWarning)
        evaluator = COCOeval(index, index.load_res(results), "bbox")
        evaluator.params.area_rng = _area_ranges(evaluator.params.area_rng, sizes)
        evaluator.evaluate()
        evaluator.accumulate()
        return summarized(evaluator)


#: The values of ``eval.coco_library``.
LIBRARIES: Mapping[str, Callable[[Columns, tuple[float, float], Spread], CocoScores]] = {
    PYCOCOTOOLS: _by_pycocotools,
    "hotcoco": _by_hotcoco,
}


def summarized(evaluator: Any) -> CocoScores:
    """The numbers of a library's COCOeval whose ``eval`` is complete."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.summarize()
    metrics = {
        name: _defined(value) for name, value in zip(COCO_METRICS, evaluator.stats, strict=True)
    }
    return CocoScores(metrics, _class_ap(evaluator.eval["precision"]))


def matched(columns: Columns, sizes: tuple[float, float]) -> Any:
    """COCOeval of pycocotools that has matched detections and objects; ids are rows from 1 on."""
    from pycocotools.cocoeval import (
        COCOeval,  # late, with the rest of the library: a fifth of a second
    )

    objects = columns.truth
    truth = [
        {**row, "area": area, "iscrowd": int(ignore)}
        for row, area, ignore in zip(
            _rows(objects), objects.areas.tolist(), objects.ignore.tolist(), strict=True
        )
    ]
    found = [
        {**row, "iscrowd": 0, "score": score}
        for row, score in zip(_rows(columns.found), columns.found.scores.tolist(), strict=True)
    ]
    # pycocotools reports its progress with print().
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(_index(columns, truth), _index(columns, found), "bbox")
        evaluator.params.areaRng = _area_ranges(evaluator.params.areaRng, sizes)
        evaluator.evaluate()
    return evaluator


def _area_ranges(default: list[list[float]], sizes: tuple[float, float]) -> list[list[float]]:
    """The areas of all, small, medium and large objects, from those of a library."""
    (least, most), (small, large) = default[0], (side**2 for side in sizes)
    return [[least, most], [least, small], [small, large], [large, most]]


def _rows(boxes: TruthColumns | FoundColumns) -> Iterator[dict[str, Any]]:
    """Rows in COCO's form; ids of images, categories and rows start at 1."""
    placed = _with_sides(boxes.boxes)
    columns = zip(
        (boxes.images + 1).tolist(),
        (boxes.labels + 1).tolist(),
        placed.tolist(),
        placed[:, 2:].prod(axis=1).tolist(),
        strict=True,
    )
    for row, (image, category, box, area) in enumerate(columns, start=1):
        yield {"id": row, "image_id": image, "category_id": category, "bbox": box, "area": area}


def _with_sides(boxes: Floats) -> Floats:
    """(M, 4) x, y, width, height of the corners ``boxes``."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _index(columns: Columns, annotations: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    index = COCO()
    index.dataset = {
        "info": {},
        "images": [{"id": image + 1} for image in range(len(columns.image_ids))],
        "categories": [{"id": label + 1} for label in range(columns.num_classes)],
        "annotations": annotations,
    }
    index.createIndex()
    return index


def _class_ap(precision: Floats) -> tuple[float, ...]:
    """AP per class from ``precision`` (T IoUs, 101 recalls, K, 4 areas, 3 counts)."""
    per_class = precision[:, :, :, 0, -1].mean(axis=(0, 1))  # all areas, 100 detections
    return tuple(_defined(value) for value in per_class)


def _defined(value: float) -> float:
    """Both libraries write -1 for undefined numbers."""
    return float("nan") if value < 0 else float(value)
