"""From a configuration to a trained detector in a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...datasets.catalog import DataSplit
from ...datasets.checks.check import summarise
from ...datasets.checks.report import write_report
from ...datasets.loading.dataset import DetectionDataset, train_loader
from ...datasets.loading.sampling import BatchPlan
from ...datasets.loading.workers import BatchLoader
from ..config.base import TrainConfig
from ..config.detector import DetectorConfig
from ..engine.distributed import Group
from ..engine.plots import plot_batch, plot_detections, plot_labels
from ..engine.train import Outputs, TrainingState, shipped_weights
from ..errors import DataError
from ..evaluation.run import autocast, evaluating
from ..structures import Batch, Detections
from .data_check import anchors_in_training
from .detector import (
    Detector,
    build_model,
    build_split,
    image_rules,
    test_transform,
    train_transform,
)
from .detector_testing import detect_split, score_split
from .detector_weights import fill_backbone, fill_from_detector
from .run import (
    FRESH,
    Start,
    Training,
    describe_findings,
    describe_run,
    describe_size,
    describe_splits,
    describe_steps,
    draw,
    run_training,
    scaled_lr,
)

__all__ = ["Start", "check_training", "scaled_lr", "train_detector"]


@dataclass(frozen=True)
class Splits:
    training: DataSplit
    validation: DataSplit

    def by_name(self) -> dict[str, DataSplit]:
        return {"train": self.training, "val": self.validation}


def train_detector(config: DetectorConfig, folder: Path, group: Group, start: Start = FRESH) -> int:
    """Train, and leave weights, logs and images in ``folder``. Returns the exit code.

    Raises:
        ConfigError, DataError, WeightsError: before the first step, naming what is wrong.
        DivergedError: when the loss stays non-finite.
    """
    resumed = start.read(DetectorTraining.task)
    return run_training(_prepare(config, start, resumed), folder, group, resumed)


def check_training(config: DetectorConfig, start: Start = FRESH) -> list[str]:
    """The banner of a run that could start now: data, weights and network are all looked at."""
    return describe_run(_prepare(config, start, start.read(DetectorTraining.task)))


def _prepare(
    config: DetectorConfig, start: Start, resumed: Mapping[str, Any] | None
) -> DetectorTraining:
    """Network with starting weights, and data."""
    splits = _read_splits(config, tuple(resumed["classes"]) if resumed else None)
    classes = splits.training.classes
    detector = Detector(build_model(config, len(classes)), config, classes)
    notes = _fill(detector, start)
    return DetectorTraining(detector, splits, [*describe_findings(splits.by_name()), *notes])


def _read_splits(config: DetectorConfig, classes: tuple[str, ...] | None) -> Splits:
    training = build_split(config, "train", classes=classes)
    validation = build_split(config, "val", classes=training.classes)
    for name, split in (("train", training), ("val", validation)):
        if not split.records:
            raise DataError(
                f"data.{name}: no images in {len(getattr(config.data, name))} source(s)"
            )
    return Splits(training, validation)


def _fill(detector: Detector, start: Start) -> list[str]:
    """Put the starting weights into the model; what was done, in words."""
    if start.resume:
        return [f"resuming from {start.checkpoint}"]
    if start.checkpoint:
        return fill_from_detector(detector, start.checkpoint, reset_head=start.reset_head)
    return fill_backbone(detector)


class DetectorTraining(Training):
    """A detector and its two splits."""

    task = "detection"
    command = "train-det"
    best_name = ""

    def __init__(self, detector: Detector, splits: Splits, notes: Sequence[str]) -> None:
        config = detector.config
        super().__init__(detector.model, config, config.train, detector.classes, notes)
        self.detector, self.splits = detector, splits

    def join(self, group: Group) -> None:
        self.detector.model.mean_count = group.all_reduce_mean

    def batches(self, start: int, group: Group) -> BatchLoader:
        plan = _batch_plan(self.settings, self.splits.training, start, group)
        return _loader(self._dataset(), plan, self.detector.config, group)

    def evaluate(self, state: TrainingState, outputs: Outputs, group: Group, step: int) -> float:
        split = self.splits.validation
        with shipped_weights(state), evaluating(state.model):
            group.broadcast_buffers(state.model)
            found = detect_split(self.detector, split, group)
            loss = _validation_loss(self.detector, split, group)
        metric = None
        if found is not None:
            metric = _score(self.detector, split, found, loss, outputs, step)
        return group.broadcast(f"evaluation/{step}", metric)

    def banner(self) -> list[str]:
        config = self.detector.config
        rpn = config.rpn
        return [
            *describe_splits(self.splits.by_name()),
            f"model: {config.backbone.build().name} C4, norm {config.backbone.norm}, "
            f"{describe_size(self.model)}",
            f"anchors: {list(rpn.anchor_sizes)} x {list(rpn.anchor_ratios)}; proposals: "
            f"{rpn.post_nms_train} in training, {rpn.post_nms_test} in testing",
            describe_steps(self.settings, len(self.splits.training.records)),
        ]

    def show_inputs(self, folder: Path) -> None:
        """The first batch, and the labels' statistics."""
        dataset, alone = self._dataset(), Group(0, 1, torch.device("cpu"))
        plan = _batch_plan(self.settings, self.splits.training, 0, alone)
        first = Batch.collate([dataset[key] for key in next(iter(plan))[:8]])
        plot_batch(first, self.classes, folder / "samples" / "train_batch0.jpg")
        plot_labels(dataset.records, self.classes, folder / "plots" / "labels.png")

    def write_data_report(self, folder: Path) -> None:
        path = folder / "config.yaml"
        anchors = anchors_in_training(self.detector.config)
        report = summarise(str(path), self.splits.by_name(), anchors, path)
        write_report(report, folder / "data_report.json")

    def _dataset(self) -> DetectionDataset:
        config = self.detector.config
        return DetectionDataset(
            self.splits.training.records, train_transform(config), rules=image_rules(config)
        )


def _batch_plan(settings: TrainConfig, split: DataSplit, start: int, group: Group) -> BatchPlan:
    return BatchPlan(
        [record.size for record in split.records],
        batch_size=settings.batch_size,
        seed=settings.seed,
        start_step=start,
        steps=settings.iterations,
        rank=group.rank,
        world=group.world,
        accumulate=settings.accumulate,
    )


def _loader(
    dataset: DetectionDataset, plan: BatchPlan, config: DetectorConfig, group: Group
) -> BatchLoader:
    pin_memory = group.device.type == "cuda"
    return train_loader(dataset, plan, workers=config.data.workers, pin_memory=pin_memory)


def _score(
    detector: Detector,
    split: DataSplit,
    found: dict[str, Detections],
    loss: float | None,
    outputs: Outputs,
    step: int,
) -> float:
    chosen_by = detector.config.eval.metric
    # COCO's numbers take a minute for 5,000 images; `resdet eval` prints them when it is over.
    evaluation = score_split(detector, split, found, coco=chosen_by.startswith("coco"))
    metrics = dict(evaluation.metrics)
    if loss is not None:
        metrics["val_loss"] = loss
    outputs.log.evaluation(step, metrics)
    draw(outputs.log, _show_detections, detector, split, found, outputs.folder)
    return metrics[chosen_by]


def _show_detections(
    detector: Detector, split: DataSplit, found: Mapping[str, Detections], folder: Path
) -> None:
    shown = [record for record in split.records if record.image_id in found][:8]
    path = folder / "samples" / "val_detections.jpg"
    plot_detections(shown, found, detector.classes, path, rules=image_rules(detector.config))


@torch.no_grad()
def _validation_loss(detector: Detector, split: DataSplit, group: Group) -> float | None:
    """The mean loss over ``val_loss_batches`` batches as large as training's, images as in
    testing."""
    config = detector.config
    count = config.train.val_loss_batches
    if count == 0:
        return None
    dataset = DetectionDataset(split.records, test_transform(config), rules=image_rules(config))
    plan = _batch_plan(config.train.model_copy(update={"iterations": count}), split, 0, group)
    losses = []
    for batch in _loader(dataset, plan, config, group):
        with autocast(group.device, config.train.precision):
            losses.append(torch.stack(list(detector.model(batch.to(group.device)).values())).sum())
    return group.all_reduce_mean(torch.stack(losses).mean()).item()
