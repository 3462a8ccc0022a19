"""What the last bits of a training on a CPU depend on: its threads and how it convolves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...backbones.speed import unmeasured, winograd_channels
from ...backbones.winograd import use_winograd
from ..config.base import TrainConfig
from ..evaluation.prediction import resolved


def other_threads(state: Mapping[str, Any]) -> list[str]:
    """A line where the run of a checkpoint had another number of threads than this process."""
    before, now = state.get("threads"), torch.get_num_threads()
    if type(before) is not int or before == now:  # not in the files of older versions
        return []
    return [
        f"{now} threads, {before} before: sums on a CPU may differ in their last bits from those "
        f"of an undisturbed run; OMP_NUM_THREADS={before} sets the same"
    ]


def convolve_in_training(
    model: nn.Module,
    settings: TrainConfig,
    device: torch.device,
    state: Mapping[str, Any] | None,
) -> int | None:
    """Let ``model`` convolve in training by Winograd's method where that is faster, as `resdet
    doctor --speed` has measured; a resumed run goes on as its checkpoint ``state`` says.

    Returns from how many channels on, or None.
    """
    channels = winograd_channels() if state is None else state.get("winograd_channels")
    if type(channels) is not int or not _may_convolve(settings, device):
        return None
    use_winograd(model, channels, training=True)
    return channels


def describe_convolutions(
    channels: int | None, settings: TrainConfig, device: torch.device
) -> list[str]:
    """A line about the result of `convolve_in_training`, or that nothing was measured yet."""
    if channels is None:
        return unmeasured() if _may_convolve(settings, device) else []
    return [
        f"3x3 convolutions: Winograd's method from {channels} channels on, which "
        "`resdet doctor --speed` found faster"
    ]


def _may_convolve(settings: TrainConfig, device: torch.device) -> bool:
    """Whether Winograd's method is possible."""
    in_fp32 = resolved(settings.precision, device) == "fp32"
    return device.type == "cpu" and in_fp32 and not settings.compile
