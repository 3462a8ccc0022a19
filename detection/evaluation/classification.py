"""The evaluation of class scores: top-1 and top-5 error, overall and per class.

N images · K classes. Errors are fractions in [0, 1]; what is not defined, such as the error of a
class without images, is nan.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..structures import Record
from .bootstrap import Interval, mean_intervals
from .report import Evaluation
from .subset import chosen_labels, limited_records, numbering

#: The number of scores of an image that are kept.
TOP = 5

DEFINITIONS: Mapping[str, str] = {
    "top1_error": "share of the images whose class has not the highest score",
    "top5_error": "share of the images whose class is not among the 5 highest scores",
    "loss": "mean of -log of the averaged softmax score of the true class",
}
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


@dataclass(frozen=True, eq=False)
class ImageScores:
    """The images by ``image_ids`` (N,): ``labels`` (N,), the contribution (N,) of each to every
    metric, and the best ``top_scores`` (N, 5) with their ``top_labels`` (N, 5)."""

    image_ids: tuple[str, ...]
    labels: Tensor
    values: Mapping[str, Tensor]
    top_scores: Tensor
    top_labels: Tensor


@dataclass(frozen=True, eq=False)
class Classification(Evaluation):
    """The errors of the scores of one data set."""

    per_class: tuple[ClassErrors, ...]
    outcomes: ImageScores

    task = "classification"
    row_type = ClassErrors
    definitions = DEFINITIONS
    class_definitions = CLASS_DEFINITIONS
    headings: ClassVar[Mapping[str, str]] = {
        "images": "images",
        "top1_error": "top-1\nerror",
        "top5_error": "top-5\nerror",
        "taken_for": "predicted\ninstead",
        "taken_for_images": "for\nimages",
    }

    @staticmethod
    def rank(row: ClassErrors) -> float:
        """Worst top-1 error first."""
        return -row.top1_error

    def measure_intervals(self) -> dict[str, Interval]:
        values = {name: each.numpy() for name, each in self.outcomes.values.items()}
        return mean_intervals(values, self.outcomes.image_ids, self.resamples)

    def image_entries(self) -> list[dict[str, Any]]:
        outcomes = self.outcomes
        columns = {name: each.tolist() for name, each in outcomes.values.items()}
        return [
            {
                "image": image_id,
                "file": self.files.get(image_id),
                "wrong": int(columns["top1_error"][row] + columns["top5_error"][row]),
                "label": label,
                "values": {name: column[row] for name, column in columns.items()},
                "predicted": {"labels": labels, "scores": scores},
            }
            for row, (image_id, label, labels, scores) in enumerate(
                zip(
                    outcomes.image_ids,
                    outcomes.labels.tolist(),
                    outcomes.top_labels.tolist(),
                    outcomes.top_scores.tolist(),
                    strict=True,
                )
            )
        ]


def evaluate_scores(
    scores: Mapping[str, Tensor],
    records: Sequence[Record],
    classes: Sequence[str],
    *,
    only: Sequence[str] = (),
) -> Classification:
    """Compare (K,) scores by image id with the records' labels.

    ``only`` are the classes to evaluate: images of others are left out, and the scores of these
    classes are divided by their sum, as if the network knew no others.

    Raises ValueError for a record without scores or label, DataError for an unknown class.
    """
    kept = chosen_labels(only, classes)
    if only:
        records = limited_records(records, numbering(kept, len(classes)))
    labels = torch.tensor([_label(record) for record in records], dtype=torch.int64)
    missing = [record.image_id for record in records if record.image_id not in scores]
    if missing:
        raise ValueError(f"no scores for {len(missing)} images, the first: {missing[0]}")
    rows = [scores[record.image_id] for record in records]
    table = torch.stack(rows).double() if rows else torch.zeros(0, len(classes)).double()
    if only:
        table, classes = table[:, kept], [classes[label] for label in kept]
        table = table / table.sum(dim=1, keepdim=True).clamp(min=torch.finfo(table.dtype).tiny)
    ranks = label_ranks(table, labels)
    values = {
        "top1_error": ranks >= 1,
        "top5_error": ranks >= 5,
        # A score of exactly 0, which float32 can give, must not make the mean infinite.
        "loss": -table[torch.arange(len(labels)), labels].clamp(min=1e-12).log(),
    }
    metrics = {name: _mean(each) for name, each in values.items()}
    first = table.argmax(dim=1) if len(table) else labels
    per_class = tuple(
        _row(name, ranks[labels == label], first[labels == label], label, classes)
        for label, name in enumerate(classes)
    )
    outcomes = ImageScores(
        tuple(record.image_id for record in records),
        labels,
        {name: each.double() for name, each in values.items()},
        *(part.cpu() for part in table.topk(min(TOP, len(classes)), dim=1)),
    )
    files = {record.image_id: str(record.path) for record in records}
    return Classification(len(records), metrics, per_class, outcomes, files=files)


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """(N,) how many classes come before the true one, by scores (N, K); K where a score is NaN.

    Equal scores are in label order, so that a network with equal scores for all classes is not
    right for all images.
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
