"""Where is the object of each image's class: the localization errors of ILSVRC, and per class?

N images · P predictions of an image, best first · R boxes of its class · K classes. Errors are
fractions in [0, 1]; what is not defined, such as the error of a class without images, is nan.

The rules are those of ``eval_localization_flat.m`` in the ILSVRC development kit:

- An image is right where one of its first five predictions has its class and, with any box of that
  class in the image, an IoU of at least 0.5. A box may be predicted for a class more than once.
- Boxes of other classes in the image are no truth. All boxes of its class are, those that
  `Annotation.ignore` marks too: the kit knows no difficult objects.

The kit's pixels count from 1, both ends belong to the box, and 1 is added to every side; a kit box
(x1, y1, x2, y2) is (x1 - 1, y1 - 1, x2, y2) in our continuous coordinates, so that the plain
x2 - x1 here is the same width and the IoU is the same number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ..ops.boxes import iou
from ..structures import Detections, Located, Record
from .tables import shown, undefined, without_nan, write_json, write_rows

#: The least overlap of a right box.
IOU = 0.5
#: So many predictions of an image are looked at.
GUESSES = 5

#: What each number is; two numbers may only be compared where these lines agree.
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
#: What is not in DEFINITIONS.
OTHER_DEFINITIONS: Mapping[str, str] = {
    "images": "images of the class",
    "true_class_error_interval": "95 % Wilson interval of true_class_error: what other test images "
    "of the same kind might have given",
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


@dataclass(frozen=True)
class Localization:
    """Everything known about the boxes of one data set; ``metrics`` has the keys of DEFINITIONS."""

    images: int
    metrics: Mapping[str, float]
    per_class: tuple[ClassLocalization, ...]
    #: Those of the metrics that a predictor which never looks at an image has too.
    baseline: Mapping[str, float] = field(default_factory=dict)
    testing: str = ""
    seconds_per_image: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def true_class_error_interval(self) -> tuple[float, float]:
        """95 % interval over images; nan where the error is not defined."""
        return _wilson(self.metrics["true_class_error"], self.images)


def evaluate_located(
    found: Mapping[str, Located],
    records: Sequence[Record],
    classes: Sequence[str],
    *,
    true_class: bool = True,
    baseline: Mapping[str, Located] | None = None,
) -> Localization:
    """Compare boxes in original pixels by image id with the records' class and its boxes.

    With ``true_class``, an image without a box of its true class is wrong, and if no image has
    predictions there was no classifier: what needs one is nan. Without ``true_class`` only the
    predictions are evaluated: what needs boxes of the true class is nan, and an image without
    predictions is wrong, even if that are all of them.
    ``baseline`` are the boxes of a trivial predictor (`mean_box.py`).

    Raises ValueError, naming the image, for a record without class or without a box of its class,
    for an image without an entry, and for a true-class box of another class than the record's.
    """
    guessed = not true_class or any(len(located.predicted) for located in found.values())
    defined = {name: true_class if name in _TRUE_CLASS else guessed for name in DEFINITIONS}
    labels = torch.tensor([_label(record, classes) for record in records], dtype=torch.int64)
    outcomes = _outcomes(found, records, classes)
    outcomes[:, ~torch.tensor([*defined.values()])] = math.nan
    trivial = {} if baseline is None else _means(_outcomes(baseline, records, classes))
    return Localization(
        len(records),
        _means(outcomes),
        tuple(_row(name, outcomes[labels == label]) for label, name in enumerate(classes)),
        {name: trivial[name] for name in _TRUE_CLASS if name in trivial},
    )


def evaluate_predictions(
    predictions: Mapping[str, Detections], records: Sequence[Record], classes: Sequence[str]
) -> Localization:
    """As `evaluate_located` where only predictions are known, such as those of a submission."""
    found = {name: Located(each, Detections.empty()) for name, each in predictions.items()}
    return evaluate_located(found, records, classes, true_class=False)


def _outcomes(
    found: Mapping[str, Located], records: Sequence[Record], classes: Sequence[str]
) -> Tensor:
    """(N, 6) f64: what each image adds to each number of DEFINITIONS."""
    missing = [record.image_id for record in records if record.image_id not in found]
    if missing:
        raise ValueError(f"no boxes for {len(missing)} images, the first: {missing[0]}")
    rows = [_outcome(found[record.image_id], record, classes) for record in records]
    table = [[row[name] for name in DEFINITIONS] for row in rows]
    return torch.tensor(table, dtype=torch.float64).reshape(len(rows), len(DEFINITIONS))


def _outcome(located: Located, record: Record, classes: Sequence[str]) -> dict[str, float]:
    label = _label(record, classes)
    truth = _truth(record, label, classes[label])
    predicted = located.predicted[:GUESSES]
    named = predicted.labels == label
    right = named & (_overlap(predicted.boxes, truth) >= IOU)
    given = located.true_class.labels.tolist()
    if given not in ([], [label]):
        raise ValueError(f"{record.image_id}: expected one box, of the true class {label}: {given}")
    overlap = _overlap(located.true_class.boxes, truth).sum().item()  # of one box, or of none
    return {
        "top5_localization_error": not right.any(),
        "top1_localization_error": not right[:1].any(),
        "true_class_error": overlap < IOU,
        "top5_classification_error": not named.any(),
        "top1_classification_error": not named[:1].any(),
        "mean_true_class_iou": overlap,
    }


def _overlap(boxes: Tensor, truth: Tensor) -> Tensor:
    """(P,) largest IoU with one of the boxes (R, 4), R > 0; 0 for a box with a nan or no area.

    Float64, in which the areas of whole pixels and an IoU of exactly 0.5 are exact.
    """
    return iou(boxes.double(), truth.double()).amax(dim=1)


def _label(record: Record, classes: Sequence[str]) -> int:
    if record.image_label is None:
        raise ValueError(f"{record.path}: the record has no class")
    if not 0 <= record.image_label < len(classes):
        raise ValueError(f"{record.path}: label {record.image_label} outside 0..{len(classes) - 1}")
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


def _wilson(share: float, count: int) -> tuple[float, float]:
    """95 % score interval of a share of ``count`` (Wilson 1927).

    A bootstrap over the images would draw from the same binomial, but find no width at all around
    0 and 1.
    """
    if math.isnan(share):
        return math.nan, math.nan
    z = 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + (z / 2 / count) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


# ------------------------------------------------------------------------------------- report


def write_localization(evaluation: Localization, folder: Path) -> tuple[Path, ...]:
    """Write ``metrics.json`` and ``per_class.csv``, worst class first; returns what was written.

    The folder is made; existing files are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics, table = folder / "metrics.json", folder / "per_class.csv"
    low, high = evaluation.true_class_error_interval
    content = {
        "task": "localization",
        "images": evaluation.images,
        "classes": [row.name for row in evaluation.per_class],
        "metrics": without_nan(evaluation.metrics),
        "true_class_error_interval": None if math.isnan(low) else [low, high],
        "baseline": without_nan(evaluation.baseline),
        "per_class": [without_nan(asdict(row)) for row in evaluation.per_class],
        "definitions": {**DEFINITIONS, **OTHER_DEFINITIONS},
        "testing": evaluation.testing,
        "seconds_per_image": evaluation.seconds_per_image,
        "notes": list(evaluation.notes),
    }
    write_json(content, metrics)
    names = [each.name for each in fields(ClassLocalization)]
    write_rows(names, sorted(evaluation.per_class, key=_rank), table)
    return metrics, table


def print_localization(evaluation: Localization, console: Console, *, rows: int = 20) -> None:
    """The ``rows`` worst classes, then every overall number with its definition, then notes."""
    worst = sorted(evaluation.per_class, key=_rank)[:rows]
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("class", overflow="fold")
    for heading in ("images", "true class\nerror", "top-1\nerror", "true class\nIoU"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in worst:
        numbers = (row.true_class_error, row.top1_localization_error, row.mean_true_class_iou)
        table.add_row(Text(row.name), str(row.images), *map(shown, numbers))
    console.print(table)
    if hidden := len(evaluation.per_class) - len(worst):
        console.print(Text(f"and {hidden} better classes"))
    console.print(_metric_table(evaluation))
    if not math.isnan(evaluation.metrics["true_class_error"]):
        low, high = map(shown, evaluation.true_class_error_interval)
        console.print(Text(f"true_class_error: {low} to {high} with 95 % confidence"))
    if evaluation.testing:
        console.print(Text(f"tested with: {evaluation.testing}"))
    for note in evaluation.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def _metric_table(evaluation: Localization) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column(f"{evaluation.images} images", justify="right", no_wrap=True)
    if evaluation.baseline:
        table.add_column("mean box", justify="right", no_wrap=True)
    table.add_column("definition", overflow="fold")
    for name, value in evaluation.metrics.items():
        trivial = [shown(evaluation.baseline.get(name, math.nan))] if evaluation.baseline else []
        table.add_row(name, shown(value), *trivial, DEFINITIONS[name])
    if evaluation.seconds_per_image is not None:
        gap = [""] if evaluation.baseline else []
        seconds = f"{evaluation.seconds_per_image:.4f}"
        table.add_row("seconds per image", seconds, *gap, "all but reading")
    return table


def _rank(row: ClassLocalization) -> float:
    """Sorts rows by falling error given the true class, without it by falling top-1 error;
    undefined ones last, equal ones stay in label order."""
    errors = (row.true_class_error, row.top1_localization_error)
    return next((-error for error in errors if not undefined(error)), math.inf)
