"""The evaluation of detections: VOC and COCO average precision, overall and per class.

R objects · D detections · K classes. Numbers are fractions in [0, 1]; what is not defined, such as
the AP of a class without objects, is nan and left out of every mean.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import DataError
from ..structures import Detections, Record
from .coco import COCO_METRICS, CocoScores, coco_scores
from .columns import Columns, Floats, gather
from .confusion import Confusion, confusion
from .figures import MATRIX_LIMIT, confusion_figure, pr_figure
from .ilsvrc import outcomes as ilsvrc_outcomes
from .permuted import permuted_labels
from .report import Evaluation, shown, without_nan
from .voc import (
    FLOAT_RECALLS,
    VOC_IOU,
    PrecisionRecall,
    area_ap,
    eleven_point_ap,
    precision_recall,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFINITIONS: Mapping[str, str] = {
    "voc_ap50": "VOC AP at IoU >= 0.5, area under the curve (VOC 2010 and later), difficult "
    "objects ignored; mean over classes with objects",
    "voc_ap50_11point": "VOC AP at IoU >= 0.5, mean precision at the 11 recalls 0, 0.1 .. 1, exact "
    "(VOC 2007; a note says where the kit's floating point gives another number), difficult "
    "objects ignored; mean over classes with objects",
    "ilsvrc_ap": "ILSVRC DET AP, area under the curve, at IoU >= 0.5, of objects of w x h px >= "
    "w h / ((w + 10) (h + 10)) if that is less; mean over classes with objects",
    "coco_ap": "COCO AP, mean over IoU 0.50:0.05:0.95, 101 recalls, 100 detections per image and "
    "class",
    "coco_ap50": "COCO AP at IoU 0.50",
    "coco_ap75": "COCO AP at IoU 0.75",
    "coco_ap_small": "COCO AP of objects with an area up to 32 x 32 px (the "
    "annotation's `area`, a mask's in COCO; the box's where there is none)",
    "coco_ap_medium": "COCO AP of objects with an area from 32 x 32 to 96 x 96 px",
    "coco_ap_large": "COCO AP of objects with an area from 96 x 96 px",
    "coco_ar1": "COCO recall, mean over IoU 0.50:0.05:0.95, 1 detection per image and class",
    "coco_ar10": "COCO recall with 10 detections per image and class",
    "coco_ar100": "COCO recall with 100 detections per image and class",
    "coco_ar_small": "COCO recall, 100 detections, area up to 32 x 32 px",
    "coco_ar_medium": "COCO recall, 100 detections, area from 32 x 32 to 96 x 96 px",
    "coco_ar_large": "COCO recall, 100 detections, area from 96 x 96 px",
}

CLASS_DEFINITIONS: Mapping[str, str] = {
    "objects": "objects to be found",
    "ignored": "difficult or crowd objects, neither right nor wrong",
    "detections": "detections of any score",
    "threshold": "the score threshold with the largest F1 at IoU >= 0.5",
    "precision": "fraction of the detections at that threshold or above that are right",
    "recall": "fraction of the objects found at that threshold",
    "f1": "harmonic mean of that precision and recall",
    "voc_ap50_11point_recalls": "voc_ap50_11point with the recalls as the kit computes them "
    "(matlab: 0:0.1:1, whose fourth is above 3/10) and as its ports do (python: numpy.arange, also "
    "above 6/10 and 7/10)",
}


@dataclass(frozen=True)
class ClassScores:
    """One row of the per-class table; see DEFINITIONS and CLASS_DEFINITIONS.

    ``coco_ap`` and ``ilsvrc_ap`` are nan where they were not asked for, ``threshold`` where nothing
    was found.
    """

    name: str
    objects: int
    ignored: int
    detections: int
    voc_ap50: float
    voc_ap50_11point: float
    coco_ap: float
    threshold: float
    precision: float
    recall: float
    f1: float
    ilsvrc_ap: float = math.nan


@dataclass(frozen=True, eq=False)
class DetectionEvaluation(Evaluation):
    """The numbers of one set of detections; without COCO only ``voc_ap50``, ``voc_ap50_11point``.

    ``curves`` are in label order.
    """

    per_class: tuple[ClassScores, ...]
    curves: tuple[PrecisionRecall, ...]
    confusion: Confusion

    task = "detection"
    row_type = ClassScores
    definitions = DEFINITIONS
    class_definitions = CLASS_DEFINITIONS
    headings: ClassVar[Mapping[str, str]] = {
        "objects": "objects",
        "ignored": "ignored",
        "detections": "found",
        "voc_ap50": "AP50\narea",
        "voc_ap50_11point": "AP50\n11-pt",
        "coco_ap": "COCO\nAP",
        "ilsvrc_ap": "DET\nAP",
        "precision": "P",
        "recall": "R",
        "threshold": "score",
    }
    cost = "network and suppression, without reading"
    digits = 3
    max_rows = None

    @staticmethod
    def rank(row: ClassScores) -> float:
        """Best AP first."""
        return -row.voc_ap50

    def more(self) -> dict[str, Any]:
        confusion = {
            "counts": self.confusion.counts.tolist(),
            "score": self.confusion.score,
            "iou": self.confusion.iou,
            "layout": "row found as, column truly is; last: background",
        }
        recalls = without_nan(eleven_point_means(self.curves))
        return {"confusion": confusion, "voc_ap50_11point_recalls": recalls}

    def total(self, name: str) -> str:
        """Sums of the counts, and the means that are metrics."""
        if name in ("objects", "ignored", "detections"):
            return str(sum(getattr(row, name) for row in self.per_class))
        return shown(self.metrics[name], self.digits) if name in self.metrics else ""

    def remarks(self) -> Iterator[str]:
        for name, heading in self.headings.items():
            if name in CLASS_DEFINITIONS:
                yield f"{heading}: {CLASS_DEFINITIONS[name]}"

    def figures(self) -> dict[str, Figure]:
        names = [row.name for row in self.per_class]
        figures = {"pr_curve.png": pr_figure(self.ranked_curves(), self.metrics["voc_ap50"])}
        if 0 < len(names) <= MATRIX_LIMIT:
            figures["confusion_matrix.png"] = confusion_figure(names, self.confusion)
        return figures

    def ranked_curves(self) -> dict[str, PrecisionRecall]:
        """The curves of the classes with objects, best first."""
        curves = {row.name: curve for row, curve in zip(self.per_class, self.curves, strict=True)}
        return {row.name: curves[row.name] for row in self.ranked if row.objects}


def evaluate(
    detections: Mapping[str, Detections],
    records: Sequence[Record],
    classes: Sequence[str],
    *,
    coco: bool = True,
    ilsvrc: bool = False,
) -> DetectionEvaluation:
    """Score the detections (original pixels) of every image of a data set.

    An image where nothing was found has an empty Detections. ``coco=False`` leaves out the COCO
    numbers, which take most of the time; ``ilsvrc`` adds those of ILSVRC DET. The order of records
    and detections does not matter.

    Raises DataError for image ids that do not correspond, repeated ids or class names, labels
    outside [0, K), and scores or boxes that are not finite.
    """
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise DataError(f"classes: {repeated[0]!r}: named more than once")
    columns = gather(detections, records, len(classes))
    return evaluate_columns(columns, classes, coco=coco, ilsvrc=ilsvrc)


def evaluate_columns(
    columns: Columns, classes: Sequence[str], *, coco: bool = True, ilsvrc: bool = False
) -> DetectionEvaluation:
    """`evaluate` for detections that are beside their objects already."""
    curves = precision_recall(columns, iou=VOC_IOU)
    scores = coco_scores(columns) if coco else None
    class_ap = scores.class_ap if scores else (math.nan,) * len(classes)
    rows = tuple(
        _class_scores(name, curve, ap)
        for name, curve, ap in zip(classes, curves, class_ap, strict=True)
    )
    if ilsvrc:
        matched = precision_recall(columns, iou=VOC_IOU, match=ilsvrc_outcomes)
        pairs = zip(rows, matched, strict=True)
        rows = tuple(replace(row, ilsvrc_ap=area_ap(curve)) for row, curve in pairs)
    metrics = _metrics(rows, scores)
    if ilsvrc:
        metrics["ilsvrc_ap"] = mean_defined(row.ilsvrc_ap for row in rows)
    notes = (
        *_notes(columns, rows, metrics["voc_ap50"]),
        *_recall_note(metrics["voc_ap50_11point"], eleven_point_means(curves)),
    )
    images = len(columns.image_ids)
    return DetectionEvaluation(images, metrics, rows, curves, confusion(columns), notes=notes)


def mean_defined(values: Iterable[float]) -> float:
    """Mean of the values that are not nan; nan when there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def eleven_point_means(curves: Iterable[PrecisionRecall]) -> dict[str, float]:
    """The mean 11-point AP with each of `FLOAT_RECALLS`."""
    every = list(curves)
    return {
        name: mean_defined(eleven_point_ap(curve, recalls) for curve in every)
        for name, recalls in FLOAT_RECALLS.items()
    }


def _metrics(rows: Sequence[ClassScores], coco: CocoScores | None) -> dict[str, float]:
    voc = {
        "voc_ap50": mean_defined(row.voc_ap50 for row in rows),
        "voc_ap50_11point": mean_defined(row.voc_ap50_11point for row in rows),
    }
    return voc | ({name: coco.metrics[name] for name in COCO_METRICS} if coco else {})


def _class_scores(name: str, curve: PrecisionRecall, coco_ap: float) -> ClassScores:
    threshold, precision, recall, f1 = _best_f1(curve)
    return ClassScores(
        name=name,
        objects=curve.objects,
        ignored=curve.ignored,
        detections=curve.detections,
        voc_ap50=area_ap(curve),
        voc_ap50_11point=eleven_point_ap(curve),
        coco_ap=coco_ap,
        threshold=threshold,
        precision=precision,
        recall=recall,
        f1=f1,
    )


def _best_f1(curve: PrecisionRecall) -> tuple[float, float, float, float]:
    """Threshold, precision, recall and F1 where F1 is largest; of equal F1 the highest threshold.

    A threshold cannot separate equal scores, so only the last of them is considered.
    """
    if curve.objects == 0:
        return math.nan, math.nan, math.nan, math.nan
    if not curve.right.any():
        return math.nan, 0.0 if len(curve.right) else math.nan, 0.0, 0.0
    last = np.flatnonzero(np.diff(curve.scores, append=-np.inf))
    # 2PR / (P + R) with P = right / taken and R = right / objects.
    f1: Floats = 2 * curve.right[last] / (last + 1 + curve.objects)
    best = last[f1.argmax()]
    precision, recall = float(curve.precision[best]), float(curve.recall[best])
    return float(curve.scores[best]), precision, recall, float(f1.max())


def _notes(columns: Columns, rows: Sequence[ClassScores], mean_ap: float) -> tuple[str, ...]:
    if math.isnan(mean_ap):
        return ("no objects to find: every average precision is undefined",)
    empty = [row.name for row in rows if row.objects == 0]
    notes = []
    if empty:
        notes.append(f"without objects, left out of the means: {', '.join(empty)}")
    # Right boxes with wrong names indicate class names in another order.
    if mean_ap < 0.01 and len(rows) > 1:
        notes += permuted_labels(columns, [row.name for row in rows])
    return tuple(notes)


def _recall_note(exact: float, means: Mapping[str, float]) -> Iterator[str]:
    """A note if floating-point recalls, as other tools have them, give another 11-point AP."""
    if any(abs(mean - exact) > 1e-9 for mean in means.values()):
        yield (
            f"voc_ap50_11point is {exact:.4f} at exact recalls, {means['matlab']:.4f} at those of "
            f"the VOC kit (MATLAB's 0:0.1:1), {means['python']:.4f} at those of its Python ports "
            "(numpy.arange)"
        )
