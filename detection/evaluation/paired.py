"""The paired comparison of two evaluations of the same images, with bootstrap intervals.

Both are resampled together (`bootstrap.py`): an image that is hard for both widens the interval of
neither difference. The intervals are of the variance due to the images. That of training, with
other seeds, is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ..errors import ConfigError, DataError, first_few
from ..printing import cell
from .bootstrap import (
    CONFIDENCE,
    METRICS,
    RESAMPLES,
    Draws,
    Estimate,
    Interval,
    bootstrap,
    bootstrap_means,
    draw,
)
from .columns import Columns, Ints, TruthColumns, id_order, keep_classes
from .image_records import ImageRecords
from .report import write_json
from .tables import plain_table, shown, without_nan

#: The measures of which the larger number is better; of all others the smaller one is.
_RISING = ("voc_ap", "mean_true_class_iou")
#: Differences of boxes in px that different files of the same objects have.
_ROUNDING = 0.01
#: Maximum number of printed classes.
_ROWS = 20


@dataclass(frozen=True)
class Difference:
    """One number of both, with the difference second - first; ``better``: the share of the
    resamples where the second one is better, a half of those where both are equal."""

    name: str
    first: Interval
    second: Interval
    difference: Interval
    better: float


@dataclass(frozen=True)
class Comparison:
    """``metrics`` of all images, ``per_class`` the AP at IoU 0.5 of each class of detectors, and
    ``images`` with the errors of both, the one that got worst first."""

    paths: tuple[str, str]
    task: str
    count: int
    resamples: int
    metrics: Sequence[Difference]
    per_class: Sequence[Difference]
    images: Sequence[Mapping[str, Any]]


def compare_records(
    first: ImageRecords, second: ImageRecords, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare two evaluations of the same images with the same truth.

    Raises:
        ConfigError: of different tasks.
        DataError: other images, classes or objects, naming the first that differ.
    """
    if first.task != second.task:
        raise ConfigError(f"{first.path}: {first.task}, {second.path}: {second.task}")
    _expect_same("images", first, second, first.image_ids, second.image_ids)
    _expect_same("classes", first, second, first.classes, second.classes)
    draws = draw(first.image_ids, resamples=resamples, seed=seed)
    per_class: list[Difference] = []
    if first.task == "detection":
        pair = first.columns(), second.columns()
        order = [second.classes.index(name) for name in first.classes]
        pair = pair[0], keep_classes(pair[1], order)
        _expect_same_objects(first, second, *(columns.truth for columns in pair))
        metrics = list(_detection(pair, draws))
        per_class = list(_of_classes(pair, first.classes, draws))
    else:
        _expect_same_labels(first, second)
        metrics = list(_means(first, second, draws))
    return Comparison(
        (str(first.path), str(second.path)),
        first.task,
        len(first.images),
        resamples,
        metrics,
        per_class,
        _images(first, second),
    )


def _detection(pair: tuple[Columns, Columns], draws: Draws) -> Iterator[Difference]:
    wanted = {name: METRICS[name] for name in ("voc_ap50", "voc_ap")}
    one, other = (bootstrap(columns, draws, metrics=wanted) for columns in pair)
    for name in wanted:
        yield _difference(name, one[name], other[name])


def _of_classes(
    pair: tuple[Columns, Columns], classes: Sequence[str], draws: Draws
) -> Iterator[Difference]:
    for label, name in enumerate(classes):
        one, other = (
            bootstrap(keep_classes(columns, [label]), draws, metrics={"voc_ap50": (0.5,)})
            for columns in pair
        )
        yield _difference(name, one["voc_ap50"], other["voc_ap50"], rising=True)


def _means(first: ImageRecords, second: ImageRecords, draws: Draws) -> Iterator[Difference]:
    values = first.values(), second.values()
    names = [name for name in values[0] if name in values[1]]
    defined = [name for name in names if not any(np.isnan(each[name]).any() for each in values)]
    if not defined:
        raise DataError(f"{first.path}, {second.path}: no number is defined for all images")
    one, other = (bootstrap_means({name: v[name] for name in defined}, draws) for v in values)
    for name in defined:
        yield _difference(name, one[name], other[name])


def _difference(
    name: str, one: Estimate, other: Estimate, *, rising: bool | None = None
) -> Difference:
    gain = other.minus(one)
    larger = gain.probability()
    rising = name.startswith(_RISING) if rising is None else rising
    better = larger if rising else 1 - larger
    return Difference(name, one.interval(), other.interval(), gain.interval(), better)


# -- the same images ---------------------------------------------------------------------------


def _expect_same(
    what: str,
    first: ImageRecords,
    second: ImageRecords,
    ones: Sequence[str],
    others: Sequence[str],
) -> None:
    for here, there, missing in (
        (first, second, set(ones) - set(others)),
        (second, first, set(others) - set(ones)),
    ):
        if missing:
            names = first_few([repr(name) for name in sorted(missing, key=id_order)])
            raise DataError(
                f"{there.path}: lacks {len(missing)} {what} of {here.path}: {names}; a comparison "
                f"needs the same {what}"
            )


def _expect_same_objects(
    first: ImageRecords, second: ImageRecords, one: TruthColumns, other: TruthColumns
) -> None:
    ids = first.image_ids
    counts = [np.bincount(each.images, minlength=len(ids)) for each in (one, other)]
    differing = counts[0] != counts[1]
    if not differing.any():
        a, b = _ordered(one), _ordered(other)
        unequal = (
            (one.labels[a] != other.labels[b])
            | (one.ignore[a] != other.ignore[b])
            | (np.abs(one.boxes[a] - other.boxes[b]).max(axis=1, initial=0) > _ROUNDING)
        )
        differing[one.images[a][unequal]] = True
    if differing.any():
        names = first_few([repr(ids[place]) for place in np.flatnonzero(differing)])
        raise DataError(
            f"{first.path}, {second.path}: other objects in {int(differing.sum())} images: {names}"
        )


def _ordered(truth: TruthColumns) -> Ints:
    """An order of the objects that does not depend on that in their file."""
    corners = np.round(truth.boxes, 1).T
    return np.lexsort((*corners, truth.ignore, truth.labels, truth.images))


def _expect_same_labels(first: ImageRecords, second: ImageRecords) -> None:
    try:
        labels = [
            {each["image"]: records.classes[each["label"]] for each in records.images}
            for records in (first, second)
        ]
    except (LookupError, TypeError) as error:
        raise DataError(f"{first.path}, {second.path}: labels are damaged: {error}") from error
    differing = [name for name in first.image_ids if labels[0][name] != labels[1][name]]
    if differing:
        names = first_few([repr(name) for name in differing])
        raise DataError(
            f"{first.path}, {second.path}: another class of {len(differing)} images: {names}"
        )


def _images(first: ImageRecords, second: ImageRecords) -> list[dict[str, Any]]:
    wrong = {each["image"]: each for each in first.images}
    rows = [
        {
            "image": each["image"],
            "file": each.get("file"),
            "wrong_first": wrong[each["image"]]["wrong"],
            "wrong_second": each["wrong"],
        }
        for each in second.images
    ]
    return sorted(
        rows,
        key=lambda row: (row["wrong_first"] - row["wrong_second"], id_order(row["image"])),
    )


# -- what is shown -------------------------------------------------------------------------------


def comparison_tables(comparison: Comparison) -> Iterator[Table]:
    """The numbers of all images, and of each class, the largest difference first."""
    yield _table(f"{comparison.count} images", comparison.metrics)
    if len(comparison.per_class) > 1:
        ranked = sorted(comparison.per_class, key=_size)
        yield _table("voc_ap50 of class", ranked[:_ROWS])


def _size(row: Difference) -> float:
    value = row.difference.value
    return math.inf if math.isnan(value) else -abs(value)


def _table(heading: str, rows: Sequence[Difference]) -> Table:
    table = plain_table(padding=(0, 1, 0, 0))
    table.add_column(heading, overflow="fold")
    for name in ("first", "second", "difference", f"{CONFIDENCE:.0%}", "second better"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        gain = row.difference
        numbers = [shown(row.first.value), shown(row.second.value)]
        if math.isnan(gain.value):
            table.add_row(cell(row.name), *numbers, "-", "-", "-")
            continue
        span = f"{gain.low:+.4f} {gain.high:+.4f}"
        table.add_row(cell(row.name), *numbers, f"{gain.value:+.4f}", span, f"{row.better:.1%}")
    return table


def conclusion(row: Difference) -> str:
    """One sentence on a number of all images."""
    if math.isnan(row.difference.low):
        return f"{row.name}: not defined, nothing can be said"
    if row.difference.low <= 0 <= row.difference.high:
        return f"{row.name}: the interval contains 0, these images do not tell which one is better"
    which = "second" if row.better > 0.5 else "first"
    return f"{row.name}: the {which} one is better, the interval does not contain 0"


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write all of it as JSON; undefined numbers are null."""

    def entry(row: Difference) -> dict[str, Any]:
        spans = {
            name: without_nan(asdict(getattr(row, name)))
            for name in ("first", "second", "difference")
        }
        return {"name": row.name, **spans, **without_nan({"better": row.better})}

    content = {
        "first": comparison.paths[0],
        "second": comparison.paths[1],
        "task": comparison.task,
        "images_compared": comparison.count,
        "resamples": comparison.resamples,
        "confidence": CONFIDENCE,
        "metrics": [entry(row) for row in comparison.metrics],
        "per_class": [entry(row) for row in comparison.per_class],
        "images": list(comparison.images),
    }
    write_json(content, path, indent=1)
