"""The evaluation of detections: VOC and COCO average precision, overall and per class.

R objects · D detections · K classes. Numbers are fractions in [0, 1]; what is not defined, such as
the AP of a class without objects, is nan and left out of every mean.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..errors import DataError
from ..fonts import drawable_names
from ..structures import Detections, Record
from .analysis import Analysis, analyse
from .bootstrap import Interval, bootstrap, draw
from .class_scores import DetectionNumbers, class_scores, detection_metrics
from .coco import PYCOCOTOOLS, Spread, coco_scores, describe_library
from .columns import Columns, gather, keep_classes
from .confusion import confusion
from .definitions import COCO_SIZES
from .figures import MATRIX_LIMIT, confusion_figure, pr_figure
from .ilsvrc import outcomes as ilsvrc_outcomes
from .notes import describe_labels, describe_recalls
from .subset import chosen_labels
from .tables import without_nan
from .voc import (
    VOC_IOU,
    PrecisionRecall,
    area_ap,
    eleven_point_means,
    mean_defined,
    precision_recall,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class DetectionEvaluation(DetectionNumbers):
    """``curves`` are in label order. What needs the ``columns`` is computed when it is first asked
    for: error types, operating points, intervals.
    """

    curves: tuple[PrecisionRecall, ...]
    columns: Columns
    _: KW_ONLY
    #: The score from which on detections are errors; None: the threshold of each class.
    score_threshold: float | None = None

    def more(self) -> dict[str, Any]:
        recalls = without_nan(eleven_point_means(self.curves))
        return {
            "confusion": self.confusion_content(),
            "voc_ap50_11point_recalls": recalls,
            **self.analysis.content([row.name for row in self.per_class]),
        }

    @cached_property
    def analysis(self) -> Analysis:
        """Error types and operating points."""
        thresholds = [row.threshold for row in self.per_class]
        return analyse(self.columns, self.curves, thresholds, self.score_threshold, self.scores)

    def image_entries(self) -> list[dict[str, Any]]:
        return self.analysis.image_entries(self.files)

    def image_header(self) -> dict[str, Any]:
        return {**self.analysis.image_header(), "sizes": list(self.sizes)}

    def measure_intervals(self) -> dict[str, Interval]:
        draws = draw(self.columns.image_ids, resamples=self.resamples)
        estimates = bootstrap(self.columns, draws, metrics={"voc_ap50": (VOC_IOU,)})
        return {name: estimate.interval() for name, estimate in estimates.items()}

    def tables(self) -> Iterator[Table]:
        yield from self.analysis.tables()

    def figures(self) -> dict[str, Figure]:
        names = drawable_names(tuple(row.name for row in self.per_class), plotted=True)
        shown_as = {row.name: name for row, name in zip(self.per_class, names, strict=True)}
        curves = {shown_as[name]: curve for name, curve in self.ranked_curves().items()}
        labels = {name: label for label, name in enumerate(names)}
        figures = {"pr_curve.png": pr_figure(curves, self.metrics["voc_ap50"], labels)}
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
    coco: str | None = PYCOCOTOOLS,
    ilsvrc: bool = False,
    sizes: tuple[float, float] = COCO_SIZES,
    only: Sequence[str] = (),
    spread: Spread = map,
) -> DetectionEvaluation:
    """Score the detections (original pixels) of every image of a data set.

    An image where nothing was found has an empty Detections. ``coco`` names the library of the
    COCO numbers (`coco.LIBRARIES`); None leaves them out. ``ilsvrc`` adds those of ILSVRC DET.
    ``sizes`` are the sides in px that part small, medium and large objects, ``only`` the classes to
    evaluate: objects and detections of others are left out. ``spread`` is that of `coco_scores`.
    The order of records and detections does not matter.

    Raises DataError for image ids that do not correspond, repeated ids or class names, labels
    outside [0, K), and scores or boxes that are not finite.
    """
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise DataError(f"classes: {repeated[0]!r}: named more than once")
    columns = gather(detections, records, len(classes))
    files = {record.image_id: str(record.path) for record in records}
    options: dict[str, Any] = {"coco": coco, "ilsvrc": ilsvrc, "sizes": sizes, "only": only}
    return evaluate_columns(columns, classes, files=files, spread=spread, **options)


def evaluate_columns(
    columns: Columns,
    classes: Sequence[str],
    *,
    coco: str | None = PYCOCOTOOLS,
    ilsvrc: bool = False,
    sizes: tuple[float, float] = COCO_SIZES,
    only: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    spread: Spread = map,
) -> DetectionEvaluation:
    """`evaluate` for detections that are beside their objects already; ``files`` by image id are
    named in what is written about each image."""
    columns, classes = _only(columns, classes, only)
    curves = precision_recall(columns, iou=VOC_IOU)
    scores = coco_scores(columns, sizes, coco, spread) if coco else None
    class_ap = scores.class_ap if scores else (math.nan,) * len(classes)
    rows = tuple(
        class_scores(name, curve, ap)
        for name, curve, ap in zip(classes, curves, class_ap, strict=True)
    )
    if ilsvrc:
        matched = precision_recall(columns, iou=VOC_IOU, match=ilsvrc_outcomes)
        pairs = zip(rows, matched, strict=True)
        rows = tuple(replace(row, ilsvrc_ap=area_ap(curve)) for row, curve in pairs)
    metrics = detection_metrics(rows, scores)
    if ilsvrc:
        metrics["ilsvrc_ap"] = mean_defined(row.ilsvrc_ap for row in rows)
    names = [row.name for row in rows]
    notes = (
        *describe_labels(columns, names, metrics["voc_ap50"]),
        *describe_recalls(metrics["voc_ap50_11point"], eleven_point_means(curves)),
        *([describe_library(coco)] if coco and coco != PYCOCOTOOLS else []),
    )
    return DetectionEvaluation(
        len(columns.image_ids),
        metrics,
        rows,
        confusion(columns),
        curves,
        columns,
        sizes=sizes,
        files=files or {},
        notes=notes,
    )


def _only(
    columns: Columns, classes: Sequence[str], only: Sequence[str]
) -> tuple[Columns, Sequence[str]]:
    if not only:
        return columns, classes
    kept = chosen_labels(only, classes)
    return keep_classes(columns, kept), [classes[label] for label in kept]
