"""The ResNet family: ResNet-18/34/50/101/152 for ImageNet (paper, Table 1), 6n+2 nets for CIFAR.

N images · H, W input size · C channels. Stages are named as in detectron2: res2 is conv2_x of the
paper, and so on to res5. Without shortcuts the same layers are the paper's plain nets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Backbone
from .blocks import BasicBlock, Bottleneck, Shortcut
from .norm import ConvNorm

#: depth: block, blocks in res2..res5 (paper, Table 1)
DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class Stem(nn.Module):
    """conv1 (7x7, stride 2) and the 3x3 max-pool: (N, 3, H, W) to (N, C, H/4, W/4).

    The pool pads by one, as torchvision and detectron2 do, also for MSRA weights.
    """

    def __init__(self, channels: int, *, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels, 7, stride=2, norm=norm)

    def forward(self, images: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv1(images), inplace=True), 3, stride=2, padding=1)


class CifarStem(nn.Module):
    """conv1, 3x3 at stride 1: (N, 3, H, W) to (N, C, H, W)."""

    def __init__(self, channels: int, *, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels, 3, norm=norm)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.conv1(images), inplace=True)


@dataclass(frozen=True)
class ResNet(Backbone):
    """The paper's ImageNet nets: trunk to conv4_x (stride 16), tail conv5_x.

    Shortcuts are ``A`` in its ResNet-18 and -34 (section 3.3), ``B`` in its deeper nets and in
    other implementations.
    """

    #: Channels of conv1 where they differ from ``width``.
    stem_width: int | None = None

    depths = tuple(DEPTHS)
    strides: ClassVar = {"stem": 4, "res2": 4, "res3": 8, "res4": 16, "res5": 32}

    @property
    def name(self) -> str:
        return f"{'plain' if self.shortcut == 'none' else 'ResNet'}-{self.depth}"

    @property
    def description(self) -> str:
        shortcuts = "" if self.shortcut == "none" else f"shortcuts {self.shortcut}, "
        return f"{self.name}, {shortcuts}norm {self.norm}"

    def channels_of(self, stage: str) -> int:
        if stage == "stem":
            return self.stem_width or self.width
        return self._width_of(stage) * DEPTHS[self.depth][0].expansion

    def stage(self, name: str, *, stride: int | None = None) -> nn.Module:
        if name == "stem":
            return Stem(self.channels_of(name), norm=self.norm)
        block, counts = DEPTHS[self.depth]
        return self._blocks(block, counts[int(name[-1]) - 2], name, stride)

    def _blocks(
        self, block: type[BasicBlock] | type[Bottleneck], count: int, name: str, stride: int | None
    ) -> nn.Sequential:
        """res2 to res5; the first block has ``stride``, by default 2 except in res2."""
        stages, width = list(self.strides), self._width_of(name)
        inputs = self.channels_of(stages[stages.index(name) - 1])
        first = stride or (1 if name == "res2" else 2)
        return nn.Sequential(
            *(
                block(
                    width * block.expansion if index else inputs,
                    width,
                    stride=1 if index else first,
                    norm=self.norm,
                    stride_in=self.stride_in,
                    shortcut=self.shortcut,
                )
                for index in range(count)
            )
        )

    def _width_of(self, stage: str) -> int:
        return self.width * 2 ** (int(stage[-1]) - 2)


@dataclass(frozen=True)
class CifarResNet(ResNet):
    """The paper's nets for 32x32 images (section 4.2): n basic blocks in each of three stages.

    Shortcuts are ``A`` in the paper, "in all cases". Raises ValueError for a depth that is not
    6n + 2.
    """

    width: int = 16
    norm: str = "batch"
    shortcut: Shortcut = "A"

    depths = (20, 32, 44, 56, 110, 1202)  # Table 6
    strides: ClassVar = {"stem": 1, "res2": 1, "res3": 2, "res4": 4}
    detects = False

    def __post_init__(self) -> None:
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"depth {self.depth}: a net for small images has 6n + 2 layers")

    @property
    def name(self) -> str:
        return f"{super().name}, for small images"

    def channels_of(self, stage: str) -> int:
        return self.width if stage == "stem" else self._width_of(stage)

    def stage(self, name: str, *, stride: int | None = None) -> nn.Module:
        if name == "stem":
            return CifarStem(self.width, norm=self.norm)
        return self._blocks(BasicBlock, (self.depth - 2) // 6, name, stride)
