"""What is behind the averages of detections: error types, operating points, and what went wrong in
each image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from rich.table import Table

from .columns import Columns, Floats, Ints
from .error_types import BACKGROUND, ERRORS, FOREGROUND, KINDS, ErrorTypes, error_types
from .operating_points import OperatingPoint, best_f1, pooled, threshold_table
from .tables import plain_table, shown, without_nan
from .voc import PrecisionRecall


@dataclass(frozen=True, eq=False)
class Analysis:
    """``thresholds`` (K,) are the scores from which on detections are counted as errors; ``best``
    is the operating point with the largest F1 of all classes together, ``points`` are those of
    chosen scores, ``class_points`` those of each class."""

    errors: ErrorTypes
    thresholds: Floats
    best: OperatingPoint
    points: Sequence[OperatingPoint]
    class_points: Sequence[Sequence[OperatingPoint]]

    @cached_property
    def counts(self) -> dict[str, Ints]:
        """(K,) errors of each type."""
        return self.errors.counts(self.thresholds)

    @cached_property
    def costs(self) -> dict[str, float]:
        """dAP of each type."""
        return self.errors.costs()

    def content(self, classes: Sequence[str]) -> dict[str, Any]:
        """The entries of ``metrics.json``."""
        thresholds = without_nan(dict(zip(classes, self.thresholds.tolist(), strict=True)))
        return {
            "errors": {
                "counts": {name: int(count.sum()) for name, count in self.counts.items()},
                "dap": without_nan(self.costs),
                "per_class": {
                    label: {name: int(count[row]) for name, count in self.counts.items()}
                    for row, label in enumerate(classes)
                },
                "score_thresholds": thresholds,
                "definitions": dict(ERRORS),
                "dap_definition": "rise of AP at IoU 0.5 (101 recalls, all scores) if the errors "
                "of this type alone were mended",
            },
            "operating_points": {
                "best_f1": without_nan(asdict(self.best)),
                "all": [without_nan(asdict(point)) for point in self.points],
                "per_class": {
                    label: [without_nan(asdict(point)) for point in points]
                    for label, points in zip(classes, self.class_points, strict=True)
                },
            },
        }

    def tables(self) -> Iterator[Table]:
        """Errors, and precision and recall at thresholds."""
        table = plain_table()
        for heading in ("error", "count", "dAP"):
            table.add_column(heading, justify="left" if heading == "error" else "right")
        table.add_column(f"counted from {self._counted()} on", overflow="fold")
        for name, definition in ERRORS.items():
            count = str(self.counts[name].sum())
            table.add_row(name, count, shown(self.costs[name], 3), definition)
        yield table
        yield points_table(self.points, self.best)

    def _counted(self) -> str:
        known = set(self.thresholds[~np.isnan(self.thresholds)].tolist())
        if len(known) == 1:
            return f"score {min(known):.3g}"
        return "the score of each class's largest F1"

    # -- images ------------------------------------------------------------------------------------

    def image_header(self) -> dict[str, Any]:
        return {
            "score_thresholds": [None if math.isnan(t) else t for t in self.thresholds.tolist()],
            "iou": FOREGROUND,
            "background_iou": BACKGROUND,
            "definitions": {**KINDS, **ERRORS},
        }

    def image_entries(self, files: Mapping[str, str]) -> list[dict[str, Any]]:
        """One entry for each image; see docs/evaluation.md."""
        columns, errors = self.errors.columns, self.errors
        truth, found = columns.truth, columns.found
        every = np.arange(len(columns.image_ids) + 1)
        objects, detections = (np.searchsorted(part.images, every) for part in (truth, found))
        missed, kept = errors.missed(self.thresholds), errors.kept(self.thresholds)
        names = list(KINDS)
        entries = []
        for place, image_id in enumerate(columns.image_ids):
            own = slice(objects[place], objects[place + 1])
            rows = slice(detections[place], detections[place + 1])
            kinds = [names[kind] for kind in errors.kinds[rows].tolist()]
            counts = dict.fromkeys(ERRORS, 0) | {"missed": int(missed[own].sum())}
            for kind, counted in zip(kinds, kept[rows].tolist(), strict=True):
                if counted and kind in ERRORS:
                    counts[kind] += 1
            entries.append(
                {
                    "image": image_id,
                    "file": files.get(image_id),
                    "wrong": sum(counts.values()),
                    "errors": counts,
                    "objects": {
                        "boxes": truth.boxes[own].tolist(),
                        "labels": truth.labels[own].tolist(),
                        "areas": truth.areas[own].tolist(),
                        "ignore": truth.ignore[own].tolist(),
                        "missed": missed[own].tolist(),
                        "found_by": _within(errors.found_by[own], rows.start),
                    },
                    "detections": {
                        "boxes": found.boxes[rows].tolist(),
                        "labels": found.labels[rows].tolist(),
                        "scores": found.scores[rows].tolist(),
                        "kinds": kinds,
                        "objects": _within(errors.targets[rows], own.start),
                    },
                }
            )
        return entries


def points_table(points: Sequence[OperatingPoint], best: OperatingPoint | None = None) -> Table:
    """A printed table of ``points``, and of the one with the largest F1."""
    table = plain_table()
    for heading in ("score", "found", "right", "P", "R", "F1"):
        table.add_column(heading, justify="right")
    rows = [*points, *([best] if best is not None and not math.isnan(best.score) else [])]
    for point in sorted(rows, key=lambda each: each.score):
        score = f"{point.score:.3f}" + ("*" if point is best else " ")
        numbers = (shown(value, 3) for value in (point.precision, point.recall, point.f1))
        table.add_row(score, str(point.detections), str(point.right), *numbers)
    return table


def analyse(
    columns: Columns,
    curves: Sequence[PrecisionRecall],
    best: Sequence[float],
    score_threshold: float | None,
    scores: Sequence[float],
) -> Analysis:
    """``best`` (K,) are the classes' thresholds with the largest F1. Where nothing of a class is
    right, that of all classes together takes its place; ``score_threshold`` replaces all."""
    together = pooled(curves)
    point = best_f1(together)
    thresholds = np.array(best, dtype=np.float64)
    thresholds[np.isnan(thresholds)] = point.score
    if score_threshold is not None:
        thresholds[:] = score_threshold
    return Analysis(
        error_types(columns),
        thresholds,
        point,
        threshold_table(together, scores),
        [threshold_table(curve, scores) for curve in curves],
    )


def _within(rows: Ints, start: int) -> list[int | None]:
    """Rows of all images as positions in one; None for -1."""
    return [None if row < 0 else row - int(start) for row in rows.tolist()]
