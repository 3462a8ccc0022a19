"""From a configuration to a trained detector in a run folder."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..datasets.catalog import DataSplit, describe
from ..datasets.check import summarise
from ..datasets.check_json import write_report
from ..datasets.findings import count_kinds
from ..datasets.loader import BatchLoader, BatchPlan, DetectionDataset, train_loader
from .build import (
    Detector,
    build_model,
    build_split,
    image_rules,
    test_transform,
    train_transform,
)
from .config import dump_config
from .data_check import anchors_in_training
from .engine.checkpoint import load_checkpoint
from .engine.distributed import Group
from .engine.log import RunLog
from .engine.optim import MovingAverage, learning_rate, make_sgd
from .engine.plots import plot_batch, plot_curves, plot_detections, plot_labels
from .engine.signals import StopRequest
from .engine.train import Outputs, Plan, TrainingState, shipped_weights, train
from .environment import describe_environment
from .errors import ConfigError, DataError, WeightsError
from .evaluation.run import autocast, evaluating
from .schema import DetectorConfig, TrainConfig
from .stored import fill_backbone, fill_from_detector
from .structures import Batch, Detections
from .testing import detect_split, score_split


@dataclass(frozen=True)
class Start:
    """Where weights come from beside the configuration: a ``checkpoint`` of this toolkit.

    ``resume`` goes on with its optimizer and step; else only its weights are taken, and
    ``reset_head`` allows other classes than it was trained on.
    """

    checkpoint: Path | None = None
    resume: bool = False
    reset_head: bool = False


@dataclass(frozen=True)
class Splits:
    training: DataSplit
    validation: DataSplit


def train_detector(
    config: DetectorConfig, folder: Path, group: Group, start: Start = Start()
) -> int:
    """Train, and leave weights, logs and pictures in ``folder``. Returns the exit code.

    Raises:
        ConfigError, DataError, WeightsError: before the first step, naming what is wrong.
        DivergedError: when the loss stays non-finite.
    """
    resumed = _load_for_resuming(start.checkpoint) if start.checkpoint and start.resume else None
    detector, splits, notes = _prepare(config, start, resumed)
    detector.model.to(group.device)
    detector.model.mean_count = group.mean
    state = _initial_state(detector, group)
    if resumed:
        state.load_dict(resumed)
    log = _open_log(folder, config.train, state.step, group)
    with log, StopRequest() as stop:
        if group.is_main:
            _write_run_files(folder, config, splits)
            for line in [*_banner(detector, splits, group, folder), *notes]:
                log.message(line)
        outputs = Outputs(folder, log, _identity(detector), group.rank)
        stopped = _run(detector, state, splits, outputs, group, stop)
        if group.is_main:
            _draw(log, plot_curves, folder)
            log.message(_farewell(state, outputs, stopped))
    # A process that was not asked itself stops with one that was.
    return stop.exit_code or (128 + signal.SIGTERM if stopped else 0)


def check_training(config: DetectorConfig, start: Start = Start()) -> list[str]:
    """The banner of a run that could start now: data, weights and network are all looked at."""
    resumed = _load_for_resuming(start.checkpoint) if start.checkpoint and start.resume else None
    detector, splits, notes = _prepare(config, start, resumed)
    alone = Group(0, 1, torch.device("cpu"))
    return [*_banner(detector, splits, alone, Path("none: dry run")), *notes]


def _prepare(
    config: DetectorConfig, start: Start, resumed: Mapping[str, Any] | None
) -> tuple[Detector, Splits, list[str]]:
    """Network with starting weights and data, and what was done, in words."""
    splits = _read_splits(config, tuple(resumed["classes"]) if resumed else None)
    classes = splits.training.classes
    detector = Detector(build_model(config, len(classes)), config, classes)
    return detector, splits, _fill(detector, start)


def _load_for_resuming(path: Path) -> dict[str, Any]:
    state = load_checkpoint(path)
    if "optimizer" not in state:
        raise WeightsError(
            f"{path}: holds weights without the optimizer's state: --resume needs last.pt, "
            "--weights starts a new run from it"
        )
    return state


def _read_splits(config: DetectorConfig, classes: tuple[str, ...] | None) -> Splits:
    training = build_split(config, "train", classes=classes)
    validation = build_split(config, "val", classes=training.classes)
    for name, split in (("train", training), ("val", validation)):
        if not split.records:
            raise DataError(
                f"data.{name}: no pictures in {len(getattr(config.data, name))} source(s)"
            )
    return Splits(training, validation)


def _fill(detector: Detector, start: Start) -> list[str]:
    """Put the starting weights into the model; what was done, in words."""
    if start.resume:
        return [f"resuming from {start.checkpoint}"]
    if start.checkpoint:
        return fill_from_detector(detector, start.checkpoint, reset_head=start.reset_head)
    return fill_backbone(detector)


def _initial_state(detector: Detector, group: Group) -> TrainingState:
    settings = detector.config.train
    detector.model.train()
    return TrainingState(
        detector.model,
        make_sgd(
            detector.model,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            decay_bias=settings.decay_bias,
        ),
        torch.amp.GradScaler(group.device.type, enabled=settings.precision == "fp16"),
        None if settings.ema_decay is None else MovingAverage(detector.model, settings.ema_decay),
    )


def scaled_lr(settings: TrainConfig) -> float:
    """The linear scaling rule: ``lr`` belongs to ``base_batch_size`` images a step."""
    return settings.lr * settings.batch_size / settings.base_batch_size


def _plan(settings: TrainConfig) -> Plan:
    return Plan(
        iterations=settings.iterations,
        accumulate=settings.accumulate,
        precision=settings.precision,
        clip_norm=settings.clip_norm,
        log_every=settings.log_every,
        eval_every=settings.eval_every,
        checkpoint_every=settings.checkpoint_every,
        patience=settings.patience,
        max_nonfinite=settings.max_nonfinite,
        learning_rate=partial(
            learning_rate,
            base=scaled_lr(settings),
            total=settings.iterations,
            warmup=settings.warmup_iterations,
            warmup_factor=settings.warmup_factor,
            schedule=settings.schedule,
            milestones=settings.milestones,
            gamma=settings.gamma,
        ),
    )


def _run(
    detector: Detector,
    state: TrainingState,
    splits: Splits,
    outputs: Outputs,
    group: Group,
    stop: StopRequest,
) -> bool:
    """Train; whether it was stopped before the end."""
    config = detector.config
    dataset = DetectionDataset(
        splits.training.records, train_transform(config), rules=image_rules(config)
    )
    plan = _batch_plan(config.train, splits.training, state.step, group)
    if group.is_main and state.step == 0:
        _draw(outputs.log, _show_inputs, dataset, plan, detector.classes, outputs.folder)
    return train(
        state,
        _loader(dataset, plan, config, group),
        plan=_plan(config.train),
        outputs=outputs,
        group=group,
        evaluate=partial(_evaluate, detector, state, splits.validation, outputs, group),
        stop=stop,
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


def _draw(log: RunLog, plot: Callable[..., object], *content: Any) -> None:
    """Pictures are for people: one that cannot be drawn or written does not stop training."""
    try:
        plot(*content)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.message(f"warning: a picture of the run was not drawn, training goes on: {reason}")


def _show_inputs(
    dataset: DetectionDataset, plan: BatchPlan, classes: Sequence[str], folder: Path
) -> None:
    """Pictures of what the network is about to see: the first batch, and the labels' statistics."""
    first = Batch.collate([dataset[key] for key in next(iter(plan))[:8]])
    plot_batch(first, classes, folder / "samples" / "train_batch0.jpg")
    plot_labels(dataset.records, classes, folder / "plots" / "labels.png")


def _evaluate(
    detector: Detector,
    state: TrainingState,
    split: DataSplit,
    outputs: Outputs,
    group: Group,
    step: int,
) -> float:
    """Score the weights that would be shipped; the metric of ``best.pt``, on all processes."""
    with shipped_weights(state), evaluating(state.model):
        group.share_buffers(state.model)
        found = detect_split(detector, split, group)
        loss = _validation_loss(detector, split, group)
    metric = None
    if found is not None:
        metric = _score(detector, split, found, loss, outputs, step)
    return group.tell(f"evaluation/{step}", metric)


def _score(
    detector: Detector,
    split: DataSplit,
    found: dict[str, Detections],
    loss: float | None,
    outputs: Outputs,
    step: int,
) -> float:
    chosen_by = detector.config.eval.metric
    # COCO's numbers take a minute for 5,000 pictures; `resdet eval` prints them when it is over.
    evaluation = score_split(detector, split, found, coco=chosen_by.startswith("coco"))
    metrics = dict(evaluation.metrics)
    if loss is not None:
        metrics["val_loss"] = loss
    outputs.log.evaluation(step, metrics)
    _draw(outputs.log, _show_detections, detector, split, found, outputs.folder)
    return metrics[chosen_by]


def _show_detections(
    detector: Detector, split: DataSplit, found: Mapping[str, Detections], folder: Path
) -> None:
    shown = [record for record in split.records if record.image_id in found][:8]
    path = folder / "samples" / "val_detections.jpg"
    plot_detections(shown, found, detector.classes, path, rules=image_rules(detector.config))


@torch.no_grad()
def _validation_loss(detector: Detector, split: DataSplit, group: Group) -> float | None:
    """The mean loss over ``val_loss_batches`` batches as large as training's, pictures as in
    testing."""
    config = detector.config
    count = config.train.val_loss_batches
    if count == 0:
        return None
    dataset = DetectionDataset(split.records, test_transform(config), rules=image_rules(config))
    settings = config.train.model_copy(update={"iterations": count})
    plan = _batch_plan(settings, split, 0, group)
    losses = []
    for batch in _loader(dataset, plan, config, group):
        with autocast(group.device, config.train.precision):
            losses.append(torch.stack(list(detector.model(batch.to(group.device)).values())).sum())
    return group.mean(torch.stack(losses).mean()).item()


def _identity(detector: Detector) -> dict[str, Any]:
    """What every checkpoint carries, so that it can be used alone."""
    return {
        "config": detector.config.model_dump(mode="json"),
        "classes": list(detector.classes),
    }


def _open_log(folder: Path, settings: TrainConfig, start: int, group: Group) -> RunLog:
    if not group.is_main:
        return RunLog.silent()
    return RunLog(
        folder,
        total_steps=settings.iterations,
        start_step=start,
        tensorboard=settings.tensorboard,
    )


def _write_run_files(folder: Path, config: DetectorConfig, splits: Splits) -> None:
    """Beside configuration and machine, all that was found in the data and done about it."""
    path = folder / "config.yaml"
    named = {"train": splits.training, "val": splits.validation}
    report = summarise(str(path), named, anchors_in_training(config), path)
    try:
        path.write_text(dump_config(config), encoding="utf-8")
        environment = json.dumps(describe_environment(), indent=1)
        (folder / "env.json").write_text(environment, encoding="utf-8")
        write_report(report, folder / "data_report.json")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{error.filename or folder}: cannot be written: {reason}") from error


def _banner(detector: Detector, splits: Splits, group: Group, folder: Path) -> list[str]:
    """One screen that says what is about to happen."""
    config, settings = detector.config, detector.config.train
    parameters = list(detector.model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    per_epoch = -(-len(splits.training.records) // settings.batch_size)
    rpn = config.rpn
    lines = [
        f"device: {group.device} x {group.world}, {settings.precision}",
        f"train: {describe(splits.training)}",
        f"val: {describe(splits.validation)}",
        f"model: ResNet-{config.backbone.depth} C4, norm {config.backbone.norm}, "
        f"{sum(p.numel() for p in parameters) / 1e6:.1f} M parameters, "
        f"{trained / 1e6:.1f} M trained",
        f"anchors: {list(rpn.anchor_sizes)} x {list(rpn.anchor_ratios)}; proposals: "
        f"{rpn.post_nms_train} in training, {rpn.post_nms_test} in testing",
        f"lr: {scaled_lr(settings):g} = {settings.lr:g} x batch {settings.batch_size} / "
        f"{settings.base_batch_size}",
        f"steps: {settings.iterations}, {settings.iterations / per_epoch:.1f} epochs of "
        f"{per_epoch}",
        f"run folder: {folder}",
    ]
    for name, split in (("train", splits.training), ("val", splits.validation)):
        lines += [f"WARNING: data.{name}: {problem}" for problem in split.problems[:10]]
        if split.findings:
            lines.append(f"found in data.{name}: {count_kinds(split.findings)}")
    return lines


def _farewell(state: TrainingState, outputs: Outputs, stopped: bool) -> str:
    if stopped:
        command = f"resdet train-det --resume {shlex.quote(str(outputs.last))}"
        return f"stopped at step {state.step}; go on with: {command}"
    return f"done: {state.step} steps, best {state.best:.4f}; weights in {outputs.best.parent}"
