"""The residual blocks of the ResNet paper: basic (two 3x3) and bottleneck (1x1, 3x3, 1x1).

N images · P regions · C channels. Identity shortcuts, and a 1x1 projection where the shape changes
(option B of paper section 3.3).

A block can also run straight from a feature map: `forward_on_map` equals ``forward(pool(map, 1))``,
but pulls its linear 1x1 convolutions in front of the pooling, where each cell is computed once
instead of once per overlapping region.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .norm import ConvNorm

#: ``pool(features, step)``: (N, C, H, W) to (P, C, s, s) crops, keeping every step-th bin.
Pool = Callable[[Tensor, int], Tensor]


class Block(nn.Module):
    """Shared by both kinds: ``relu(residual(x) + shortcut(x))``."""

    expansion: int

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = ConvNorm(inputs, outputs, 1, stride=stride, norm=norm)
        self.relu = nn.ReLU(inplace=True)

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def residual_on_map(self, features: Tensor, pool: Pool) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x).add_(self.shortcut(x)))

    def forward_on_map(self, features: Tensor, pool: Pool) -> Tensor:
        """(N, C, H, W) features to (P, C', s', s'), equal to ``forward`` on pooled crops."""
        residual = self.residual_on_map(features, pool)
        return self.relu(residual.add_(self._shortcut_on_map(features, pool)))

    def _shortcut_on_map(self, features: Tensor, pool: Pool) -> Tensor:
        if not isinstance(self.shortcut, ConvNorm):
            return pool(features, 1)
        projected = pool(self.shortcut.before_pooling(features), self.stride)
        return self.shortcut.after_pooling(projected)


class BasicBlock(Block):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int, stride_in: str, norm: str) -> None:
        super().__init__(inputs, width, stride=stride, norm=norm)
        self.conv1 = ConvNorm(inputs, width, 3, stride=stride, norm=norm)
        self.conv2 = ConvNorm(width, width, 3, norm=norm)

    def residual(self, x: Tensor) -> Tensor:
        return self.conv2(self.relu(self.conv1(x)))

    def residual_on_map(self, features: Tensor, pool: Pool) -> Tensor:
        return self.residual(pool(features, 1))


class Bottleneck(Block):
    """1x1, 3x3, 1x1 (ResNet-50, -101, -152); ``stride_in`` names the one that halves the map."""

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int, stride_in: str, norm: str) -> None:
        outputs = width * self.expansion
        super().__init__(inputs, outputs, stride=stride, norm=norm)
        strides = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = ConvNorm(inputs, width, 1, stride=strides[0], norm=norm)
        self.conv2 = ConvNorm(width, width, 3, stride=strides[1], norm=norm)
        self.conv3 = ConvNorm(width, outputs, 1, norm=norm)

    def residual(self, x: Tensor) -> Tensor:
        return self._after_conv1(self.conv1(x))

    def residual_on_map(self, features: Tensor, pool: Pool) -> Tensor:
        reduced = pool(self.conv1.before_pooling(features), self.conv1.stride[0])
        return self._after_conv1(self.conv1.after_pooling(reduced))

    def _after_conv1(self, x: Tensor) -> Tensor:
        return self.conv3(self.relu(self.conv2(self.relu(x))))
