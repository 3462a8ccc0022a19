"""The numbers of detections per class and over classes, however they were matched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from .coco import COCO_METRICS, CocoScores
from .confusion import Confusion
from .definitions import CLASS_DEFINITIONS, COCO_SIZES, DEFINITIONS, definitions
from .operating_points import THRESHOLDS, best_f1
from .report import Evaluation
from .tables import shown
from .voc import PrecisionRecall, area_ap, eleven_point_ap, mean_defined


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
class DetectionNumbers(Evaluation):
    """The numbers of one set of detections; without COCO only ``voc_ap50``, ``voc_ap50_11point``.

    Rows are in label order.
    """

    per_class: tuple[ClassScores, ...]
    confusion: Confusion
    _: KW_ONLY
    #: The sides of the squares that part small, medium and large objects.
    sizes: tuple[float, float] = COCO_SIZES
    #: The scores of the table of thresholds.
    scores: tuple[float, ...] = THRESHOLDS

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

    def definition(self, name: str) -> str:
        return definitions(self.sizes)[name]

    def total(self, name: str) -> str:
        """Sums of the counts, and the means that are metrics."""
        if name in ("objects", "ignored", "detections"):
            return str(sum(getattr(row, name) for row in self.per_class))
        return shown(self.metrics[name], self.digits) if name in self.metrics else ""

    def remarks(self) -> Iterator[str]:
        yield "table of scores: detections of that score or above, classes together; *: largest F1"
        for name, heading in self.headings.items():
            if name in CLASS_DEFINITIONS:
                yield f"{heading}: {CLASS_DEFINITIONS[name]}"

    def confusion_content(self) -> dict[str, object]:
        """The entry of ``metrics.json``."""
        return {
            "counts": self.confusion.counts.tolist(),
            "score": self.confusion.score,
            "iou": self.confusion.iou,
            "layout": "row found as, column truly is; last: background",
        }


def detection_metrics(rows: Sequence[ClassScores], coco: CocoScores | None) -> dict[str, float]:
    voc = {
        "voc_ap50": mean_defined(row.voc_ap50 for row in rows),
        "voc_ap50_11point": mean_defined(row.voc_ap50_11point for row in rows),
    }
    return voc | ({name: coco.metrics[name] for name in COCO_METRICS} if coco else {})


def class_scores(name: str, curve: PrecisionRecall, coco_ap: float) -> ClassScores:
    best = best_f1(curve)
    return ClassScores(
        name=name,
        objects=curve.objects,
        ignored=curve.ignored,
        detections=curve.detections,
        voc_ap50=area_ap(curve),
        voc_ap50_11point=eleven_point_ap(curve),
        coco_ap=coco_ap,
        threshold=best.score,
        precision=best.precision,
        recall=best.recall,
        f1=best.f1,
    )
