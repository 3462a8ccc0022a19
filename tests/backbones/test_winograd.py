"""3x3 convolutions by Winograd's method: equal to direct ones, and used only where they may be."""

from __future__ import annotations

import pickle
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.backbones.norm import ConvNorm, fold_norms
from resdet.backbones.winograd import (
    Convolution,
    _WithGradients,
    transformed,
    use_winograd,
    winograd,
)
from torch import Tensor, nn

MAP = (1, 4, 13, 19)  # 20 tiles, 77 % of them used


def relative(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    found, wanted = found.detach(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max())


@given(
    count=st.integers(1, 3),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    height=st.integers(1, 18),
    width=st.integers(1, 18),
    biased=st.booleans(),
)
@settings(max_examples=40)
def test_the_result_of_a_direct_convolution(
    count: int, inputs: int, outputs: int, height: int, width: int, biased: bool
) -> None:
    generator = torch.Generator().manual_seed(height * 100 + width)
    maps = torch.randn(count, inputs, height, width, generator=generator)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator)
    bias = torch.randn(outputs, generator=generator) if biased else None
    wanted = F.conv2d(maps, weight, bias, padding=1)
    assert relative(winograd(maps, transformed(weight), bias), wanted) < 2e-5
    channels_last = maps.contiguous(memory_format=torch.channels_last)
    assert relative(winograd(channels_last, transformed(weight), bias), wanted) < 2e-5


@given(
    count=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    biased=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_gradients_of_a_direct_convolution(
    count: int, inputs: int, outputs: int, height: int, width: int, biased: bool
) -> None:
    generator = torch.Generator().manual_seed(height * 100 + width)
    shapes = [(count, inputs, height, width), (outputs, inputs, 3, 3), (outputs,)]
    values = [torch.randn(shape, generator=generator).double() for shape in shapes]
    both = []
    for call in (_WithGradients.apply, lambda *args: F.conv2d(*args, padding=1)):
        given_ = [value.clone().requires_grad_() for value in values[: 3 if biased else 2]]
        found = call(given_[0], given_[1], given_[2] if biased else None)
        found.backward(torch.ones_like(found).cumsum(0) + found.detach())
        both.append([found, *(each.grad for each in given_)])
    for found, wanted in zip(*both, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_a_layer_in_training_computes_by_it_with_gradients_only(norm: str) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(4, 4, 3, norm=norm).train()
    maps, factors = torch.randn(MAP).requires_grad_(), torch.randn(MAP)
    direct = layer(maps).relu_()
    (direct * factors).sum().backward()
    wanted = [maps.grad, layer.weight.grad]
    maps.grad = layer.weight.grad = None
    use_winograd(layer, channels=4, training=True)
    found = layer(maps).relu_()  # in place, as in the networks
    assert 0 < relative(found, direct) < 1e-5
    (found * factors).sum().backward()
    for each, other in zip([maps.grad, layer.weight.grad], wanted, strict=True):
        assert each is not None and other is not None
        assert 0 < relative(each, other) < 1e-4
    with torch.no_grad():
        layer.eval()
        layer.weight.mul_(2)  # nothing of the old one is kept
        use_winograd(again := deepcopy(layer), channels=5)
        assert torch.equal(layer(maps), again(maps))
    assert 0 < relative(layer(maps), again(maps)) < 1e-5


def test_a_folded_layer_computes_by_it_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(4, 4, 3, norm="frozen").eval()
    maps = torch.randn(MAP)
    with torch.no_grad():
        wanted = layer(maps)
        use_winograd(fold_norms(layer), channels=4)
        assert 0 < relative(layer(maps), wanted) < 1e-5
        crops = torch.randn(4, 4, 7, 7)
        direct = F.conv2d(crops, layer.weight, layer.bias, padding=1)
        assert 0 < relative(layer(crops), direct) < 1e-5
        for few in (crops[:3], maps[..., :13], maps[..., :12]):
            assert torch.equal(layer(few), F.conv2d(few, layer.weight, layer.bias, padding=1))
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(maps).dtype == torch.bfloat16
    assert torch.equal(layer(maps), F.conv2d(maps, layer.weight, layer.bias, padding=1))
    again = pickle.loads(pickle.dumps(layer))  # noqa: S301  our own bytes
    assert again.by_winograd and again._transformed is None


@pytest.mark.parametrize(
    "layer",
    [
        Convolution(4, 4, 3, padding=1, stride=2),
        Convolution(4, 4, 3),
        Convolution(4, 4, 3, padding=2, dilation=2),
        Convolution(4, 4, 3, padding=1, groups=2),
        Convolution(4, 4, 1),
        Convolution(4, 3, 3, padding=1),
    ],
)
def test_other_layers_stay_direct(layer: Convolution) -> None:
    use_winograd(nn.Sequential(layer), channels=4)
    assert not layer.by_winograd
