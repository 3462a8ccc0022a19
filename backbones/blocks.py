"""The residual blocks of the ResNet paper: basic (two 3x3) and bottleneck (1x1, 3x3, 1x1).

N images · P regions · C channels. Shortcuts are named as in the paper, sections 3.3 and 4.1:
``A`` the identity, subsampled where the map halves, with zeros for new channels; ``B`` a 1x1
projection where the shape changes, else the identity; ``C`` a projection in every block; ``none``
no shortcut, which makes the paper's plain nets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norm import ConvNorm

Shortcut = Literal["A", "B", "C", "none"]

#: ``pool(features, step)``: (N, C, H, W) to (P, C, s, s) crops, keeping every step-th bin.
Pool = Callable[[Tensor, int], Tensor]


class PaddedIdentity(nn.Module):
    """Option A: (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride)) without parameters.

    The new channels are zero and come last.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        return self.pad(x[:, :, :: self.stride, :: self.stride])

    def pad(self, x: Tensor) -> Tensor:
        """Add the new channels to a map that is already subsampled."""
        return F.pad(x, (0, 0, 0, 0, 0, self.extra))


def make_shortcut(
    option: Shortcut, inputs: int, outputs: int, *, stride: int, norm: str
) -> nn.Module | None:
    """The shortcut of one block; None in plain nets."""
    if option == "none":
        return None
    same_shape = stride == 1 and inputs == outputs
    if option == "C" or (option == "B" and not same_shape):
        return ConvNorm(inputs, outputs, 1, stride=stride, norm=norm)
    return nn.Identity() if same_shape else PaddedIdentity(inputs, outputs, stride=stride)


class Block(nn.Module):
    """``relu(residual(x) + shortcut(x))``, or ``relu(residual(x))`` in plain nets.

    A block can also run on a feature map (`RunsOnMap`): its linear 1x1 convolutions run
    before the pooling, once per cell instead of once per overlapping region.
    """

    expansion: int

    def __init__(
        self, inputs: int, width: int, *, stride: int, norm: str, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut = make_shortcut(
            shortcut, inputs, width * self.expansion, stride=stride, norm=norm
        )
        self.relu = nn.ReLU(inplace=True)

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def residual_on_map(self, features: Tensor, pool: Pool) -> Tensor:
        return self.residual(pool(features, 1))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        return self.relu(residual if self.shortcut is None else residual.add_(self.shortcut(x)))

    def forward_on_map(self, features: Tensor, pool: Pool) -> Tensor:
        """(N, C, H, W) features to (P, C', s', s'), equal to ``forward`` on pooled crops."""
        residual = self.residual_on_map(features, pool)
        if self.shortcut is None:
            return self.relu(residual)
        return self.relu(residual.add_(_on_map(self.shortcut, features, pool, self.stride)))


def convolves_first(conv: ConvNorm, device: torch.device) -> bool:
    """Whether a 1x1 convolution of a feature map runs before the pooling, with which it commutes.

    On a CPU it is the larger cost, and the map has fewer cells than the crops. On a GPU pooling is,
    so that the side with fewer channels is pooled: by estimate a bin of one channel costs as much
    as some thousand products on tensor cores.
    """
    return device.type == "cpu" or conv.out_channels <= conv.in_channels


def _conv_on_map(conv: ConvNorm, features: Tensor, pool: Pool, stride: int) -> Tensor:
    if convolves_first(conv, features.device):
        return conv.after_pooling(pool(conv.before_pooling(features), stride))
    return conv.on_subsampled(pool(features, stride))


def _on_map(shortcut: nn.Module, features: Tensor, pool: Pool, stride: int) -> Tensor:
    if isinstance(shortcut, ConvNorm):
        return _conv_on_map(shortcut, features, pool, stride)
    crops = pool(features, stride)
    return shortcut.pad(crops) if isinstance(shortcut, PaddedIdentity) else crops


class BasicBlock(Block):
    """Two 3x3 convolutions (ResNet-18 and -34), for which ``stride_in`` makes no difference."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int,
        norm: str,
        stride_in: str = "3x3",
        shortcut: Shortcut = "B",
    ) -> None:
        super().__init__(inputs, width, stride=stride, norm=norm, shortcut=shortcut)
        self.conv1 = ConvNorm(inputs, width, 3, stride=stride, norm=norm)
        self.conv2 = ConvNorm(width, width, 3, norm=norm)

    def residual(self, x: Tensor) -> Tensor:
        return self.conv2(self.relu(self.conv1(x)))

    def forward_on_map(self, features: Tensor, pool: Pool) -> Tensor:
        if isinstance(self.shortcut, ConvNorm) and convolves_first(self.shortcut, features.device):
            return super().forward_on_map(features, pool)
        return self(pool(features, 1))  # both branches read the same crops


class Bottleneck(Block):
    """1x1, 3x3, 1x1 (ResNet-50, -101, -152); ``stride_in`` names the one that halves the map."""

    expansion = 4

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        stride: int,
        norm: str,
        stride_in: str = "3x3",
        shortcut: Shortcut = "B",
    ) -> None:
        super().__init__(inputs, width, stride=stride, norm=norm, shortcut=shortcut)
        strides = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = ConvNorm(inputs, width, 1, stride=strides[0], norm=norm)
        self.conv2 = ConvNorm(width, width, 3, stride=strides[1], norm=norm)
        self.conv3 = ConvNorm(width, width * self.expansion, 1, norm=norm)

    def residual(self, x: Tensor) -> Tensor:
        return self.after_conv1(self.conv1(x))

    def residual_on_map(self, features: Tensor, pool: Pool) -> Tensor:
        return self.after_conv1(_conv_on_map(self.conv1, features, pool, self.conv1.stride[0]))

    def after_conv1(self, x: Tensor) -> Tensor:
        """The residual from the output of conv1 on."""
        return self.conv3(self.relu(self.conv2(self.relu(x))))
