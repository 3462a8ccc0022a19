"""How many detections of each kind there are from each score on, for the page of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .columns import Columns, Floats, Ints
from .error_types import KINDS, error_types
from .image_records import ImageRecords

#: Beyond this number of classes only the counts of all together are in the page.
MAX_CLASSES = 100
#: Sizes of objects, whose areas are parted by two squares.
SIZES = ("small", "medium", "large")
#: The scores of the slider.
SCORES = tuple(round(number / 100, 2) for number in range(100))


def own_scores(records: ImageRecords) -> list[float | None] | None:
    """Of each class the score from which on `eval` counted errors, None for no score at all; None
    in a file that does not say so."""
    own = records.header.get("score_thresholds")
    known = isinstance(own, list) and len(own) == len(records.classes)
    return [None if each is None else float(each) for each in own] if known and own else None


def own_words(own: Sequence[float | None] | None) -> str:
    known = {each for each in own or () if each is not None}
    if len(known) == 1 and own and None not in own:
        return f"from {known.pop():.3g} on, as eval counted"
    return "each class from the score of its largest F1 on, as eval counted"


def count_errors(
    columns: Columns, sides: tuple[float, float], own: Sequence[float | None] | None
) -> dict[str, Any]:
    """The number of objects, and of detections of each kind and missed objects from each of SCORES
    on, and last, if they are known, from each class's ``own`` score: for all sizes and each of
    `SIZES` a list by class, the last one of all classes together.

    A detection has the size of the object that it is about, else its own."""
    errors = error_types(columns)
    truth, found, classes = columns.truth, columns.found, columns.num_classes
    every = [np.full(classes, score) for score in SCORES]
    if own is not None:
        every.append(np.array([np.inf if score is None else score for score in own]))
    shape = (len(SIZES), classes, len(every))
    of_object = sizes_of(truth.areas, sides)
    areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)
    about = np.append(truth.areas, np.nan)[errors.targets]
    of_detection = sizes_of(np.where(errors.targets < 0, areas, about), sides)
    tables = {name: np.zeros(shape, np.int64) for name in (*KINDS, "missed")}
    del tables["ignored"]
    # The last score of the slider that each detection reaches.
    place = np.searchsorted(SCORES, found.scores, side="right") - 1
    for number, name in enumerate(KINDS):
        if name not in tables:
            continue
        rows = errors.kinds == number
        exact = np.zeros((*shape[:2], len(SCORES)), np.int64)
        np.add.at(exact, (of_detection[rows], found.labels[rows], place[rows]), 1)
        tables[name][..., : len(SCORES)] = exact[..., ::-1].cumsum(axis=-1)[..., ::-1]
        for each in every[len(SCORES) :]:
            kept = rows & errors.kept(each)
            np.add.at(tables[name][..., -1], (of_detection[kept], found.labels[kept]), 1)
    for number, thresholds in enumerate(every):
        rows = errors.missed(thresholds)
        np.add.at(tables["missed"][..., number], (of_object[rows], truth.labels[rows]), 1)
    objects = np.zeros(shape[:2], np.int64)
    np.add.at(objects, (of_object[~truth.ignore], truth.labels[~truth.ignore]), 1)
    known = classes if classes <= MAX_CLASSES else 0
    return {
        "objects": _with_sums(objects, known),
        "kinds": {name: _with_sums(table, known) for name, table in tables.items()},
    }


def _with_sums(table: Ints, known: int) -> list[Any]:
    """(sizes, classes, ..) with all sizes first, and all classes after the first ``known``."""
    sized = np.concatenate([table.sum(axis=0, keepdims=True), table])
    every = sized.sum(axis=1, keepdims=True)
    rows: list[Any] = np.concatenate([sized[:, :known], every], axis=1).tolist()
    return rows


def sizes_of(areas: Floats, sides: tuple[float, float]) -> Ints:
    """The number in `SIZES` of each area, as in COCO."""
    small, large = sides
    return np.where(areas <= small**2, 0, np.where(areas <= large**2, 1, 2))
