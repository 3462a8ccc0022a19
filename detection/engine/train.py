"""The training loop.

A step is a pure function of the weights, the optimizer and the step number: the batch plan, the
learning rate and every random draw follow from the seed and the step. So a run that was killed and
resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config.base import TrainConfig
from ..errors import ConfigError, DataError, DivergedError, ResdetError
from ..structures import Batch
from .distributed import Group
from .forking import continued, fork_command
from .memory import evaluation_advice, step_advice
from .optim import learning_rate
from .signals import StopRequest
from .state import Outputs, TrainingState
from .step import forward_backward, moving_statistics, restore, update

#: Which argument leaves running statistics to each process; torch 2.13 has another one.
_OWN_STATISTICS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


def train(
    state: TrainingState,
    batches: Iterable[Batch],
    *,
    settings: TrainConfig,
    outputs: Outputs,
    group: Group,
    evaluate: Callable[[int], float | None],
    stop: StopRequest,
) -> bool:
    """Run the steps from ``state.step`` to ``settings.iterations``, or until patience ends.

    ``batches`` has ``settings.accumulate`` batches per step. ``evaluate(step)`` returns the metric
    that ``best.pt`` is chosen by, or None if ``stop`` of any process ended it; a resumed run makes
    up for it. ``last.pt`` is saved before each evaluation and after it. Returns whether ``stop`` of
    any process ended the run earlier.

    Raises:
        DivergedError: after ``settings.max_nonfinite`` non-finite losses in a row.
        ConfigError: the GPU's memory does not hold a step; what would fit is suggested. Or, at the
            end: the last checkpoint could not be written.
        DataError: an image cannot be used or a data worker died; ``last.pt`` is saved before.
    """
    group.meet()  # the main process has written reports and drawn images
    network = _replicate(state.model, group)
    stream, meter = iter(batches), state.meter
    unsaved: OSError | None = None
    stopping = False
    meter.resume()
    if state.unevaluated:
        if _evaluate(state, evaluate, settings, outputs, group):
            unsaved = outputs.save_last(state, group)
        else:
            stopping = True
    while (
        not stopping and state.step < settings.iterations and not _patience_ended(state, settings)
    ):
        waiting = time.perf_counter()
        parts = _parts_of_step(stream, state, settings, outputs, group)
        outputs.skipped.add(line for part in parts for line in part.skipped)
        meter.waited(time.perf_counter() - waiting)

        rate = learning_rate(state.step, settings) * settings.gamma**state.drops
        statistics = moving_statistics(state.model)
        try:
            losses, finite, stopping = forward_backward(
                network, parts, state, settings, group, stop
            )
        except torch.OutOfMemoryError as error:
            restore(statistics)
            if group.world == 1:  # else the others wait in a collective
                _save_before_an_error(state, outputs, group)
            raise ConfigError(step_advice(parts, state, outputs, group.device)) from error
        state.step += 1
        if finite:
            try:
                update(state, settings, rate)
            except torch.OutOfMemoryError as error:  # weights may be changed in part: not saved
                state.step -= 1
                raise ConfigError(step_advice(parts, state, outputs, group.device)) from error
            meter.add(losses, images=sum(map(len, parts)) * group.world)
        else:
            restore(statistics)
            _report_nonfinite(state, parts, losses, settings, outputs, rate)

        step, done = state.step, state.step == settings.iterations
        if meter.steps and (step % settings.log_every == 0 or done):
            outputs.log.step(step, {**meter.read(group), "lr": rate})
        state.unevaluated = step % settings.eval_every == 0 or done
        due = step % settings.checkpoint_every == 0 or state.unevaluated
        # Weights that gave a non-finite loss must not replace good ones.
        if stopping or (due and state.skipped == 0):
            unsaved = outputs.save_last(state, group)
        if state.unevaluated and not stopping:
            if _evaluate(state, evaluate, settings, outputs, group):
                unsaved = outputs.save_last(state, group)
            else:
                stopping = True
    stopped = stopping and (state.unevaluated or state.step < settings.iterations)
    if not stopped and _patience_ended(state, settings):
        outputs.log.message(f"stopped: no better result in {state.stale} evaluations")
    outputs.expect_saved(unsaved, state)
    return stopped


def _parts_of_step(
    stream: Iterator[Batch],
    state: TrainingState,
    settings: TrainConfig,
    outputs: Outputs,
    group: Group,
) -> list[Batch]:
    """The batches of the next step. An unreadable image or a dead worker of any process ends the
    run in all of them, after a checkpoint of the steps before is saved."""
    error: ResdetError | None = None
    parts: list[Batch] = []
    try:
        parts = [next(stream).to(group.device) for _ in range(settings.accumulate)]
    except ResdetError as failed:
        error = failed
    if reason := group.failure(str(error) if error else ""):
        if state.step > 0:
            _save_before_an_error(state, outputs, group)
            group.failure(reason)  # the end of any process before would end the one that saves
        raise error or DataError(f"another process ended: {reason}")
    return parts


def _save_before_an_error(state: TrainingState, outputs: Outputs, group: Group) -> None:
    """Save a checkpoint of good weights before an error ends the run; called by all processes."""
    if state.skipped == 0:
        outputs.save_last(state, group)
        outputs.log.message(f"saved at step {state.step} before an error ends the run")


def _patience_ended(state: TrainingState, settings: TrainConfig) -> bool:
    return settings.patience is not None and state.stale >= settings.patience


def _replicate(model: nn.Module, group: Group) -> nn.Module:
    if group.world == 1:
        return model
    options: dict[str, Any] = {_OWN_STATISTICS: False}
    return DistributedDataParallel(model, **options)


def _report_nonfinite(
    state: TrainingState,
    parts: list[Batch],
    losses: Mapping[str, Tensor],
    settings: TrainConfig,
    outputs: Outputs,
    rate: float,
) -> None:
    """Log the skipped step with its images; raises DivergedError after too many in a row."""
    state.skipped += 1
    report = {
        "step": state.step,
        "lr": rate,
        "losses": {name: str(value.item()) for name, value in losses.items()},
        "image_ids": [image_id for batch in parts for image_id in batch.image_ids],
    }
    path = outputs.folder / "debug" / f"nonfinite_{state.step}_process{outputs.rank}.json"
    outputs.log.message(f"step {state.step}: non-finite loss, step skipped; details in {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1), encoding="utf-8")
    except OSError as error:
        outputs.log.message(f"WARNING: {path} not written ({error}): {json.dumps(report)}")
    if state.skipped >= settings.max_nonfinite:
        raise DivergedError(
            f"training diverged: {state.skipped} non-finite losses in a row up to step {state.step}"
            f" at lr {rate:g} (see {path}); {_way_on(state, settings, outputs)}"
        )


def _way_on(state: TrainingState, settings: TrainConfig, outputs: Outputs) -> str:
    """How a diverged run goes on: from before, with a lower rate and clipped gradients."""
    lower = [f"train.lr={settings.lr / 10:g}"]
    lower += ["train.clip_norm=10"] if settings.clip_norm is None else []
    good = outputs.last_good(before=state.step - state.skipped)
    if good is None:
        return (
            "no checkpoint was saved before that. Train again in another folder with "
            f"{' '.join(lower)}, or lengthen train.warmup_iterations"
        )
    path, step = good
    left = continued(lower, outputs.identity["config"].get("train", {}), step, state.drops)
    command = fork_command(outputs.command, path, [*left, "train.start_optimizer=false"])
    return (
        f"the last good checkpoint is {path}, of step {step}. Start a new run from it, without the "
        f"momentum that diverged, with: {command}"
    )


def _evaluate(
    state: TrainingState,
    evaluate: Callable[[int], float | None],
    settings: TrainConfig,
    outputs: Outputs,
    group: Group,
) -> bool:
    """Evaluate, save the best weights and count what follows; False if it was stopped."""
    try:
        with state.meter.paused():
            metric = evaluate(state.step)
    except torch.OutOfMemoryError as error:
        raise ConfigError(evaluation_advice(state, outputs, group.device)) from error
    if metric is None:
        return False
    state.unevaluated = False
    _judge(metric, state, settings, outputs)
    return True


def _judge(metric: float, state: TrainingState, settings: TrainConfig, outputs: Outputs) -> None:
    if math.isnan(metric):  # no class has any object to find: neither better nor worse
        if not math.isfinite(state.best):
            outputs.save_best(state)  # the newest weights, until there is a result
        return
    if metric <= state.best:
        state.stale += 1
        state.flat += 1
        if settings.schedule == "plateau" and state.flat == settings.plateau_evaluations:
            state.drops, state.flat = state.drops + 1, 0
            outputs.log.message(
                f"step {state.step}: no better result in {settings.plateau_evaluations} "
                f"evaluations, the learning rate is multiplied by {settings.gamma:g}"
            )
        return
    state.best, state.stale, state.flat = metric, 0, 0
    outputs.save_best(state)
