"""The options of a prediction in Python, and the devices that it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

import torch

from ..errors import ConfigError
from .image_inputs import ArrayValues, Channels
from .image_results import check_threshold
from .video import expect_step

OnError = Literal["raise", "return"]


class CallOptions(TypedDict, total=False):
    """The options of `Predictor.__call__`."""

    score_threshold: float | None
    batch_size: int
    channels: Channels
    value_range: tuple[float, float] | None


class StreamOptions(CallOptions, total=False):
    """The options of `Predictor.stream`."""

    every: int


@dataclass(frozen=True)
class Call:
    """The checked options of one call."""

    score_threshold: float
    batch_size: int
    values: ArrayValues
    on_error: OnError
    every: int = 1

    def __post_init__(self) -> None:
        expect_step(self.every)
        check_threshold(self.score_threshold)
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.on_error not in get_args(OnError):
            raise ConfigError(f"on_error {self.on_error!r}: expected 'raise' or 'return'")

    @staticmethod
    def of(options: StreamOptions, on_error: OnError, score_threshold: float) -> Call:
        """The settings of ``options``; raises ConfigError for wrong ones, TypeError for others."""
        known = StreamOptions.__annotations__
        if unknown := [name for name in options if name not in known]:
            expected = ", ".join([*known, "on_error"])
            raise TypeError(f"unknown option {', '.join(unknown)}; the options are {expected}")
        asked = options.get("score_threshold")
        return Call(
            score_threshold if asked is None else asked,
            options.get("batch_size", 1),
            ArrayValues(options.get("channels", "rgb"), options.get("value_range")),
            on_error,
            options.get("every", 1),
        )


def pick_device(name: torch.device | str | int | None) -> torch.device:
    """The device called ``name``, checked to exist; None is the first GPU, else the CPU."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expected = "use cpu, cuda or cuda:<number>"
    try:
        device = torch.device(f"cuda:{name}" if str(name).isdigit() else name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!s}: unknown; {expected}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!s}: not supported; {expected}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!s}: torch sees {torch.cuda.device_count()} GPUs")
    return device
