"""ResNet-18/34/50/101/152: stem, four stages, and the classifier made of them (paper, Table 1).

N images · H, W input size · C channels · K classes. Stages are named as in detectron2: res2 is
conv2_x of the paper, and so on to res5. Without shortcuts the same layers are its plain nets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import BasicBlock, Bottleneck, Shortcut, make_blocks
from .norm import ConvNorm

#: depth: block, blocks in res2..res5 (paper, Table 1)
DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


@dataclass(frozen=True)
class ResNetSpec:
    """What decides the shape of a ResNet; trunk, tail and classifier are built from it."""

    depth: int
    width: int = 64
    norm: str = "frozen"
    stride_in: str = "3x3"
    #: Channels of conv1 where they differ from ``width``.
    stem_width: int | None = None
    #: Paper, section 3.3: its ResNet-18 and -34 have ``A``, its deeper nets and everybody's ``B``.
    shortcut: Shortcut = "B"

    def channels(self, stage: int) -> int:
        """Channels that res<stage> ends with."""
        return self.width * 2 ** (stage - 2) * DEPTHS[self.depth][0].expansion


class Stem(nn.Module):
    """conv1 (7x7, stride 2) and the 3x3 max-pool: (N, 3, H, W) to (N, C, H/4, W/4).

    The pool pads by one, as torchvision and detectron2 do, also for MSRA weights.
    """

    def __init__(self, channels: int, *, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels, 7, stride=2, norm=norm)

    def forward(self, images: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.conv1(images), inplace=True), 3, stride=2, padding=1)


def make_stem(spec: ResNetSpec) -> Stem:
    return Stem(spec.stem_width or spec.width, norm=spec.norm)


def make_stage(spec: ResNetSpec, stage: int, *, stride: int | None = None) -> nn.Sequential:
    """res<stage>, 2 to 5; its first block halves the map except in res2, or as ``stride`` says."""
    if stride is None:
        stride = 1 if stage == 2 else 2
    block, counts = DEPTHS[spec.depth]
    return make_blocks(
        block,
        counts[stage - 2],
        (spec.stem_width or spec.width) if stage == 2 else spec.channels(stage - 1),
        spec.width * 2 ** (stage - 2),
        stride=stride,
        norm=spec.norm,
        stride_in=spec.stride_in,
        shortcut=spec.shortcut,
    )


class ClassifierNet(nn.Module):
    """(N, 3, H, W) normalised images to (N, K) logits: features, their mean, one linear layer."""

    fc: nn.Linear

    def features(self, images: Tensor) -> Tensor:
        """(N, C, h, w), the last map, whose mean over all positions ``fc`` reads."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean(dim=(2, 3)))


def make_fc(channels: int, classes: int) -> nn.Linear:
    """He's initialisation without the factor for a ReLU, as none follows; biases start at 0."""
    fc = nn.Linear(channels, classes)
    nn.init.kaiming_normal_(fc.weight, nonlinearity="linear")
    nn.init.zeros_(fc.bias)
    return fc


class ResNet(ClassifierNet):
    """The paper's ImageNet nets; its plain ones where the spec has no shortcuts."""

    def __init__(self, spec: ResNetSpec, *, classes: int = 1000) -> None:
        super().__init__()
        self.stem = make_stem(spec)
        self.res2 = make_stage(spec, 2)
        self.res3 = make_stage(spec, 3)
        self.res4 = make_stage(spec, 4)
        self.res5 = make_stage(spec, 5)
        self.fc = make_fc(spec.channels(5), classes)

    def features(self, images: Tensor) -> Tensor:
        return self.res5(self.res4(self.res3(self.res2(self.stem(images)))))


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
            raise ValueError(f"depth {depth}: a net for small images has 6n + 2 layers")
        super().__init__()
        stage = partial(make_blocks, BasicBlock, (depth - 2) // 6, norm=norm, shortcut=shortcut)
        self.stem = CifarStem(width, norm=norm)
        self.res2 = stage(width, width, stride=1)
        self.res3 = stage(width, 2 * width, stride=2)
        self.res4 = stage(2 * width, 4 * width, stride=2)
        self.fc = make_fc(4 * width, classes)

    def features(self, images: Tensor) -> Tensor:
        return self.res4(self.res3(self.res2(self.stem(images))))
