"""Trunk and tail: shapes, and what stays fixed."""

from __future__ import annotations

import pytest
import torch
from resdet.backbones.c4 import STRIDE, C4Trunk, make_tail
from resdet.backbones.resnet import ResNet, ResNetSpec
from torch import nn

STAGES = ("stem", "res2", "res3", "res4")


@pytest.mark.parametrize(("depth", "channels"), [(18, 32), (50, 128)])
def test_shapes(depth: int, channels: int) -> None:
    spec = ResNetSpec(depth=depth, width=8)
    trunk = C4Trunk(spec)
    features = trunk(torch.randn(1, 3, 64, 96))
    assert trunk.channels == channels
    assert features.shape == (1, channels, 64 // STRIDE, 96 // STRIDE)
    crops = torch.randn(3, channels, 14, 14)
    assert make_tail(spec, stride=2)(crops).shape == (3, 2 * channels, 7, 7)
    assert make_tail(spec, stride=1)(crops[..., :7, :7]).shape == (3, 2 * channels, 7, 7)


def test_sizes_that_no_stride_divides() -> None:
    trunk = C4Trunk(ResNetSpec(depth=18, width=4))
    assert trunk(torch.randn(1, 3, 65, 79)).shape[2:] == (5, 5)


def test_trunk_and_tail_are_the_classifier() -> None:
    spec = ResNetSpec(depth=50, width=4)
    whole, trunk, tail = ResNet(spec, classes=5), C4Trunk(spec), make_tail(spec, stride=2)
    state = whole.state_dict()
    trunk.load_state_dict({k: v for k, v in state.items() if k.startswith(STAGES)})
    start = "res5."
    tail.load_state_dict({k[len(start) :]: v for k, v in state.items() if k.startswith(start)})
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(whole.fc(tail(trunk(x)).mean(dim=(2, 3))), whole(x))


@pytest.mark.parametrize("frozen", range(5))
def test_frozen_stages_keep_weights_and_statistics(frozen: int) -> None:
    trunk = C4Trunk(ResNetSpec(depth=18, width=4, norm="batch"), frozen_stages=frozen)
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    trunk.eval()
    nn.Sequential(trunk).train()  # as a part of the detector
    if frozen < 4:
        trunk(torch.randn(2, 3, 64, 64)).square().mean().backward()
        parameters = [p for p in trunk.parameters() if p.grad is not None]
        torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1).step()
    else:
        assert not trunk(torch.randn(2, 3, 64, 64)).requires_grad
    for name, tensor in trunk.state_dict().items():
        fixed = name.startswith(STAGES[:frozen]) if frozen else False
        assert torch.equal(tensor, before[name]) == fixed, name
