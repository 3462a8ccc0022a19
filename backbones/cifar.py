"""The paper's nets for small pictures: 6n + 2 layers, three map sizes, no max-pool (section 4.2).

N images · K classes. Names follow the large nets: res2 works at the input's size, res3 and res4 at
a half and a quarter of it.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import BasicBlock, Shortcut, make_blocks
from .norm import ConvNorm
from .resnet import ClassifierNet, make_fc

#: The depths of Table 6; 6n + 2 with n basic blocks in each of the three stages.
CIFAR_DEPTHS = (20, 32, 44, 56, 110)
CifarDepth = Literal[20, 32, 44, 56, 110]


class CifarStem(nn.Module):
    """conv1, 3x3 at stride 1: (N, 3, H, W) to (N, C, H, W)."""

    def __init__(self, channels: int, *, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels, 3, norm=norm)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.conv1(images), inplace=True)


class CifarResNet(ClassifierNet):
    """(N, 3, H, W) normalised images, 32x32 in the paper, to (N, K) logits.

    ``shortcut`` is ``A`` in the paper, "in all cases"; ``none`` makes its plain nets. Raises
    ValueError for a depth that is not 6n + 2.
    """

    def __init__(
        self,
        depth: int,
        *,
        classes: int,
        shortcut: Shortcut = "A",
        width: int = 16,
        norm: str = "batch",
    ) -> None:
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth {depth}: a net for small pictures has 6n + 2 layers")
        super().__init__()
        stage = partial(make_blocks, BasicBlock, (depth - 2) // 6, norm=norm, shortcut=shortcut)
        self.stem = CifarStem(width, norm=norm)
        self.res2 = stage(width, width, stride=1)
        self.res3 = stage(width, 2 * width, stride=2)
        self.res4 = stage(2 * width, 4 * width, stride=2)
        self.fc = make_fc(4 * width, classes)

    def features(self, images: Tensor) -> Tensor:
        return self.res4(self.res3(self.res2(self.stem(images))))
