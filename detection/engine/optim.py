"""Optimizer with parameter groups, learning-rate schedule, and moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..schedules import SCHEDULES

#: Norms with running statistics.
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
NORMS = (*BATCH_NORMS, nn.GroupNorm)


def make_sgd(
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    decay_bias: bool,
    decay_norm: bool = False,
) -> torch.optim.SGD:
    """SGD over the trainable parameters. Weight decay applies to biases with ``decay_bias``
    (detectron2 does, py-faster-rcnn does not), to both parameters of norms with ``decay_norm``."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module, name, parameter in _trainable(model):
        decays = decay_norm if isinstance(module, NORMS) else decay_bias or name != "bias"
        (decayed if decays else free).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.SGD([group for group in groups if group["params"]], lr=lr, momentum=momentum)


def _trainable(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                yield module, name, parameter


def learning_rate(
    step: int,
    *,
    base: float,
    total: int,
    warmup: int,
    warmup_factor: float,
    schedule: str,
    milestones: Sequence[int],
    gamma: float,
) -> float:
    """The rate of ``step`` (from 0), a pure function: resuming needs no scheduler state.

    The ``schedule`` is one of `SCHEDULES`; the linear warm-up from ``warmup_factor`` multiplies it.
    """
    rate = base * SCHEDULES[schedule](step, total, milestones, gamma)
    if step < warmup:
        rate *= warmup_factor + (1 - warmup_factor) * step / warmup
    return rate


class MovingAverage:
    """Exponential moving average of a model's floating-point state, buffers included.

    The decay grows as (1 + step) / (10 + step) up to ``decay``, so that a short training is not
    averaged with its random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
