"""A training run of any task: folder, log, weights to start from, checkpoints, evaluations."""

from __future__ import annotations

import math
import shlex
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...backbones.norm import folded_once
from ..config.base import TrainConfig
from ..engine.distributed import Group
from ..engine.forking import describe_schedule_change
from ..engine.gpu_settings import describe_precision, gpu_settings
from ..engine.log import RunLog
from ..engine.optim import MovingAverage, enough_values, make_sgd, scaled_lr
from ..engine.plots import plot_curves
from ..engine.signals import StopRequest
from ..engine.state import Outputs, TrainingState, shipped_weights
from ..engine.train import train
from ..errors import DataError
from ..evaluation.prediction import emulation, evaluating, resolved
from .agreement import expect_agreement
from .arithmetic import convolve_in_training, describe_convolutions, other_threads
from .banner import (
    classes_without_objects,
    describe_findings,
    describe_steps,
    fixed_at_random,
    unused_images,
)
from .base import ALONE, Loaded, Task
from .batch_size import found_batch_size, is_auto, unit_of, with_batch_size
from .epochs import steps_per_epoch, with_iterations
from .held_out import describe_validation, expect_evaluations, held_out_ids, read_splits
from .run_files import write_run_files
from .skipped import describe_skipped, skipped_images
from .start import FRESH, Start, start_weights
from .trained_run import TrainedRun


class Training:
    """A network with its data, ready to train; ``notes`` say where its weights come from.

    Raises:
        ConfigError, DataError, WeightsError: naming what is wrong.
    """

    def __init__(self, task: Task, config: Any, start: Start = FRESH) -> None:
        resumed = start.resumed
        splits = read_splits(
            task,
            config,
            resumed.classes if resumed else None,
            resumed.held_out if resumed else None,
        )
        expect_evaluations(config, splits)
        for name, split in splits.items():
            if not split.records:
                raise DataError(f"data.{name}: no images")
        #: Whether the batch size is still to be found; until then it is the smallest.
        self.unsized = is_auto(config)
        if self.unsized:
            config = with_batch_size(config, unit_of(config))
        config = with_iterations(config, len(splits["train"].records))
        start.expect_steps(config)
        classes = splits["train"].classes
        if resumed:
            resumed.expect_fit(config)
        loaded = Loaded(task.build(config, len(classes)), config, classes)
        self.task, self.loaded, self.splits, self.start = task, loaded, splits, start
        #: Of the optimizer of the run that this one starts from, by parameter.
        self.momenta: dict[str, torch.Tensor] = {}
        self.notes = [
            *describe_findings(splits),
            *classes_without_objects(splits),
            *describe_validation(splits, config),
            *self._load_weights(),
        ]
        # Refuse batches that cannot be made, before the run has a folder.
        if type(task).prepare is Task.prepare:
            task.train_batches(config, splits["train"], None, 0, ALONE)
        else:  # the samples need a computation
            task.batch_plan(config.train, splits["train"])
        #: Prediction with the network in training, for evaluations.
        self.tested = replace(loaded, config=task.quick_config(config))
        self.pipeline = task.pipeline([self.tested])
        #: From how many channels on it convolves by Winograd's method.
        self.winograd: int | None = None
        #: The result of `Task.prepare`.
        self.prepared: Any = None

    def find_batch_size(self, group: Group) -> None:
        """With ``train.batch_size: auto``, find the number, which is from then on in the config.
        Raises ConfigError where it cannot be found."""
        if self.unsized:
            images, note = found_batch_size(self, group)
            config = with_batch_size(self.loaded.config, images)
            config = with_iterations(config, len(self.splits["train"].records))
            self.loaded = replace(self.loaded, config=config)
            self.tested = replace(self.loaded, config=self.task.quick_config(config))
            self.notes.append(note)
            self.unsized = False

    @property
    def settings(self) -> TrainConfig:
        settings: TrainConfig = self.loaded.config.train
        return settings

    @property
    def identity(self) -> dict[str, Any]:
        """The entries that make a checkpoint usable without other files."""
        held_out = held_out_ids(self.splits, self.loaded.config)
        return {
            "task": self.task.name,
            "config": self.loaded.config.model_dump(mode="json"),
            "classes": list(self.loaded.classes),
            "images": len(self.splits["train"].records),
            "threads": torch.get_num_threads(),
            "winograd_channels": self.winograd,
            **({} if held_out is None else {"held_out": held_out}),
        }

    def _load_weights(self) -> list[str]:
        """Load the weights that the run starts from; returns lines for the log."""
        start = self.start
        if start.checkpoint is None:
            return [*self.task.load_pretrained(self.loaded), *fixed_at_random(self.loaded)]
        if start.resume:
            before: Any = start.checkpoint.config
            state = start.checkpoint.state
            changes = describe_schedule_change(
                before.train, self.settings, state["step"], state.get("drops", 0)
            )
            return [f"resuming from {start.checkpoint.path}", *changes, *other_threads(state)]
        notes, self.momenta = start_weights(self.loaded, start.checkpoint, start.reset_head)
        return notes

    def banner(self, group: Group, folder: Path | str) -> list[str]:
        """The summary that is logged before the first step."""
        settings, test = self.settings, self.tested.config.test
        return [
            f"device: {group.device} x {group.world}, {describe_precision(settings, group.device)}",
            *emulation("train.precision", settings.precision, group.device),
            *describe_convolutions(self.winograd, settings, group.device),
            *emulation("test.precision", test.precision, group.device),
            *self.task.describe(self.loaded, self.splits),
            *self._evaluations(),
            describe_steps(settings, len(self.splits["train"].records)),
            f"lr: {scaled_lr(settings):g} = {settings.lr:g} x batch {settings.batch_size} / "
            f"{settings.base_batch_size}",
            f"run folder: {folder}",
            *self.notes,
        ]

    def rehearse(self) -> None:
        """Read the first training images and, if a pass has one image, make the first pass of the
        network; for a dry run, whose network is not used. Raises as the first step would."""
        task, config, settings = self.task, self.loaded.config, self.settings
        if type(task).prepare is not Task.prepare:  # the samples need a computation
            return
        first = task.first_batch(config, self.splits["train"], None)
        if settings.batch_size == settings.accumulate:
            with torch.no_grad(), enough_values(settings):
                self.loaded.model.train()(first)

    def _evaluations(self) -> list[str]:
        if "val" not in self.splits:
            return []
        return [self.task.describe_evaluations(self.loaded, self.tested, self.pipeline)]

    def initial_state(self, group: Group) -> TrainingState:
        """The state before the first step, with the network on the device of ``group``."""
        self.pipeline.to(group.device)
        self.task.prepare_model(self.loaded, group)
        model, settings, resumed = self.loaded.model.train(), self.settings, self.start.resumed
        before = resumed.state if resumed else None
        self.winograd = convolve_in_training(model, settings, group.device, before)
        scaled = resolved(settings.precision, group.device) == "fp16"
        state = TrainingState(
            model,
            make_sgd(model, settings),
            torch.amp.GradScaler(group.device.type, enabled=scaled),
            None if settings.ema_decay is None else MovingAverage(model, settings.ema_decay),
        )
        for name, parameter in model.named_parameters():
            if name in self.momenta:
                momentum = self.momenta[name].to(parameter, copy=True)
                state.optimizer.state[parameter]["momentum_buffer"] = momentum
        return state

    def run(self, folder: Path, group: Group) -> TrainedRun:
        """Train, and leave weights, logs and images in ``folder``.

        Raises ConfigError and DataError before the first step, and as `train`.
        """
        self.find_batch_size(group)
        task, loaded, resumed = self.task, self.loaded, self.start.resumed
        state = self.initial_state(group)
        if resumed:
            state.load_dict(resumed.state, str(resumed.path))
            resumed.release()
        expect_agreement(self, state.step, group)
        if group.is_main:
            write_run_files(self, folder)  # first of all: `--start-or-resume` knows a run by them
        log = self._open_log(folder, state, group)
        gpu = gpu_settings(self.settings, group.device, fixed_size=task.fixed_size)
        with log, gpu, StopRequest() as stop:
            for line in self.banner(group, folder) if group.is_main else ():
                log.message(line)
            self.prepared = task.prepare(self, folder, group, log)
            split = self.splits["train"]
            outputs = Outputs(folder, log, self.identity, group.rank, f"resdet {task.command}")
            if group.is_main:
                outputs.skipped.add(unused_images(self.splits), log=False)
            batches = task.train_batches(loaded.config, split, self.prepared, state.step, group)
            if group.is_main and state.step == 0:
                log.draw(task.show_inputs, loaded, split, self.prepared, folder)
            stopped = train(
                state,
                batches,
                settings=self.settings,
                outputs=outputs,
                group=group,
                evaluate=partial(self.evaluate, state, outputs, group, stop),
                stop=stop,
            )
            if group.is_main:
                log.draw(plot_curves, folder)
                if summary := outputs.skipped.summary():
                    log.message(summary)
                log.message(self._result_message(state, outputs, stopped))
        # A process without a signal stops together with the one that received it.
        code = stop.exit_code or (128 + signal.SIGTERM if stopped else 0)
        return TrainedRun(folder, state.step, code)

    def evaluate(
        self, state: TrainingState, outputs: Outputs, group: Group, stop: StopRequest, step: int
    ) -> float | None:
        """Evaluate `TrainingState.weights` on ``val`` and log the metrics. Returns the metric that
        selects ``best.pt``, on all processes; nan without validation images, None if ``stop`` of
        any process ended it."""
        if "val" not in self.splits:
            return math.nan
        task, loaded, split = self.task, self.loaded, self.splits["val"]
        config = self.tested.config
        with shipped_weights(state), evaluating(state.model):
            group.broadcast_buffers(state.model)  # before they are folded
            with folded_once(state.model):
                found = task.predict_split(
                    self.pipeline, config, split, group, stop=lambda: stop.requested
                )
                requested = torch.tensor([float(stop.requested)], device=group.device)
                if any(group.all_reduce_max(requested)()):
                    return None
                further = task.validate(loaded, split, group)
        metric = None
        with group.assisted():
            if found is not None:
                evaluation = task.evaluate(found, split, config, quick=True, spread=group.spread)
                outputs.log.evaluation(step, {**task.logged(evaluation), **further})
                outputs.skipped.add(skipped := skipped_images(found, split, config))
                if skipped:
                    outputs.log.message(describe_skipped(skipped, evaluation.images))
                outputs.log.draw(task.show_predictions, loaded, split, found, outputs.folder)
                metric = task.selection_metric(evaluation, config)
        return group.broadcast(f"evaluation/{step}", metric)

    def _open_log(self, folder: Path, state: TrainingState, group: Group) -> RunLog:
        if not group.is_main:
            return RunLog(None)
        settings, images = self.settings, len(self.splits["train"].records)
        return RunLog(
            folder,
            total_steps=settings.iterations,
            start_step=state.step,
            evaluated=not state.unevaluated,
            steps_per_epoch=None if settings.epochs is None else steps_per_epoch(settings, images),
            trackers=["tensorboard"] * settings.tensorboard + list(settings.trackers),
            config=self.loaded.config.model_dump(mode="json"),
        )

    def _result_message(self, state: TrainingState, outputs: Outputs, stopped: bool) -> str:
        if stopped:
            command = f"{outputs.command} --resume {shlex.quote(str(outputs.last))}"
            return f"stopped at step {state.step}; continue with: {command}"
        if math.isfinite(state.best):
            best = f"best {self.task.describe_best(self.loaded.config, state.best)}"
        elif "val" not in self.splits:
            best = "without validation: best.pt is last.pt"
        else:
            best = "no best: data.val gave no result (-); best.pt has the last weights"
        command = f"\nnext: resdet eval --weights {shlex.quote(str(outputs.best))}"
        done = f"done: {state.step} steps, {best}; weights in {outputs.best.parent}"
        return done + (command if "val" in self.splits else "")
