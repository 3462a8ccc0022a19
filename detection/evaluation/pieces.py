"""An evaluation of detections that are matched piece by piece, for data sets that do not fit in
memory.

Average precision needs of a detection its score and whether it is right. These are kept in a file
for each class, and ranked one class after the other: memory is that of one piece, or of the class
with most detections. Intervals, error types and the largest F1 of all classes together, which need
all detections at once, are left out.

D detections · K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from .analysis import points_table
from .class_scores import ClassScores, DetectionNumbers, class_scores, detection_metrics
from .coco_pieces import CocoCurves, coco_curves, coco_matches, coco_scores_of
from .columns import Columns, Ints
from .confusion import IOU, SCORE, Confusion, confusion
from .definitions import COCO_SIZES
from .notes import describe_empty, describe_recalls
from .operating_points import THRESHOLDS, OperatingPoint, point_of, threshold_table
from .tables import without_nan
from .voc import (
    FLOAT_RECALLS,
    VOC_IOU,
    PrecisionRecall,
    eleven_point_ap,
    mean_defined,
    outcomes,
)

_ROW = [("score", "f8"), ("image", "i4"), ("right", "?"), ("counts", "?")]
_COCO = [("rank", "u1"), ("matches", "u2", (4,)), ("ignored", "u2", (4,))]


@dataclass(frozen=True, eq=False)
class PiecesEvaluation(DetectionNumbers):
    """``recalls`` are the eleven-point means with the recalls of other tools, ``points`` the
    operating points of all classes together, ``class_points`` those of each class."""

    _: KW_ONLY
    recalls: dict[str, float]
    points: Sequence[OperatingPoint] = ()
    class_points: Sequence[Sequence[OperatingPoint]] = ()
    resamples: int = 0

    def more(self) -> dict[str, Any]:
        names = [row.name for row in self.per_class]
        return {
            "confusion": self.confusion_content(),
            "voc_ap50_11point_recalls": without_nan(self.recalls),
            "operating_points": {
                "all": [without_nan(asdict(point)) for point in self.points],
                "per_class": {
                    name: [without_nan(asdict(point)) for point in points]
                    for name, points in zip(names, self.class_points, strict=True)
                },
            },
        }

    def tables(self) -> Iterator[Table]:
        yield points_table(self.points)


@dataclass
class Pieces:
    """Takes pieces of a data set with its detections, and ranks them all at the end. ``folder`` is
    an empty one for about 30 bytes a detection; ``sizes`` as in `evaluate`."""

    folder: Path
    classes: Sequence[str]
    coco: bool = True
    sizes: tuple[float, float] = COCO_SIZES
    images: int = 0
    _confused: Ints = field(init=False)
    #: (K,) to be found, (K,) that need not be, and (K, A) of each size.
    _objects: Ints = field(init=False)
    _ignored: Ints = field(init=False)
    _of_size: Ints = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.classes)
        self._row = np.dtype(_ROW + (_COCO if self.coco else []))
        self._confused = np.zeros((count + 1, count + 1), dtype=np.int64)
        self._objects, self._ignored = (np.zeros(count, dtype=np.int64) for _ in range(2))
        self._of_size = np.zeros((count, 4), dtype=np.int64)

    def add(self, piece: Columns, ranks: Ints) -> None:
        """Match the detections of further images. ``ranks`` (images of the piece,) are those among
        the images of all pieces, by which equal scores are ordered."""
        truth, found = piece.truth, piece.found
        order = np.lexsort((-found.scores, found.labels))
        rows = np.zeros(len(order), dtype=self._row)
        rows["score"], rows["image"] = found.scores[order], ranks[found.images[order]]
        rows["right"], rows["counts"] = outcomes(piece, order, VOC_IOU)
        if self.coco:
            matches = coco_matches(piece, self.sizes)
            rows["rank"] = matches.rank[order]
            rows["matches"], rows["ignored"] = matches.matches[order], matches.ignored[order]
            self._of_size += matches.objects
        count = len(self.classes)
        starts = np.searchsorted(found.labels[order], np.arange(count + 1))
        for label in np.flatnonzero(np.diff(starts)).tolist():
            with self._file(label).open("ab") as file:
                rows[starts[label] : starts[label + 1]].tofile(file)
        self.images += len(piece.image_ids)
        self._confused += confusion(piece).counts
        self._objects += np.bincount(truth.labels[~truth.ignore], minlength=count)
        self._ignored += np.bincount(truth.labels[truth.ignore], minlength=count)

    def evaluation(self, scores: Sequence[float] = THRESHOLDS) -> PiecesEvaluation:
        """The numbers; ``scores`` are those of the table of thresholds."""
        rows: list[ClassScores] = []
        curves: list[CocoCurves] = []
        points: list[list[OperatingPoint]] = []
        recalls: dict[str, list[float]] = {name: [] for name in FLOAT_RECALLS}
        for label, name in enumerate(self.classes):
            curve, of_coco = self._ranked(label)
            curves += [of_coco] if of_coco else []
            rows.append(class_scores(name, curve, math.nan))
            points.append(threshold_table(curve, scores))
            for kind, values in FLOAT_RECALLS.items():
                recalls[kind].append(eleven_point_ap(curve, values))
        coco = coco_scores_of(curves) if curves else None
        if coco:
            pairs = zip(rows, coco.class_ap, strict=True)
            rows = [replace(row, coco_ap=ap) for row, ap in pairs]
        metrics = detection_metrics(rows, coco)
        means = {name: mean_defined(values) for name, values in recalls.items()}
        return PiecesEvaluation(
            self.images,
            metrics,
            tuple(rows),
            Confusion(self._confused, SCORE, IOU),
            sizes=self.sizes,
            scores=tuple(scores),
            recalls=means,
            points=[self._together(each) for each in zip(*points, strict=True)],
            class_points=points,
            notes=(
                *describe_empty(self._objects.tolist(), self.classes),
                *describe_recalls(metrics["voc_ap50_11point"], means),
            ),
        )

    def _ranked(self, label: int) -> tuple[PrecisionRecall, CocoCurves | None]:
        path = self._file(label)
        rows = np.fromfile(path, dtype=self._row) if path.exists() else np.zeros(0, self._row)
        # Equal scores by image; rows of an image are in their order.
        order = np.lexsort((rows["image"], -rows["score"]))
        kept = order[rows["counts"][order]]
        curve = PrecisionRecall(
            scores=rows["score"][kept],
            right=np.cumsum(rows["right"][kept], dtype=np.int64),
            objects=int(self._objects[label]),
            ignored=int(self._ignored[label]),
            detections=len(rows),
        )
        if not self.coco:
            return curve, None
        ranked = rows[order]
        matched = ranked["rank"], ranked["matches"], ranked["ignored"]
        return curve, coco_curves(*matched, self._of_size[label])

    def _together(self, points: Sequence[OperatingPoint]) -> OperatingPoint:
        """The classes' operating points at one score as one of all detections."""
        taken = sum(point.detections for point in points)
        right = sum(point.right for point in points)
        return point_of(points[0].score, taken, right, int(self._objects.sum()))

    def _file(self, label: int) -> Path:
        return self.folder / f"{label}.rows"
