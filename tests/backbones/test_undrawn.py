"""Networks that are built without drawing their weights."""

from __future__ import annotations

import torch
from resdet.backbones.resnet import ResNet
from resdet.backbones.undrawn import Undrawn, shapes_only
from resdet.detection.models.class_head import PerClassLinear
from resdet.detection.models.rpn import RPNHead
from torch import nn


def build() -> nn.ModuleList:
    """Layers of every way to initialise weights."""
    backbone = ResNet(18, width=8, norm="batch")
    return nn.ModuleList(
        [backbone.classifier(classes=3), RPNHead(8, 8, 3), PerClassLinear(2, 2, 2)]
    )


def test_no_random_number_is_drawn() -> None:
    before = torch.random.get_rng_state()
    with Undrawn():
        network = build()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())
    build()
    assert not torch.equal(torch.random.get_rng_state(), before)


def test_what_is_not_drawn_keeps_its_values() -> None:
    """The statistics and affine parameters of norms are constants."""
    with Undrawn():
        norm = nn.BatchNorm2d(4)
    assert norm.weight.tolist() == [1.0] * 4
    assert norm.running_mean is not None and norm.running_mean.tolist() == [0.0] * 4


def test_shapes_are_those_of_the_network() -> None:
    with shapes_only():
        outline = build()
    assert all(parameter.is_meta for parameter in outline.parameters())
    shapes = {name: tensor.shape for name, tensor in build().state_dict().items()}
    assert {name: tensor.shape for name, tensor in outline.state_dict().items()} == shapes
