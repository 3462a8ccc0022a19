"""How good are these class scores: top-1 and top-5 error, overall and per class?

N images · K classes. Errors are fractions in [0, 1]; what is not defined, such as the error of a
class without images, is nan.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from ..structures import Record
from .tables import shown, undefined, without_nan, write_json, write_rows

#: What each number is; two numbers may only be compared where these lines agree.
DEFINITIONS: Mapping[str, str] = {
    "top1_error": "share of the images whose class has not the highest score",
    "top5_error": "share of the images whose class is not among the 5 highest scores",
    "loss": "mean of -log of the averaged softmax score of the true class",
}
#: The columns of the per-class table that are not in DEFINITIONS.
CLASS_DEFINITIONS: Mapping[str, str] = {
    "images": "images of the class",
    "taken_for": "the class most often put first in its place",
    "taken_for_images": "how many of its images",
}


@dataclass(frozen=True)
class ClassErrors:
    """One row of the per-class table; see DEFINITIONS and CLASS_DEFINITIONS."""

    name: str
    images: int
    top1_error: float
    top5_error: float
    taken_for: str
    taken_for_images: int


@dataclass(frozen=True)
class Classification:
    """Everything known about the scores of one data set."""

    images: int
    metrics: Mapping[str, float]
    per_class: tuple[ClassErrors, ...]
    testing: str = ""
    seconds_per_image: float | None = None
    notes: tuple[str, ...] = ()


def evaluate_scores(
    scores: Mapping[str, Tensor], records: Sequence[Record], classes: Sequence[str]
) -> Classification:
    """Compare (K,) scores by image id with the records' labels.

    Raises ValueError for a record without scores or label.
    """
    labels = torch.tensor([_label(record) for record in records], dtype=torch.int64)
    missing = [record.image_id for record in records if record.image_id not in scores]
    if missing:
        raise ValueError(f"no scores for {len(missing)} images, the first: {missing[0]}")
    rows = [scores[record.image_id] for record in records]
    table = torch.stack(rows).double() if rows else torch.zeros(0, len(classes)).double()
    ranks = label_ranks(table, labels)
    metrics = {
        "top1_error": _mean(ranks >= 1),
        "top5_error": _mean(ranks >= 5),
        # A score of exactly 0, which float32 can give, must not make the mean infinite.
        "loss": _mean(-table[torch.arange(len(labels)), labels].clamp(min=1e-12).log()),
    }
    first = table.argmax(dim=1) if len(table) else labels
    per_class = tuple(
        _row(name, ranks[labels == label], first[labels == label], label, classes)
        for label, name in enumerate(classes)
    )
    return Classification(len(records), metrics, per_class)


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """(N,) how many classes come before the true one, by scores (N, K); K where a score is NaN.

    Equal scores are in label order, so that a network that answers the same for all classes is not
    right about all images.
    """
    own = scores.gather(1, labels[:, None])
    lower = torch.arange(scores.shape[1]) < labels[:, None]
    ranks = ((scores > own) | ((scores == own) & lower)).sum(dim=1)
    return torch.where(scores.isnan().any(dim=1), scores.shape[1], ranks)


def _label(record: Record) -> int:
    if record.image_label is None:
        raise ValueError(f"{record.path}: the record has no class")
    return record.image_label


def _mean(values: Tensor) -> float:
    return values.double().mean().item() if len(values) else math.nan


def _row(
    name: str, ranks: Tensor, first: Tensor, label: int, classes: Sequence[str]
) -> ClassErrors:
    wrong = Counter(first[first != label].tolist())
    other, count = min(wrong.items(), key=lambda item: (-item[1], item[0]), default=(label, 0))
    return ClassErrors(
        name,
        len(ranks),
        _mean(ranks >= 1),
        _mean(ranks >= 5),
        classes[other] if count else "",
        count,
    )


# ------------------------------------------------------------------------------------- report


def write_classification(evaluation: Classification, folder: Path) -> tuple[Path, ...]:
    """Write ``metrics.json`` and ``per_class.csv``, worst class first; returns what was written.

    The folder is made; existing files are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics, table = folder / "metrics.json", folder / "per_class.csv"
    content = {
        "task": "classification",
        "images": evaluation.images,
        "classes": [row.name for row in evaluation.per_class],
        "metrics": without_nan(evaluation.metrics),
        "per_class": [without_nan(asdict(row)) for row in evaluation.per_class],
        "definitions": {**DEFINITIONS, **CLASS_DEFINITIONS},
        "testing": evaluation.testing,
        "seconds_per_image": evaluation.seconds_per_image,
        "notes": list(evaluation.notes),
    }
    write_json(content, metrics)
    names = [field.name for field in fields(ClassErrors)]
    write_rows(names, sorted(evaluation.per_class, key=_rank), table)
    return metrics, table


def print_classification(evaluation: Classification, console: Console, *, rows: int = 20) -> None:
    """The ``rows`` worst classes, then every overall number with its definition, then notes."""
    worst = sorted(evaluation.per_class, key=_rank)[:rows]
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("class", overflow="fold")
    for heading in ("images", "top-1\nerror", "top-5\nerror"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("taken for", overflow="fold")
    for row in worst:
        taken = f"{row.taken_for} ({row.taken_for_images})" if row.taken_for else ""
        errors = (shown(row.top1_error), shown(row.top5_error))
        table.add_row(Text(row.name), str(row.images), *errors, Text(taken))
    console.print(table)
    if hidden := len(evaluation.per_class) - len(worst):
        console.print(Text(f"and {hidden} better classes"))
    console.print(_metric_table(evaluation))
    if evaluation.testing:
        console.print(Text(f"tested with: {evaluation.testing}"))
    for note in evaluation.notes:
        console.print(Text(f"note: {note}", style="yellow"))


def _metric_table(evaluation: Classification) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column(f"{evaluation.images} images", justify="right", no_wrap=True)
    table.add_column("definition", overflow="fold")
    for name, value in evaluation.metrics.items():
        table.add_row(name, shown(value), DEFINITIONS[name])
    if evaluation.seconds_per_image is not None:
        table.add_row(
            "seconds per image", f"{evaluation.seconds_per_image:.4f}", "network, without reading"
        )
    return table


def _rank(row: ClassErrors) -> float:
    """Sorts rows by falling top-1 error; undefined ones last, equal ones stay in label order."""
    return math.inf if undefined(row.top1_error) else -row.top1_error
