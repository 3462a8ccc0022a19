"""One step of training: the gradients of a batch in one or more passes, and the update."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..config.base import TrainConfig
from ..evaluation.prediction import autocast
from ..structures import Batch
from .distributed import Group
from .meter import is_loss
from .optim import BATCH_NORMS, enough_values
from .signals import StopRequest
from .state import TrainingState


def forward_backward(
    network: nn.Module,
    parts: list[Batch],
    state: TrainingState,
    settings: TrainConfig,
    group: Group,
    stop: StopRequest,
) -> tuple[dict[str, Tensor], bool, bool]:
    """Gradients of the mean loss over ``parts``; whether it was finite, and whether to stop.

    Both are true if they are for any process, so that all processes do the same. Gradients of a
    loss that is not finite are not to be used.
    """
    state.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    stopping = False
    for number, batch in enumerate(parts, start=1):
        with _synchronised(network, number == len(parts)):
            with autocast(group.device, settings.precision), enough_values(settings):
                losses = network(batch)
            total = torch.stack([losses[name] for name in losses if is_loss(name)]).sum()
            flags = torch.stack([~total.isfinite(), torch.full_like(total, stop.requested).bool()])
            largest = group.all_reduce_max(flags.float())
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() / len(parts)
            # Before the flags are read, so that a GPU has work meanwhile.
            state.scaler.scale(total / len(parts)).backward()
            bad, requested = largest()
            stopping = stopping or bool(requested)
            if bad:
                return sums, False, stopping
    return sums, True, stopping


def _synchronised(network: nn.Module, last: bool) -> AbstractContextManager:
    """Gradients are exchanged once per step, after the last part."""
    if isinstance(network, DistributedDataParallel) and not last:
        return network.no_sync()
    return nullcontext()


def update(state: TrainingState, settings: TrainConfig, rate: float) -> None:
    """Change the weights by their gradients with the learning ``rate``, and their average."""
    for params in state.optimizer.param_groups:
        params["lr"] = rate
    if settings.clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        weights = [p for params in state.optimizer.param_groups for p in params["params"]]
        nn.utils.clip_grad_norm_(weights, settings.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.skipped = 0
    if state.average:
        state.average.update(state.model, state.step)


def moving_statistics(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The buffers that a forward pass changes, each with a copy; empty without batch norm."""
    buffers = [
        buffer
        for module in model.modules()
        if isinstance(module, BATCH_NORMS) and module.training
        for buffer in module.buffers(recurse=False)
    ]
    return [(buffer, buffer.clone()) for buffer in buffers]


def restore(statistics: list[tuple[Tensor, Tensor]]) -> None:
    """Undo a skipped step: a running mean never recovers from a NaN."""
    for buffer, before in statistics:
        buffer.copy_(before)
