"""What does every training run do around its loop, whatever it trains?

A task (detection, classification) is a subclass of `Training`; folder, log, checkpoints, signals
and exit codes are the same for all and live here.
"""

from __future__ import annotations

import json
import shlex
import signal
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ...datasets.catalog import DataSplit, describe
from ...datasets.findings import count_kinds
from ..config.base import Section, TrainConfig
from ..config.files import dump_config
from ..engine.checkpoint import expect_task, load_checkpoint
from ..engine.distributed import Group
from ..engine.log import RunLog
from ..engine.optim import MovingAverage, learning_rate, make_sgd
from ..engine.plots import plot_curves
from ..engine.signals import StopRequest
from ..engine.train import Outputs, Plan, TrainingState, train
from ..environment import describe_environment
from ..errors import ConfigError, WeightsError
from ..structures import Batch


@dataclass(frozen=True)
class Start:
    """Where weights come from beside the configuration: a ``checkpoint`` of this toolkit.

    ``resume`` goes on with its optimizer and step; else only its weights are taken, and
    ``reset_head`` allows other classes than it was trained on.
    """

    checkpoint: Path | None = None
    resume: bool = False
    reset_head: bool = False

    def read(self, task: str) -> dict[str, Any] | None:
        """The state to resume; None for a new run.

        Raises:
            WeightsError: unreadable, of another task, or weights without the optimizer's state.
        """
        if not (self.checkpoint and self.resume):
            return None
        state = load_checkpoint(self.checkpoint)
        expect_task(state, task, self.checkpoint)
        if "optimizer" not in state:
            raise WeightsError(
                f"{self.checkpoint}: holds weights without the optimizer's state: --resume needs "
                "last.pt, --weights starts a new run from it"
            )
        return state


#: A new run whose weights are those of the configuration.
FRESH = Start()


class Training(ABC):
    """A model with its data, ready to train; ``notes`` say where its weights come from."""

    #: What checkpoints are marked with.
    task: ClassVar[str]
    #: The command that goes on with a stopped run.
    command: ClassVar[str]
    #: What ``best.pt`` is chosen by, for people.
    best_name: ClassVar[str]

    def __init__(
        self,
        model: nn.Module,
        config: Section,
        settings: TrainConfig,
        classes: Sequence[str],
        notes: Sequence[str],
    ) -> None:
        self.model, self.config, self.settings = model, config, settings
        self.classes, self.notes = tuple(classes), tuple(notes)

    @property
    def identity(self) -> dict[str, Any]:
        """What every checkpoint carries, so that it can be used alone."""
        return {
            "task": self.task,
            "config": self.config.model_dump(mode="json"),
            "classes": list(self.classes),
        }

    @abstractmethod
    def join(self, group: Group) -> None:
        """Make the model, on its device by now, one of the ``group``'s."""

    def prepare(self, folder: Path, group: Group, log: RunLog) -> None:  # noqa: B027  most need none
        """Make what the run needs beyond weights and data, and keep it in ``folder``, where a
        resumed run finds it."""

    @abstractmethod
    def batches(self, start: int, group: Group) -> Iterable[Batch]:
        """This process's batches from step ``start`` on."""

    @abstractmethod
    def evaluate(self, state: TrainingState, outputs: Outputs, group: Group, step: int) -> float:
        """Log the metrics of the weights that would be shipped; a number that rises with their
        worth, on all processes."""

    @abstractmethod
    def banner(self) -> list[str]:
        """Data and network in a few lines."""

    @abstractmethod
    def show_inputs(self, folder: Path) -> None:
        """Images of what the network is about to see."""

    @abstractmethod
    def write_data_report(self, folder: Path) -> None:
        """All that was found in the data, and done about it."""


def run_training(
    training: Training, folder: Path, group: Group, resumed: Mapping[str, Any] | None
) -> int:
    """Train, and leave weights, logs and images in ``folder``. Returns the exit code.

    Raises:
        ConfigError, DataError: before the first step, or as `train`.
        DivergedError: when the loss stays non-finite.
    """
    training.model.to(group.device)
    training.join(group)
    state = _initial_state(training, group)
    if resumed:
        state.load_dict(resumed)
    log = _open_log(folder, training.settings, state.step, group)
    with log, StopRequest() as stop:
        if group.is_main:
            _write_run_files(folder, training)
            for line in [*banner(training, group, folder), *training.notes]:
                log.message(line)
        training.prepare(folder, group, log)
        outputs = Outputs(folder, log, training.identity, group.rank)
        batches = training.batches(state.step, group)
        if group.is_main and state.step == 0:
            draw(log, training.show_inputs, folder)
        stopped = train(
            state,
            batches,
            plan=make_plan(training.settings),
            outputs=outputs,
            group=group,
            evaluate=partial(training.evaluate, state, outputs, group),
            stop=stop,
        )
        if group.is_main:
            draw(log, plot_curves, folder)
            log.message(_farewell(training, state, outputs, stopped))
    # A process that was not asked itself stops with one that was.
    return stop.exit_code or (128 + signal.SIGTERM if stopped else 0)


def banner(training: Training, group: Group, folder: Path | str) -> list[str]:
    """One screen that says what is about to happen."""
    settings = training.settings
    return [
        f"device: {group.device} x {group.world}, {settings.precision}",
        *training.banner(),
        f"lr: {scaled_lr(settings):g} = {settings.lr:g} x batch {settings.batch_size} / "
        f"{settings.base_batch_size}",
        f"run folder: {folder}",
    ]


def describe_run(training: Training) -> list[str]:
    """What `run_training` would say of a run that could start now."""
    alone = Group(0, 1, torch.device("cpu"))
    return [*banner(training, alone, "none: dry run"), *training.notes]


def describe_splits(splits: Mapping[str, DataSplit]) -> list[str]:
    """What each named split holds."""
    return [f"{name}: {describe(split)}" for name, split in splits.items()]


def describe_findings(splits: Mapping[str, DataSplit]) -> list[str]:
    """What is wrong with the data, the first of it in full."""
    lines = []
    for name, split in splits.items():
        lines += [f"WARNING: data.{name}: {problem}" for problem in split.problems[:10]]
        if split.findings:
            lines.append(f"found in data.{name}: {count_kinds(split.findings)}")
    return lines


def write_labelled_report(folder: Path, task: str, splits: Mapping[str, DataSplit]) -> None:
    """``data_report.json`` of data with one class an image."""
    content = {}
    for name, split in splits.items():
        counts = Counter(record.image_label for record in split.records)
        content[name] = {
            "images": len(split.records),
            "classes": {label: counts[index] for index, label in enumerate(split.classes)},
            "problems": list(split.problems),
        }
    text = json.dumps({"task": task, "splits": content}, ensure_ascii=False, indent=1)
    (folder / "data_report.json").write_text(text + "\n", encoding="utf-8")


def describe_steps(settings: TrainConfig, images: int) -> str:
    per_epoch = -(-images // settings.batch_size)
    return (
        f"steps: {settings.iterations}, {settings.iterations / per_epoch:.1f} epochs of {per_epoch}"
    )


def describe_size(model: nn.Module) -> str:
    parameters = list(model.parameters())
    count = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return f"{count / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained"


def scaled_lr(settings: TrainConfig) -> float:
    """The linear scaling rule: ``lr`` belongs to ``base_batch_size`` images a step."""
    return settings.lr * settings.batch_size / settings.base_batch_size


def make_plan(settings: TrainConfig) -> Plan:
    """When and how to train, from the configuration."""
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
        plateau=settings.plateau_evaluations if settings.schedule == "plateau" else None,
        gamma=settings.gamma,
    )


def draw(log: RunLog, plot: Callable[..., object], *content: Any) -> None:
    """Images are for people: one that cannot be drawn or written does not stop training."""
    try:
        plot(*content)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        log.message(f"warning: an image of the run was not drawn, training goes on: {reason}")


def _initial_state(training: Training, group: Group) -> TrainingState:
    model, settings = training.model, training.settings
    model.train()
    return TrainingState(
        model,
        make_sgd(
            model,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            decay_bias=settings.decay_bias,
            decay_norm=settings.decay_norm,
        ),
        torch.amp.GradScaler(group.device.type, enabled=settings.precision == "fp16"),
        None if settings.ema_decay is None else MovingAverage(model, settings.ema_decay),
    )


def _open_log(folder: Path, settings: TrainConfig, start: int, group: Group) -> RunLog:
    if not group.is_main:
        return RunLog.silent()
    return RunLog(
        folder,
        total_steps=settings.iterations,
        start_step=start,
        tensorboard=settings.tensorboard,
    )


def _write_run_files(folder: Path, training: Training) -> None:
    """Configuration, machine, and what was found in the data."""
    try:
        (folder / "config.yaml").write_text(dump_config(training.config), encoding="utf-8")
        environment = json.dumps(describe_environment(), indent=1)
        (folder / "env.json").write_text(environment, encoding="utf-8")
        training.write_data_report(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{error.filename or folder}: cannot be written: {reason}") from error


def _farewell(training: Training, state: TrainingState, outputs: Outputs, stopped: bool) -> str:
    if stopped:
        command = f"resdet {training.command} --resume {shlex.quote(str(outputs.last))}"
        return f"stopped at step {state.step}; go on with: {command}"
    return (
        f"done: {state.step} steps, best {training.best_name}{state.best:.4f}; "
        f"weights in {outputs.best.parent}"
    )
