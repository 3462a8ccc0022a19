"""Responses against what is known of them, and against all data at once."""

from __future__ import annotations

import pytest
import torch
from resdet.backbones.analysis import layer_responses
from resdet.backbones.exact_bn import exact_statistics
from resdet.backbones.norm import ConvNorm
from resdet.backbones.resnet import CifarResNet, ResNet
from resdet.detection.errors import DataError
from torch import Tensor, nn


def images() -> Tensor:
    return torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_with_exact_statistics_the_norms_own_factors_are_the_response() -> None:
    """Each channel then has its bias as mean and its weight as std."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CifarResNet(8, width=4).classifier(2)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.2, 2)
                nn.init.uniform_(module.bias, -1, 1)
    exact_statistics(model, lambda: images().split(3), model, method="layered")
    found = layer_responses(model.eval(), images().split(2), model)
    assert [response.layer for response in found] == [
        "stem.conv1",
        *(f"res{stage}.0.conv{conv}" for stage in (2, 3, 4) for conv in (1, 2)),
    ]
    layers = dict(model.named_modules())
    for response in found:
        norm = layers[response.layer].norm
        expected = norm.weight.square().mean() + norm.bias.var(unbiased=False)
        assert response.std == pytest.approx(expected.sqrt().item(), rel=1e-3)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_response_comes_before_nonlinearity_and_addition() -> None:
    """The rectified map has no negative numbers, and the sum is another one than the residual."""
    model = ResNet(50, width=4, norm="batch").classifier(2).eval()
    with torch.no_grad():
        block = model.res2[1]
        block.conv3.weight.zero_()
        block.conv3.norm.bias.copy_(torch.tensor([3.0, -5.0]).repeat(8))
        found = {r.layer: r for r in layer_responses(model, [images()], model)}
    assert len(found) == 49
    assert found["res2.1.conv3"].std == pytest.approx(4.0)
    assert [found[f"res2.1.conv{i}"].kernel for i in (1, 2, 3)] == [1, 3, 1]
    assert not any("shortcut" in name for name in found)
    assert isinstance(model.res2[0].shortcut, ConvNorm)


def test_no_images() -> None:
    model = CifarResNet(8, width=4).classifier(2)
    with pytest.raises(DataError, match="no images"):
        layer_responses(model, [], model)
