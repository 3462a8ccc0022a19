"""The words of a log line: values with their units, the epoch of a step, and the remaining time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta

#: Number of logged steps that the eta is computed from, including pauses for evaluation.
ETA_WINDOW = 50
_FORMATS: Mapping[str, Callable[[float], str]] = {
    "lr": lambda value: f"lr {value:.2e}",
    "images_per_s": lambda value: f"{value:.1f} img/s",
    "data_wait": lambda value: f"data {value:.0%}",
    "mem_gb": lambda value: f"{value:.1f} GB",
    "eta": lambda value: f"eta {format_duration(value)}",
}


class Epochs:
    """Words about the epoch of a step; none unless the steps of an epoch are known."""

    def __init__(self, total_steps: int, each: int | None) -> None:
        self._total_steps, self._each = total_steps, each

    def words(self, step: int) -> str:
        if self._each is None:
            return ""
        total = f"{self._total_steps / self._each:.1f}".removesuffix(".0")
        return f"epoch {step / self._each:.1f}/{total}  "


class Clock:
    """Estimates the remaining seconds from the steps logged last."""

    def __init__(self, start_step: int, total_steps: int) -> None:
        self._total_steps = total_steps
        self._seen = deque([(start_step, time.monotonic())], maxlen=ETA_WINDOW)

    def eta(self, step: int) -> float:
        """NaN before the first step."""
        now = time.monotonic()
        first_step, first_time = self._seen[0]
        self._seen.append((step, now))
        if step <= first_step:
            return math.nan
        return (self._total_steps - step) * (now - first_time) / (step - first_step)


def format_duration(seconds: float) -> str:
    """Whole seconds as ``1 day, 2:03:04`` or ``2:03:04``; ``?`` if unknown."""
    return str(timedelta(seconds=round(seconds))) if math.isfinite(seconds) else "?"


def words_of(values: Mapping[str, float]) -> str:
    """``loss 0.5  lr 1.00e-02``; a value that is not a number is ``-``."""
    return "  ".join(
        _FORMATS[name](value)
        if name in _FORMATS
        else f"{name} {'-' if math.isnan(value) else f'{value:.4g}'}"
        for name, value in values.items()
    )
