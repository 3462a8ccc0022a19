"""Exact batch norm statistics and layer responses of a classifier, measured over images.

With exact statistics a classifier can be the frozen backbone of a detector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from ...backbones.analysis import Response, layer_responses
from ...backbones.exact_bn import Method, exact_statistics, passes
from ...backbones.weights.convert import Converted, frozen_classifier
from ...datasets.loading.crops import Crop
from ...datasets.loading.dataset import ClassificationDataset, eval_loader
from ...datasets.shards.index import ShardSplit
from ..config.data_rules import image_rules
from ..errors import ConfigError
from ..printing import tracked
from ..structures import Batch, Record
from .base import Part
from .batch_size import expect_number
from .classifier import CLASSIFICATION, LoadedClassifier
from .classifier_network import eval_crops, train_crop
from .eval_split import read_eval_split


@dataclass(frozen=True)
class Shift:
    """Changes from the previous to the exact statistics, over all channels of all norms: of the
    mean in stds, and of the std as a fraction of the exact one."""

    median_mean: float
    largest_mean: float
    median_std: float
    largest_std: float


def freeze(
    classifier: LoadedClassifier,
    device: torch.device,
    *,
    images: int | None = None,
    method: Method = "pooled",
    source: str = "weights",
    progress: Console | None = None,
) -> tuple[Converted, Shift]:
    """Give ``classifier`` exact batch norm statistics over its training set. Returns the weights
    for `write_converted`, and the change.

    Images are cropped as in training and come in a fixed random order; ``images`` limits their
    number. ``source`` names the classifier in errors.

    Raises:
        WeightsError: not usable as a backbone of a detector; raised before images are read.
        ConfigError, DataError: no batch norm, no images, or data that are not the classifier's.
    """
    _frozen(classifier, (), source)
    expect_number(classifier.config)
    records = _sample(_records(classifier, "train"), images)
    batches = _Images(
        classifier, records, (train_crop(classifier.config),), classifier.config.train.batch_size
    )
    count = passes(classifier.model, method)
    before = _statistics(classifier.model)
    exact_statistics(
        classifier.model,
        lambda: batches.once(f"batch norm, {count} pass(es)", device, progress),
        _logits(classifier),
        method=method,
    )
    shift = _shift(before, _statistics(classifier.model))
    note = (
        f"batch norm statistics: {method}, over {len(records)} training images in batches of "
        f"{batches.batch_size}"
    )
    return _frozen(classifier, (note,), source), shift


def measure_responses(
    classifier: LoadedClassifier,
    device: torch.device,
    *,
    part: Part = "val",
    images: int | None = None,
    progress: Console | None = None,
) -> list[Response]:
    """The responses of all layers to the middle crops of one split, or of a random sample of
    ``images`` of them, always the same.

    Raises:
        DataError: no images, or data that are not the classifier's.
    """
    config = classifier.config
    test = config.test.model_copy(update={"protocol": "one_crop", "flip": False})
    records = _sample(_records(classifier, part), images)
    batches = _Images(classifier, records, eval_crops(test), test.batch_size)
    return layer_responses(
        classifier.model, batches.once("responses", device, progress), _logits(classifier)
    )


class _Images:
    """Every record once, in batches of nearly one size.

    A much smaller last batch would have very different batch statistics.
    """

    def __init__(
        self,
        classifier: LoadedClassifier,
        records: Sequence[Record],
        crops: Sequence[Crop],
        batch_size: int,
    ) -> None:
        config = classifier.config
        self.workers = config.data.workers
        self.dataset = ClassificationDataset(records, *crops, rules=image_rules(config))
        count = math.ceil(len(records) / batch_size)
        self.batch_size = math.ceil(len(records) / count) if count else batch_size

    def once(self, title: str, device: torch.device, progress: Console | None) -> Iterable[Batch]:
        loader = eval_loader(
            self.dataset,
            batch_size=self.batch_size,
            workers=self.workers,
            pin_memory=device.type == "cuda",
        )
        batches: Iterable[Batch] = loader
        if progress is not None:
            batches = tracked(loader, title, len(loader), progress, "batches")
        return (batch.to(device) for batch in batches)


def _records(classifier: LoadedClassifier, part: Part) -> Sequence[Record]:
    """The records of a split; raises ConfigError for a stream of shards."""
    split = read_eval_split(CLASSIFICATION, classifier, part)
    if isinstance(split, ShardSplit):
        raise ConfigError(
            f"data.source: {split.shards.folder} holds shards, and this needs images as files:"
            " set data.source to an image_folder or ilsvrc"
        )
    return split.records


def _sample(records: Sequence[Record], images: int | None) -> list[Record]:
    """Records in random order: sorted by class, batch statistics would be those of one class."""
    order = np.random.default_rng(0).permutation(len(records))
    return [records[index] for index in order[:images]]


def _logits(classifier: LoadedClassifier) -> Callable[[Batch], Tensor]:
    return lambda batch: classifier.model.logits(batch.images)


def _frozen(classifier: LoadedClassifier, notes: tuple[str, ...], source: str) -> Converted:
    return frozen_classifier(
        classifier.model.state_dict(),
        stride_in=classifier.config.network.stride_in,
        classes=classifier.classes,
        notes=notes,
        source=source,
    )


def _statistics(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Means and stds of all channels, as copies."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    empty = [torch.zeros(0)]
    means = torch.cat(empty + [n.running_mean.cpu() for n in norms if n.running_mean is not None])
    variances = torch.cat(empty + [n.running_var.cpu() for n in norms if n.running_var is not None])
    return means, variances.sqrt()


def _shift(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> Shift:
    (old_mean, old_std), (mean, std) = before, after
    smallest = torch.finfo(std.dtype).tiny  # of a channel that is constant
    moved = (mean - old_mean).abs() / std.clamp(min=smallest)
    grown = (std - old_std).abs() / std.clamp(min=smallest)
    return Shift(
        moved.median().item(), moved.max().item(), grown.median().item(), grown.max().item()
    )
