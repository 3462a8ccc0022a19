"""From a configuration to a trained classifier in a run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...datasets.catalog_classes import describe_labelled
from ..config.classifier import ClassifierConfig
from ..engine.distributed import Group
from ..engine.plots import plot_batch, plot_image_labels
from ..engine.synced_norm import synchronise_norms
from ..engine.train import Outputs, TrainingState, shipped_weights
from ..evaluation.run import evaluating
from ..structures import Batch
from .classifier import LoadedClassifier, build_classifier, train_crop
from .classifier_data import Images, first_batch, read_splits, train_batches
from .classifier_testing import evaluate_split, score_images
from .classifier_weights import fill_from_classifier, fill_network
from .run import (
    FRESH,
    Start,
    Training,
    describe_findings,
    describe_run,
    describe_size,
    describe_steps,
    run_training,
    write_labelled_report,
)

Splits = Mapping[str, Images]


def train_classifier(
    config: ClassifierConfig, folder: Path, group: Group, start: Start = FRESH
) -> int:
    """Train, and leave weights, logs and images in ``folder``. Returns the exit code.

    Raises:
        ConfigError, DataError, WeightsError: before the first step, naming what is wrong.
        DivergedError: when the loss stays non-finite.
    """
    resumed = start.read(ClassifierTraining.task)
    return run_training(_prepare(config, start, resumed), folder, group, resumed)


def check_training(config: ClassifierConfig, start: Start = FRESH) -> list[str]:
    """The banner of a run that could start now: data, weights and network are all looked at."""
    return describe_run(_prepare(config, start, start.read(ClassifierTraining.task)))


def _prepare(
    config: ClassifierConfig, start: Start, resumed: Mapping[str, Any] | None
) -> ClassifierTraining:
    """Network with starting weights, and data."""
    train, val = read_splits(config, tuple(resumed["classes"]) if resumed else None)
    classes = train.split.classes
    classifier = LoadedClassifier(build_classifier(config, len(classes)), config, classes)
    findings = describe_findings({"train": train.split, "val": val.split})
    notes = [*findings, *_fill(classifier, start)]
    return ClassifierTraining(classifier, {"train": train, "val": val}, notes)


def _fill(classifier: LoadedClassifier, start: Start) -> list[str]:
    """Put the starting weights into the model; what was done, in words."""
    if start.resume:
        return [f"resuming from {start.checkpoint}"]
    if start.checkpoint:
        return fill_from_classifier(classifier, start.checkpoint, reset_head=start.reset_head)
    return fill_network(classifier)


class ClassifierTraining(Training):
    """A classifier and its splits ``train`` and ``val``."""

    task = "classification"
    command = "train-cls"
    best_name = "top-1 accuracy "

    def __init__(self, classifier: LoadedClassifier, splits: Splits, notes: Sequence[str]) -> None:
        config = classifier.config
        super().__init__(classifier.model, config, config.train, classifier.classes, notes)
        self.classifier, self.splits, self.options = classifier, splits, config.train

    def join(self, group: Group) -> None:
        if self.options.sync_norm:
            synchronise_norms(self.model, group)
        if self.options.compile:
            # In place, so that the tensors keep their names; the batch around it is Python's.
            self.classifier.model.network.compile()

    def batches(self, start: int, group: Group) -> Iterable[Batch]:
        config = self.classifier.config
        return train_batches(self.splits["train"], config, train_crop(config), start, group)

    def evaluate(self, state: TrainingState, outputs: Outputs, group: Group, step: int) -> float:
        """Errors on ``val`` with one crop; 1 - top-1 error is what ``best.pt`` is chosen by."""
        images = self.splits["val"]
        one_crop = replace(self.classifier, config=_with_one_crop(self.classifier.config))
        with shipped_weights(state), evaluating(state.model):
            group.broadcast_buffers(state.model)
            scores = score_images(one_crop, images, group)
        accuracy = None
        if scores is not None:
            metrics = evaluate_split(one_crop, images.split, scores).metrics
            outputs.log.evaluation(step, {f"val_{name}": metrics[name] for name in metrics})
            accuracy = 1 - metrics["top1_error"]
        return group.broadcast(f"evaluation/{step}", accuracy)

    def banner(self) -> list[str]:
        config = self.classifier.config
        return [
            *(f"{name}: {describe_labelled(part.split)}" for name, part in self.splits.items()),
            f"model: {config.network.build().description}, {describe_size(self.model)}",
            f"crops: {config.crop.kind}, {config.crop.size} px; batch {self.settings.batch_size}",
            describe_steps(self.settings, len(self.splits["train"].split.records)),
        ]

    def show_inputs(self, folder: Path) -> None:
        """The first batch, and how many images the classes have."""
        train, config = self.splits["train"], self.classifier.config
        first = first_batch(train, config, train_crop(config))
        plot_batch(first, self.classes, folder / "samples" / "train_batch0.jpg")
        plot_image_labels(train.split.records, self.classes, folder / "plots" / "labels.png")

    def write_data_report(self, folder: Path) -> None:
        splits = {name: part.split for name, part in self.splits.items()}
        write_labelled_report(folder, self.task, splits)


def _with_one_crop(config: ClassifierConfig) -> ClassifierConfig:
    """Testing as often as every few thousand steps must be cheap."""
    test = config.test.model_copy(update={"protocol": "one_crop", "flip": False})
    return config.model_copy(update={"test": test})
