"""How does batch norm see the images of all processes, so that several are as one?

PyTorch's own `nn.SyncBatchNorm` runs on GPUs only; `CpuSyncedNorm` is its counterpart for the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .distributed import Group


def synchronise_norms(model: nn.Module, group: Group) -> None:
    """Let every batch norm of ``model`` use the statistics of all processes; names stay."""
    if group.world == 1:
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _synchronised(child, group))


def _synchronised(norm: nn.BatchNorm2d, group: Group) -> nn.Module:
    if group.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    synced = CpuSyncedNorm(
        norm.num_features, eps=norm.eps, momentum=norm.momentum, dtype=norm.weight.dtype
    )
    synced.load_state_dict(norm.state_dict())
    return synced.train(norm.training)


class _Sum(torch.autograd.Function):
    """The sum over all processes; each of them needs the gradients of all."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class CpuSyncedNorm(nn.BatchNorm2d):
    """Batch norm over the (N, C, H, W) inputs of all processes, whose N may differ."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None  # noqa: S101  narrows types
        assert self.num_batches_tracked is not None and self.momentum is not None  # noqa: S101
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
        size = x.new_tensor(x.numel() / x.shape[1])
        dist.all_reduce(size)
        # Two messages: the mean of squares minus the squared mean would lose digits.
        mean = _Sum.apply(x.sum(axes)) / size
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / size
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * size / (size - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(shape) + self.bias.view(shape)
