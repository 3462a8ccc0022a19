"""Batch norm over the images of all processes.

PyTorch's own `nn.SyncBatchNorm` runs on GPUs only; `CpuSyncedNorm` is the equivalent for the CPU.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce  # unlike dist.all_reduce differentiable

from .distributed import Group


def synchronise_norms(model: nn.Module, group: Group) -> None:
    """Let every batch norm of ``model`` use the statistics of all processes, in place."""
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
        # Two reductions: the mean of squares minus the squared mean would lose digits.
        mean = all_reduce(x.sum(axes)) / size
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / size
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * size / (size - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(shape) + self.bias.view(shape)
