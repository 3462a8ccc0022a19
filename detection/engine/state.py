"""The state of a training run, its output folder and its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones.weights.load import load_into
from ..errors import ConfigError, WeightsError
from .checkpoint import load_checkpoint, previous_of, save_checkpoint
from .distributed import Group
from .log import RunLog
from .meter import Meter
from .optim import MovingAverage
from .resuming import (
    entry,
    expect_counters,
    expect_meter,
    expect_optimizer,
    expect_scaler,
    expect_tensors,
)
from .skipped import SkippedImages

_COUNTERS = ("step", "skipped", "best", "stale")
#: Checkpoints of earlier versions lack these.
_LATER_COUNTERS = ("drops", "flat", "unevaluated")


@dataclass
class TrainingState:
    """Everything that a step changes and that a checkpoint must contain to resume exactly."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None = None
    #: Steps done, and the number of consecutive last ones skipped for a non-finite loss.
    step: int = 0
    skipped: int = 0
    best: float = float("-inf")
    #: Evaluations since the best.
    stale: int = 0
    #: How often a plateau lowered the learning rate, and evaluations since the best or the last of
    #: these drops.
    drops: int = 0
    flat: int = 0
    #: Whether the evaluation after ``step`` is still to be made, or was interrupted; a resumed run
    #: makes up for it.
    unevaluated: bool = False
    #: Sums since the last logged step, which a resumed run continues.
    meter: Meter = field(default_factory=Meter)

    def weights(self) -> dict[str, Tensor]:
        """The weights to evaluate and to export: the moving average if there is one."""
        return self.average.state if self.average else self.model.state_dict()

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **{name: getattr(self, name) for name in (*_COUNTERS, *_LATER_COUNTERS)},
            "meter": self.meter.to_dict(),
        }

    def load_dict(self, state: Mapping[str, Any], source: str = "checkpoint") -> None:
        """Continue from what `to_dict` gave; ``source`` names the file in errors.

        Raises:
            WeightsError: an entry is missing or does not fit this run; nothing is changed then.
        """
        try:
            expect_counters(state, vars(self), _COUNTERS, optional=_LATER_COUNTERS)
            expect_scaler(state, self.scaler.state_dict())
            expect_optimizer(state, self.optimizer)
            expect_meter(state)
            if self.average:
                expect_tensors(entry(state, "average", dict), self.average.state, "average")
        except ValueError as error:
            raise WeightsError(f"{source}: cannot be resumed: {error}") from error
        load_into(self.model, state["model"], source=source)
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty unless trained in fp16, which a resumed run may change
            self.scaler.load_state_dict(state["scaler"])
        if self.average:
            self.average.load(state["average"])
        for name in _COUNTERS:
            setattr(self, name, state[name])
        for name in _LATER_COUNTERS:
            setattr(self, name, state.get(name, getattr(self, name)))
        self.meter.load(state["meter"])


@contextmanager
def shipped_weights(state: TrainingState) -> Iterator[None]:
    """Within the context, the model has the moving average if there is one."""
    if state.average is None:
        yield
        return
    own = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    state.model.load_state_dict(state.average.state)
    try:
        yield
    finally:
        state.model.load_state_dict(own)


@dataclass(frozen=True)
class Outputs:
    """The folder and log of a run; ``identity`` (config, classes) goes into checkpoints."""

    folder: Path
    log: RunLog
    identity: Mapping[str, Any] = field(default_factory=dict)
    #: Rank of the process; only 0, the main one, writes checkpoints.
    rank: int = 0
    #: The command that trains, for messages.
    command: str = "resdet train-det"

    @cached_property
    def skipped(self) -> SkippedImages:
        """The images that the run skips."""
        return SkippedImages(self.folder, self.log)

    @property
    def last(self) -> Path:
        return self.folder / "weights" / "last.pt"

    @property
    def best(self) -> Path:
        return self.folder / "weights" / "best.pt"

    def save_best(self, state: TrainingState) -> None:
        """Save `TrainingState.weights` as ``best.pt``; its metric is -inf before any result."""
        content = {"model": state.weights(), "step": state.step, "metric": state.best}
        self._save(self.best, content)

    def save_last(self, state: TrainingState, group: Group) -> OSError | None:
        """Save the whole state as ``last.pt``, keep the previous one; returns the error, if any."""
        state.meter.all_reduce(group)
        return self._save(self.last, state.to_dict(), keep_previous=True)

    def expect_saved(self, failure: OSError | None, state: TrainingState) -> None:
        """Raise ConfigError for an error of the last `save_last`: the result is not on disk."""
        if failure is not None:
            resumable = self.last.exists()
            then = "--resume continues from the previous checkpoint" if resumable else "train again"
            raise ConfigError(
                f"{self.last}: step {state.step} could not be saved: {failure}; make room, then "
                f"{then}"
            ) from failure

    def last_good(self, *, before: int) -> tuple[Path, int] | None:
        """The newest checkpoint whose weights gave a finite loss, and its step.

        ``before`` is the first step with a non-finite loss.
        """
        for path in (self.last, previous_of(self.last)):
            with suppress(WeightsError):
                step = load_checkpoint(path)["step"]
                if step < before:
                    return path, step
        return None

    def _save(
        self, path: Path, content: Mapping[str, Any], *, keep_previous: bool = False
    ) -> OSError | None:
        """Save, or log and return the error; the old checkpoint is then kept."""
        if self.rank != 0:
            return None
        try:
            save_checkpoint(path, {**self.identity, **content}, keep_previous=keep_previous)
        except OSError as error:
            self.log.message(f"WARNING: {path} not saved ({error}); training continues without it")
            return error
        return None
