"""The C4 contract: a trunk shared by all regions and a tail that runs on each (paper, appendix A).

N images · P regions · C channels. conv1 to conv4_x are the trunk (stride 16), conv5_x is the tail.
"""

from __future__ import annotations

from torch import Tensor, nn

from .resnet import ResNetSpec, make_stage, make_stem

#: Input pixels per cell of the trunk's feature map.
STRIDE = 16


class C4Trunk(nn.Module):
    """(N, 3, H, W) normalised images to (N, C, H/16, W/16), the first stages of it fixed."""

    def __init__(self, spec: ResNetSpec, *, frozen_stages: int = 0) -> None:
        super().__init__()
        self.stem = make_stem(spec)
        self.res2 = make_stage(spec, 2)
        self.res3 = make_stage(spec, 3)
        self.res4 = make_stage(spec, 4)
        self.channels = spec.channels(4)
        self._frozen = [self.stem, self.res2, self.res3, self.res4][:frozen_stages]
        for stage in self._frozen:
            stage.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.res4(self.res3(self.res2(self.stem(images))))

    def train(self, mode: bool = True) -> C4Trunk:
        """Fixed stages keep their batch statistics whatever the mode."""
        super().train(mode)
        for stage in self._frozen:
            stage.eval()
        return self


def make_tail(spec: ResNetSpec, *, stride: int) -> nn.Sequential:
    """conv5_x: (P, C4, s, s) crops to (P, C5, s/stride, s/stride)."""
    return make_stage(spec, 5, stride=stride)
