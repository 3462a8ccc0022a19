"""Residual blocks: where they halve, and running on the map instead of on its crops."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from resdet.backbones.blocks import BasicBlock, Bottleneck, PaddedIdentity, Shortcut, make_shortcut
from resdet.backbones.norm import ConvNorm
from torch import Tensor, nn


def make(
    kind: str,
    *,
    stride: int,
    stride_in: str = "3x3",
    norm: str = "batch",
    shortcut: Shortcut = "B",
) -> nn.Module:
    block, inputs = (Bottleneck, 8) if kind == "bottleneck" else (BasicBlock, 2)
    return block(inputs, 4, stride=stride, stride_in=stride_in, norm=norm, shortcut=shortcut)


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


def test_option_a_by_hand() -> None:
    """1 channel to 3, 3x3 to 2x2: corners and zeros."""
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    expected = torch.zeros(1, 3, 2, 2)
    expected[0, 0] = torch.tensor([[0.0, 2.0], [6.0, 8.0]])
    shortcut = PaddedIdentity(1, 3, stride=2)
    assert torch.equal(shortcut(x), expected)
    assert list(shortcut.state_dict()) == []


def test_an_option_a_block_by_hand() -> None:
    """All weights 1 and no norm: the first 3x3 sums 4 ones, the second those sums."""
    block = BasicBlock(1, 2, stride=2, norm="frozen", shortcut="A")
    for conv in (block.conv1, block.conv2):
        nn.init.ones_(conv.weight)
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, :2, :2] = 1
    # conv1 at stride 2, padded by 1, sees rows -1..1 and 1..3: sums 4, 2, 2, 1 in both channels;
    # conv2 sees all four of them in both channels from everywhere: 9 x 2.
    # The shortcut adds the cells (0, 0), (0, 2), (2, 0), (2, 2) to the first channel.
    expected = torch.full((1, 2, 2, 2), 18.0)
    expected[0, 0, 0, 0] += 1
    torch.testing.assert_close(block(image), expected)


def test_a_plain_block_by_hand() -> None:
    block = BasicBlock(1, 1, stride=1, norm="frozen", shortcut="none")
    for conv in (block.conv1, block.conv2):
        nn.init.zeros_(conv.weight)
        conv.weight.data[..., 1, 1] = 2
    x = torch.tensor([[[[1.0, -1.0]]]])
    torch.testing.assert_close(block(x), torch.tensor([[[[4.0, 0.0]]]]))
    assert not any("shortcut" in name for name in block.state_dict())


@pytest.mark.parametrize(
    ("option", "same", "other"),
    [
        ("A", nn.Identity, PaddedIdentity),
        ("B", nn.Identity, ConvNorm),
        ("C", ConvNorm, ConvNorm),
        ("none", type(None), type(None)),
    ],
)
def test_shortcuts_by_letter(option: Shortcut, same: type, other: type) -> None:
    assert type(make_shortcut(option, 4, 4, stride=1, norm="batch")) is same
    for outputs, stride in ((4, 2), (8, 1), (8, 2)):
        shortcut = make_shortcut(option, 4, outputs, stride=stride, norm="batch")
        assert type(shortcut) is other
        if shortcut is not None:
            side = 5 if stride == 1 else 3
            assert shortcut(torch.randn(1, 4, 5, 5)).shape == (1, outputs, side, side)


def crops(features: Tensor, step: int) -> Tensor:
    """A linear pool that can be read by eye: means of two neighbouring columns, shifted."""
    pooled = (features + features.roll(1, -1)) / 2
    return torch.cat([pooled[..., 1:8, 1:8], pooled[..., 2:9, 0:7]])[..., ::step, ::step]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "kind", ["basic", "basic A", "basic none", "bottleneck 1x1", "bottleneck 3x3", "identity"]
)
def test_on_the_map_equals_on_the_crops(kind: str, stride: int, norm: str, training: bool) -> None:
    if kind == "identity":
        block: nn.Module = Bottleneck(16, 4, stride=1, stride_in="3x3", norm=norm)
    else:
        name, _, option = kind.partition(" ")
        options = {"shortcut" if name == "basic" else "stride_in": option} if option else {}
        block = make(name, stride=stride, norm=norm, **options)
    on_map = block.double().train(training)
    on_crops = deepcopy(on_map)
    channels = {"identity": 16, "basic": 2}.get(kind.partition(" ")[0], 8)
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
