"""Weights that inference in bf16 keeps converted."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from resdet.backbones.norm import ConvNorm, fold_norms
from resdet.backbones.resnet import ResNet
from resdet.backbones.winograd import Convolution
from torch import Tensor, nn

MAPS = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))


def in_bf16(layer: nn.Module, maps: Tensor = MAPS) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return layer(maps)


def by_autocast(layer: ConvNorm) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return F.conv2d(MAPS, layer.weight, layer.bias, padding=1)


def test_a_folded_layer_is_converted_once_and_again_after_every_change() -> None:
    layer = fold_norms(ConvNorm(4, 6, 3, norm="frozen").eval())
    assert isinstance(layer, ConvNorm)
    assert torch.equal(in_bf16(layer), by_autocast(layer))
    first = layer._kept
    in_bf16(layer)
    assert first is not None and layer._kept is first
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.equal(in_bf16(layer), by_autocast(layer))
    layer.bias.data = torch.ones(6)
    assert torch.equal(in_bf16(layer), by_autocast(layer))
    layer.load_state_dict({"weight": torch.ones(6, 4, 3, 3), "bias": torch.zeros(6)})
    assert torch.equal(in_bf16(layer), by_autocast(layer))
    assert torch.equal(layer(MAPS), F.conv2d(MAPS, layer.weight, layer.bias, padding=1)), "float32"
    assert pickle.loads(pickle.dumps(layer))._kept is None  # noqa: S301  our own bytes


def test_what_may_be_trained_is_left_to_autocast() -> None:
    trained = Convolution(4, 6, 3, padding=1)
    in_bf16(trained)
    assert trained._kept is None
    frozen = Convolution(4, 6, 3, padding=1).requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        frozen(MAPS.clone().requires_grad_())
    assert frozen._kept is None
    with torch.inference_mode():
        made_there = Convolution(4, 6, 3, padding=1).requires_grad_(False)
    in_bf16(made_there)
    assert made_there._kept is None


@pytest.mark.parametrize("depth", [18, 50])
def test_a_network_gives_the_same_bits(depth: int) -> None:
    """With strided 1x1 convolutions, too."""
    torch.manual_seed(0)
    network = fold_norms(ResNet(depth, width=8, norm="frozen").classifier(classes=3).eval())
    images = torch.randn(1, 3, 64, 64)
    found, again = in_bf16(network, images), in_bf16(network, images)
    layers = [layer for layer in network.modules() if isinstance(layer, Convolution)]
    assert all(layer._kept is not None for layer in layers)
    for layer in layers:
        layer._in_precision = lambda maps, *tensors: tensors  # type: ignore[method-assign]
    wanted = in_bf16(network, images)
    assert torch.equal(found, wanted) and torch.equal(again, wanted)
