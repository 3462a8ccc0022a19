"""``train.batch_size: auto``: the largest batch whose training step fits a GPU's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn.functional import pad

from ..config.base import TrainConfig
from ..structures import Batch
from .distributed import Group
from .signals import StopRequest
from .state import TrainingState
from .step import forward_backward, update

#: The share of the memory that a step may use: later batches have other images and objects.
SHARE = 0.9


def largest_batch(fits: Callable[[int], bool], most: int, unit: int = 1) -> int:
    """The largest multiple of ``unit`` up to ``most`` that fits, or 0, where whatever is smaller
    than one that fits does too.

    Numbers are doubled until one does not fit, and then halved in between: ``fits`` gets at most
    twice the result, or one ``unit``, and is called about 2 log2(result / unit) times.
    """
    fitting, failing = 0, most // unit + 1
    trial = 1
    while trial < failing:
        if not fits(trial * unit):
            failing = trial
            break
        fitting, trial = trial, trial * 2
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        if fits(middle * unit):
            fitting = middle
        else:
            failing = middle
    return fitting * unit


def repeated(batch: Batch, count: int, size: tuple[int, int] | None = None) -> Batch:
    """``count`` images, those of ``batch`` in turn, zero-padded to ``size`` (h, w)."""
    indices = [index % len(batch) for index in range(count)]
    images = batch.images[indices]
    if size is not None:
        height, width = (max(*pair, 0) for pair in zip(size, images.shape[2:], strict=True))
        images = pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))

    def chosen(values: list) -> list:
        return [values[index] for index in indices] if values else []

    return replace(
        batch,
        images=images.contiguous(memory_format=torch.channels_last),
        sizes=chosen(batch.sizes),
        annotations=chosen(batch.annotations),
        geometries=chosen(batch.geometries),
        image_ids=chosen(batch.image_ids),
        seeds=chosen(batch.seeds),
        labels=batch.labels[indices] if len(batch.labels) else batch.labels,
    )


def step_fits(state: TrainingState, batch: Batch, settings: TrainConfig, group: Group) -> bool:
    """Whether two steps with ``batch`` leave a tenth of the GPU's memory free, that of other
    processes included. The steps have a rate of zero, and leave momentum and running statistics
    that the caller must undo."""
    device = group.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    try:
        parts = [batch.to(device)]
        for _ in range(2):  # the first one allocates the momentum
            forward_backward(state.model, parts, state, settings, group, StopRequest())
            update(state, settings, 0.0)
    except torch.OutOfMemoryError:
        return False
    finally:
        state.optimizer.zero_grad(set_to_none=True)
    return others + torch.cuda.max_memory_reserved(device) <= SHARE * total
