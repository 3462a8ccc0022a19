"""All of a ResNet but its classifier as one trunk, conv1 to conv5_x, for localizers.

N images · C channels.
"""

from __future__ import annotations

from torch import Tensor

from .c4 import C4Trunk
from .resnet import ResNetSpec, make_stage

#: Input pixels per cell of the trunk's feature map.
STRIDE = 32


class C5Trunk(C4Trunk):
    """(N, 3, H, W) normalised images to (N, C, H/32, W/32)."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__(spec)
        self.res5 = make_stage(spec, 5)
        self.channels = spec.channels(5)

    def forward(self, images: Tensor) -> Tensor:
        return self.res5(super().forward(images))
