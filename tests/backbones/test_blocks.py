"""Residual blocks: where they halve, and running on the map instead of on its crops."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from resdet.backbones.blocks import BasicBlock, Bottleneck
from torch import Tensor, nn


def make(kind: str, *, stride: int, stride_in: str = "3x3", norm: str = "batch") -> nn.Module:
    block = BasicBlock if kind == "basic" else Bottleneck
    return block(8, 4, stride=stride, stride_in=stride_in, norm=norm)


def test_stride_positions() -> None:
    strides = {}
    for stride_in in ("1x1", "3x3"):
        block = make("bottleneck", stride=2, stride_in=stride_in)
        strides[stride_in] = [
            layer.stride[0] for layer in (block.conv1, block.conv2, block.conv3, block.shortcut)
        ]
    assert strides == {"1x1": [2, 1, 1, 2], "3x3": [1, 2, 1, 2]}
    basic = make("basic", stride=2)
    assert [basic.conv1.stride[0], basic.conv2.stride[0], basic.shortcut.stride[0]] == [2, 1, 2]


def test_the_shortcut_projects_only_where_the_shape_changes() -> None:
    same = BasicBlock(4, 4, stride=1, stride_in="3x3", norm="batch")
    wider = BasicBlock(4, 8, stride=1, stride_in="3x3", norm="batch")
    smaller = BasicBlock(4, 4, stride=2, stride_in="3x3", norm="batch")
    assert isinstance(same.shortcut, nn.Identity)
    assert not isinstance(wider.shortcut, nn.Identity)
    assert not isinstance(smaller.shortcut, nn.Identity)
    x = torch.randn(1, 4, 6, 6)
    assert [b(x).shape[1:] for b in (same, wider, smaller)] == [(4, 6, 6), (8, 6, 6), (4, 3, 3)]


def test_a_block_without_residual_passes_its_input() -> None:
    block = Bottleneck(16, 4, stride=1, stride_in="3x3", norm="frozen")
    nn.init.zeros_(block.conv3.weight)
    x = torch.randn(2, 16, 5, 5)
    before = x.clone()
    assert torch.equal(block(x), x.relu())
    assert torch.equal(x, before)


def crops(features: Tensor, step: int) -> Tensor:
    """A linear pool that can be read by eye: means of two neighbouring columns, shifted."""
    pooled = (features + features.roll(1, -1)) / 2
    return torch.cat([pooled[..., 1:8, 1:8], pooled[..., 2:9, 0:7]])[..., ::step, ::step]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["basic", "bottleneck 1x1", "bottleneck 3x3", "identity"])
def test_on_the_map_equals_on_the_crops(kind: str, stride: int, norm: str, training: bool) -> None:
    if kind == "identity":
        block: nn.Module = Bottleneck(16, 4, stride=1, stride_in="3x3", norm=norm)
    else:
        name, _, stride_in = kind.partition(" ")
        block = make(name, stride=stride, stride_in=stride_in or "3x3", norm=norm)
    on_map = block.double().train(training)
    on_crops = deepcopy(on_map)
    channels = 16 if kind == "identity" else 8
    features = torch.randn(2, channels, 9, 9, dtype=torch.float64)
    first, second = features.clone().requires_grad_(), features.clone().requires_grad_()
    found = on_map.forward_on_map(first, crops)
    expected = on_crops(crops(second, 1))
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(first.grad, second.grad)
    for ours, theirs in zip(on_map.parameters(), on_crops.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for ours, theirs in zip(on_map.buffers(), on_crops.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
