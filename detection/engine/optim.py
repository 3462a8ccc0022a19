"""Optimizer with parameter groups, learning-rate schedule, and moving average of the weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..config.base import TrainConfig
from ..errors import ConfigError
from ..schedules import SCHEDULES

#: Norms with running statistics.
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
NORMS = (*BATCH_NORMS, nn.GroupNorm)


@contextmanager
def enough_values(settings: TrainConfig) -> Iterator[None]:
    """Within the context, a norm layer over one value is a ConfigError that names the settings."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            f"train.batch_size={settings.batch_size} with train.accumulate={settings.accumulate} "
            "gives a norm layer a single value, which has no variance: more images in a pass, "
            "larger images or crops, or norm=frozen of the network"
        ) from error


class SGD(torch.optim.SGD):
    """torch's, without its calls of the compiler: their import takes seconds at every start."""

    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.SGD.zero_grad)
    state_dict = inspect.unwrap(torch.optim.SGD.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.SGD.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


def make_sgd(model: nn.Module, settings: TrainConfig) -> SGD:
    """SGD over the trainable parameters. Weight decay applies to biases with ``decay_bias``
    (detectron2 does, py-faster-rcnn does not), to both parameters of norms with ``decay_norm``."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for module, name, parameter in _trainable(model):
        of_norm = isinstance(module, NORMS)
        decays = settings.decay_norm if of_norm else settings.decay_bias or name != "bias"
        (decayed if decays else free).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return SGD(groups, lr=settings.lr, momentum=settings.momentum)


def _trainable(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                yield module, name, parameter


def scaled_lr(settings: TrainConfig) -> float:
    """The linear scaling rule: ``lr`` belongs to ``base_batch_size`` images a step."""
    return settings.lr * settings.batch_size / settings.base_batch_size


def learning_rate(step: int, settings: TrainConfig) -> float:
    """The rate of ``step`` (from 0), a pure function: resuming needs no scheduler state.

    The ``schedule`` is one of `SCHEDULES`; the linear warm-up from ``warmup_factor`` multiplies it.
    """
    schedule, warmup = SCHEDULES[settings.schedule], settings.warmup_iterations
    rate = scaled_lr(settings) * schedule(
        step, settings.iterations, settings.milestones, settings.gamma
    )
    if step < warmup:
        rate *= settings.warmup_factor + (1 - settings.warmup_factor) * step / warmup
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
        own, given = list(self.state.values()), list(model.state_dict().values())
        floats = [index for index, tensor in enumerate(own) if tensor.is_floating_point()]
        # One call for all of them: on a GPU, a call for each costs more than its arithmetic.
        torch._foreach_lerp_([own[i] for i in floats], [given[i] for i in floats], 1 - decay)
        for index in {*range(len(own))} - {*floats}:
            own[index].copy_(given[index])

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
