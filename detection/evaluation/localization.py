"""The localization errors of ILSVRC, overall and per class.

N images · P predictions of an image, best first · R boxes of its class · K classes. Errors are
fractions in [0, 1]; what is not defined, such as the error of a class without images, is nan.

The rules are those of ``eval_localization_flat.m`` in the ILSVRC development kit:

- An image is right where one of its first five predictions has its class and, with any box of that
  class in the image, an IoU of at least 0.5. A box may be predicted for a class more than once.
- Boxes of other classes in the image are no truth. All boxes of its class are, those that
  `Annotation.ignore` marks too: the kit has no difficult objects.

The kit's pixels count from 1, both ends belong to the box, and 1 is added to every side; a kit box
(x1, y1, x2, y2) is (x1 - 1, y1 - 1, x2, y2) in our continuous coordinates, so that the plain
x2 - x1 here is the same width and the IoU is the same number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..ops.boxes import iou
from ..structures import Detections, Located, Record
from .bootstrap import Interval, mean_intervals
from .error_types import BACKGROUND
from .located_cases import ERRORS, IOU, KINDS, LocatedCase
from .report import Evaluation
from .subset import chosen_labels, limited_boxes, limited_records, numbering
from .tables import without_nan

#: The number of predictions of an image that are evaluated.
MAX_PREDICTIONS = 5

DEFINITIONS: Mapping[str, str] = {
    "top5_localization_error": "share of the images where none of the first 5 predictions has "
    "the image's class and IoU >= 0.5 with one of its boxes (the error of ILSVRC CLS-LOC)",
    "top1_localization_error": "the same with the first prediction alone",
    "true_class_error": "share of the images where the one box predicted for the true class has "
    "IoU >= 0.5 with none of its boxes, or is missing",
    "top5_classification_error": "share of the images whose class is not among the first 5 "
    "predictions",
    "top1_classification_error": "share of the images whose class is not the first prediction",
    "mean_true_class_iou": "the largest IoU of the box predicted for the true class, 0 where there "
    "is none, mean over the images",
}
#: Definitions of further entries of the report.
OTHER_DEFINITIONS: Mapping[str, str] = {
    "images": "images of the class",
    "true_class_error_interval": "as in `intervals`",
    "baseline": "the same numbers where every image gets its true class's mean training box",
}
#: The numbers for which the true class is given.
_TRUE_CLASS = ("true_class_error", "mean_true_class_iou")


@dataclass(frozen=True)
class ClassLocalization:
    """One row of the per-class table; see DEFINITIONS and OTHER_DEFINITIONS."""

    name: str
    images: int
    true_class_error: float
    top1_localization_error: float
    mean_true_class_iou: float


@dataclass(frozen=True, eq=False)
class Localization(Evaluation):
    """The errors of the boxes of one data set; ``baseline`` is that of the mean boxes."""

    per_class: tuple[ClassLocalization, ...]
    _: KW_ONLY
    image_ids: tuple[str, ...] = ()
    #: (N, 6) the contribution of each image to each number of DEFINITIONS.
    outcomes: Tensor
    cases: Sequence[LocatedCase] = ()

    task = "localization"
    row_type = ClassLocalization
    definitions = DEFINITIONS
    class_definitions = OTHER_DEFINITIONS
    headings: ClassVar[Mapping[str, str]] = {
        "images": "images",
        "true_class_error": "true class\nerror",
        "top1_localization_error": "top-1\nerror",
        "mean_true_class_iou": "true class\nIoU",
    }
    cost = "all but reading"

    @staticmethod
    def rank(row: ClassLocalization) -> float:
        """Worst error given the true class first; if that is undefined, worst top-1 error."""
        first, second = row.true_class_error, row.top1_localization_error
        return -second if math.isnan(first) else -first

    def more(self) -> dict[str, Any]:
        interval = self.intervals.get("true_class_error")
        return {
            "true_class_error_interval": [interval.low, interval.high] if interval else None,
            "baseline": without_nan(self.baseline),
        }

    def measure_intervals(self) -> dict[str, Interval]:
        values = dict(zip(DEFINITIONS, self.outcomes.T.numpy(), strict=True))
        defined = {name: each for name, each in values.items() if not np.isnan(each).any()}
        return mean_intervals(defined, self.image_ids, self.resamples)

    def image_header(self) -> dict[str, Any]:
        return {"iou": IOU, "background_iou": BACKGROUND, "definitions": {**KINDS, **ERRORS}}

    def image_entries(self) -> list[dict[str, Any]]:
        """The errors of an image are those of the box of its true class and of the first
        prediction, as far as they were asked for."""
        entries = []
        rows = zip(self.image_ids, self.cases, self.outcomes.tolist(), strict=True)
        for image_id, case, row in rows:
            values, content = dict(zip(DEFINITIONS, row, strict=True)), case.content()
            asked = {"true_class": "true_class_error", "predicted": "top1_localization_error"}
            judged = [part for part, name in asked.items() if not math.isnan(values[name])]
            kinds = [next(iter(content[part]["kinds"]), "missed") for part in judged]
            errors = {name: kinds.count(name) for name in ERRORS}
            entries.append(
                {
                    "image": image_id,
                    "file": self.files.get(image_id),
                    "wrong": sum(errors.values()),
                    "errors": errors,
                    "label": case.label,
                    "values": without_nan(values),
                    **content,
                }
            )
        return entries


def evaluate_located(
    found: Mapping[str, Located],
    records: Sequence[Record],
    classes: Sequence[str],
    *,
    true_class: bool = True,
    baseline: Mapping[str, Located] | None = None,
    only: Sequence[str] = (),
) -> Localization:
    """Compare boxes in original pixels by image id with the records' class and its boxes.

    With ``true_class``, an image without a box of its true class is wrong, and if no image has
    predictions there was no classifier: what needs one is nan. Without ``true_class`` only the
    predictions are evaluated: what needs boxes of the true class is nan, and an image without
    predictions is wrong, even if that are all of them.
    ``baseline`` are the boxes of a trivial predictor, such as those of `localization_baseline.py`.
    ``only`` are the classes to evaluate: images and predictions of others are left out.

    Raises ValueError, naming the image, for a record without class or without a box of its class,
    for an image without an entry, and for a true-class box of another class than the record's;
    DataError for a class of ``only`` that is not among ``classes``.
    """
    if only:
        kept = chosen_labels(only, classes)
        number = numbering(kept, len(classes))
        records, found = limited_records(records, number), limited_boxes(found, number)
        baseline = None if baseline is None else limited_boxes(baseline, number)
        classes = [classes[label] for label in kept]
    predicted = not true_class or any(len(located.predicted) for located in found.values())
    defined = {name: true_class if name in _TRUE_CLASS else predicted for name in DEFINITIONS}
    cases = _cases(found, records, classes)
    labels = torch.tensor([case.label for case in cases], dtype=torch.int64)
    outcomes = _outcomes(cases)
    outcomes[:, ~torch.tensor([*defined.values()])] = math.nan
    trivial = {} if baseline is None else _means(_outcomes(_cases(baseline, records, classes)))
    return Localization(
        len(records),
        _means(outcomes),
        tuple(_row(name, outcomes[labels == label]) for label, name in enumerate(classes)),
        baseline={name: trivial[name] for name in _TRUE_CLASS if name in trivial},
        image_ids=tuple(record.image_id for record in records),
        outcomes=outcomes,
        cases=cases,
        files={record.image_id: str(record.path) for record in records},
    )


def evaluate_predictions(
    predictions: Mapping[str, Detections], records: Sequence[Record], classes: Sequence[str]
) -> Localization:
    """`evaluate_located` for predictions only, such as those of a submission."""
    found = {name: Located(each, Detections.empty()) for name, each in predictions.items()}
    return evaluate_located(found, records, classes, true_class=False)


def _outcomes(cases: Sequence[LocatedCase]) -> Tensor:
    """(N, 6) f64: the contribution of each image to each number of DEFINITIONS."""
    rows = (case.outcome() for case in cases)
    table = [[row[name] for name in DEFINITIONS] for row in rows]
    return torch.tensor(table, dtype=torch.float64).reshape(len(cases), len(DEFINITIONS))


def _cases(
    found: Mapping[str, Located], records: Sequence[Record], classes: Sequence[str]
) -> list[LocatedCase]:
    missing = [record.image_id for record in records if record.image_id not in found]
    if missing:
        raise ValueError(f"no boxes for {len(missing)} images, the first: {missing[0]}")
    return [_case(found[record.image_id], record, classes) for record in records]


def _case(located: Located, record: Record, classes: Sequence[str]) -> LocatedCase:
    label = label_of(record, len(classes))
    truth = _truth(record, label, classes[label])
    given = located.true_class.labels.tolist()
    if given not in ([], [label]):
        raise ValueError(f"{record.image_id}: expected one box, of the true class {label}: {given}")
    predicted, own = located.predicted[:MAX_PREDICTIONS], located.true_class
    overlaps, true_overlap = _overlap(predicted.boxes, truth), _overlap(own.boxes, truth)
    return LocatedCase(label, truth, predicted, own, overlaps, true_overlap)


def _overlap(boxes: Tensor, truth: Tensor) -> Tensor:
    """(P,) largest IoU with one of the boxes (R, 4), R > 0; 0 for a box with a nan or no area.

    Float64, in which the areas of whole pixels and an IoU of exactly 0.5 are exact.
    """
    return iou(boxes.double(), truth.double()).amax(dim=1)


def label_of(record: Record, count: int) -> int:
    """The class of an image; raises ValueError unless it is one of ``count``."""
    if record.image_label is None:
        raise ValueError(f"{record.path}: the record has no class")
    if not 0 <= record.image_label < count:
        raise ValueError(f"{record.path}: label {record.image_label} outside 0..{count - 1}")
    return record.image_label


def _truth(record: Record, label: int, name: str) -> Tensor:
    """(R, 4), R > 0."""
    boxes = record.annotation.boxes[record.annotation.labels == label]
    if len(boxes) == 0:
        raise ValueError(f"{record.path}: the record has no box of its class {name!r}")
    return boxes


def _means(outcomes: Tensor) -> dict[str, float]:
    return dict(zip(DEFINITIONS, outcomes.mean(dim=0).tolist(), strict=True))


def _row(name: str, outcomes: Tensor) -> ClassLocalization:
    means = _means(outcomes)
    return ClassLocalization(
        name,
        len(outcomes),
        means["true_class_error"],
        means["top1_localization_error"],
        means["mean_true_class_iou"],
    )
