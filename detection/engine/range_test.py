"""The learning-rate range test: a short training whose rate rises, and what its losses suggest."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from rich.console import Console

from ..config.base import TrainConfig
from ..errors import ConfigError
from ..printing import tracked
from ..structures import Batch
from .distributed import Group
from .memory import smaller_steps
from .meter import is_loss
from .plots import saved_figure
from .signals import StopRequest
from .state import TrainingState
from .step import forward_backward, update

#: The test ends where the mean of the last losses is so many times the lowest mean before.
DIVERGED = 4.0
#: The suggested rate is this part of the one with the lowest smoothed loss.
SAFETY = 10
#: A fall of the smoothed loss counts from so many standard errors on.
ERRORS = 4.0
#: A normal distribution's standard deviation over its median distance from the mean.
NORMAL = 1.4826


@dataclass(frozen=True)
class RangeTest:
    """The loss of each step at its rate, before the update with that rate; all are finite.
    ``diverged``: it ended because the loss grew or was not finite."""

    rates: Sequence[float]
    losses: Sequence[float]
    diverged: bool

    @cached_property
    def smoothed(self) -> list[float]:
        """The mean of the losses around each step."""
        reach, count = _reach(len(self.rates)), len(self.losses)
        windows = (self.losses[max(0, i - reach) : i + reach + 1] for i in range(count))
        return [statistics.fmean(window) for window in windows]

    @cached_property
    def lowest(self) -> int:
        """The step with the lowest smoothed loss, before the loss gives back half of its fall."""
        means, best = self.smoothed, 0
        first = means[min(_reach(len(self.rates)), len(means) - 1)]
        for step, mean in enumerate(means):
            if mean < means[best]:
                best = step
            elif self._falls(best) and mean > (first + means[best]) / 2:
                break
        return best

    def _falls(self, step: int) -> bool:
        """Whether the smoothed loss at ``step`` is below that at first by more than its noise."""
        means, reach = self.smoothed, _reach(len(self.rates))
        until = max(step, 2 * reach) + 1
        far = [abs(loss - mean) for loss, mean in zip(self.losses[:until], means, strict=False)]
        noise = NORMAL * statistics.median(far)
        return means[reach] - means[step] > ERRORS * noise * math.sqrt(2 / (2 * reach + 1))

    def suggestion(self) -> float | None:
        """A tenth of the rate with the lowest smoothed loss, or None if `objection` has a reason
        against it."""
        return None if self.objection() else self.rates[self.lowest] / SAFETY

    def objection(self) -> str | None:
        """Why the losses suggest no rate, and what to try; None if they do."""
        means, reach = self.smoothed, _reach(len(self.rates))
        if len(means) < 2 * reach + 2:
            return "the loss diverges at once; test lower rates"
        best = self.lowest
        if not self._falls(best):
            return (
                "the loss falls nowhere by more than its noise; test other rates, more steps or "
                "larger batches"
            )
        if not self.diverged and best >= len(means) - 1 - reach:
            return "the loss still falls at the highest rate; test higher rates"
        return None


def rising_rates(lowest: float, highest: float, steps: int) -> list[float]:
    """``steps`` rates from ``lowest`` to ``highest``, each the same factor above the last."""
    factor = (highest / lowest) ** (1 / max(1, steps - 1))
    return [lowest * factor**step for step in range(steps)]


def run_range_test(
    state: TrainingState,
    batches: Iterable[Batch],
    rates: Sequence[float],
    settings: TrainConfig,
    group: Group,
    progress: Console | None = None,
) -> RangeTest:
    """A step with each of the ``rates``, until the loss diverges; changes the network.

    Args:
        batches: ``settings.accumulate`` batches for each step.

    Raises:
        ConfigError: the device's memory does not hold a step; names settings that need less.
        DataError: an image cannot be used.
    """
    stream, stop = iter(batches), StopRequest()
    reach = _reach(len(rates))
    losses: list[float] = []
    lowest = math.inf
    steps = rates if progress is None else tracked(rates, "training", len(rates), progress, "steps")
    for rate in steps:
        parts = [next(stream).to(group.device) for _ in range(settings.accumulate)]
        try:
            found, finite, _ = forward_backward(state.model, parts, state, settings, group, stop)
            loss = sum(value.item() for name, value in found.items() if is_loss(name))
            if not (finite and math.isfinite(loss)):
                return RangeTest(rates, losses, diverged=True)
            update(state, settings, rate)
        except torch.OutOfMemoryError as error:
            ways = " or ".join(smaller_steps(parts, {"train": settings.model_dump()}))
            raise ConfigError(
                f"{group.device} is out of memory with {len(parts[0])} images at once"
                + (f"; add {ways}" if ways else "")
            ) from error
        state.step += 1
        losses.append(loss)
        recent = statistics.fmean(losses[-2 * reach - 1 :])
        if len(losses) > 2 * reach and recent > DIVERGED * lowest:
            return RangeTest(rates, losses, diverged=True)
        lowest = min(lowest, recent)
    return RangeTest(rates, losses, diverged=False)


def plot_range_test(test: RangeTest, title: str, name: str, path: Path) -> None:
    """Write the figure of loss against rate, with the suggestion; ``name`` is that of the rate."""
    suggestion = test.suggestion()
    with saved_figure(path, (8.0, 5.0)) as figure:
        axes = figure.subplots()
        axes.set_title(title)
        axes.set_xlabel(name)
        axes.set_ylabel("loss")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        shown = test.rates[: len(test.losses)]
        axes.plot(shown, test.losses, ".", color="0.6", markersize=3, label="each step")
        axes.plot(shown, test.smoothed, color="C0", linewidth=2, label="smoothed")
        if suggestion is not None:
            axes.axvline(suggestion, color="C3", label=f"suggestion: {suggestion:.2g}")
        low, high = min(test.smoothed), max(test.smoothed[: test.lowest + 1])
        margin = max(high - low, abs(high) * 0.05, 1e-6)
        axes.set_ylim(low - 0.1 * margin, high + margin)
        axes.legend(fontsize="small")


def _reach(steps: int) -> int:
    """The steps on each side of one that its smoothed loss includes."""
    return max(1, steps // 20)
