"""Norms that stay fixed, and convolutions computed together with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from resdet.backbones.blocks import Bottleneck
from resdet.backbones.norm import ConvNorm, FrozenNorm, fold_norms, folded_once, make_norm
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class CountedCalls(TorchDispatchMode):
    """Counts the operations within it."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def randomise(norm: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in norm.state_dict().items():
        if name != "num_batches_tracked":
            offset = 0.5 if name in ("weight", "running_var") else -0.5
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + offset)


def test_frozen_norm_is_batch_norm_with_its_statistics() -> None:
    frozen, batch = FrozenNorm(6), nn.BatchNorm2d(6)
    randomise(batch)
    state = batch.state_dict()
    del state["num_batches_tracked"]
    frozen.load_state_dict(state)
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(frozen(x), batch.eval()(x))


def test_frozen_norm_starts_as_identity_without_parameters() -> None:
    norm = FrozenNorm(4)
    x = torch.randn(1, 4, 2, 2)
    torch.testing.assert_close(norm(x), x)
    assert list(norm.parameters()) == []
    assert set(norm.state_dict()) == {"weight", "bias", "running_mean", "running_var"}


def test_neither_train_nor_a_step_changes_frozen_statistics() -> None:
    layer = ConvNorm(3, 4, 3, norm="frozen")
    randomise(layer.norm)
    before = {name: tensor.clone() for name, tensor in layer.norm.state_dict().items()}
    weight = layer.weight.detach().clone()
    layer.train()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.1)
    layer(torch.randn(2, 3, 5, 5)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, weight)
    for name, tensor in layer.norm.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(layer.train()(x), layer.eval()(x))


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 2), (7, 2)])
def test_folded_equals_separate(norm: str, kernel: int, stride: int) -> None:
    layer = ConvNorm(3, 4, kernel, stride=stride, norm=norm).double().eval()
    randomise(layer.norm)
    batch = nn.BatchNorm2d(4).double().eval()
    state = {k: v for k, v in layer.norm.state_dict().items() if k != "num_batches_tracked"}
    batch.load_state_dict(state, strict=False)

    def apart(x: Tensor) -> Tensor:
        return batch(
            nn.functional.conv2d(x, layer.weight, stride=stride, padding=(kernel - 1) // 2)
        )

    def gradients(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        x = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(1)).double()
        x.requires_grad_()
        y = function(x)
        found = torch.autograd.grad(y.square().sum(), [x, layer.weight])
        return [y, *found]

    for folded, plain in zip(gradients(layer), gradients(apart), strict=True):
        torch.testing.assert_close(folded, plain)


@torch.no_grad()
def outputs_of(block: Bottleneck, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Of the block, and of its shortcut that pools before or after its convolution."""
    shortcut = block.shortcut
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        pooled = shortcut.after_pooling(shortcut.before_pooling(x).clone())
        return [block(x), pooled, shortcut.on_subsampled(x)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_folding_once_changes_no_bit(norm: str, dtype: torch.dtype) -> None:
    block = Bottleneck(8, 4, stride=2, stride_in="1x1", norm=norm).eval()
    layers = [layer for layer in block.modules() if isinstance(layer, ConvNorm)]
    for layer in layers:
        randomise(layer.norm)
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))

    plain = outputs_of(block, x, dtype)
    assert fold_norms(block) is block
    for folded, before in zip(outputs_of(block, x, dtype), plain, strict=True):
        assert torch.equal(folded, before)
    kinds = {type(layer.norm) for layer in layers}
    assert kinds == ({nn.GroupNorm} if norm == "group" else {nn.Identity})
    if norm != "group":
        assert not any(parameter.requires_grad for parameter in block.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_folding_for_an_evaluation_changes_no_bit(norm: str, dtype: torch.dtype) -> None:
    """Also after the weights have changed, once the block is left."""
    block = Bottleneck(8, 4, stride=2, stride_in="1x1", norm=norm).eval()
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))

    for _ in range(2):
        for layer in block.modules():
            if isinstance(layer, ConvNorm):
                randomise(layer.norm)
                nn.init.normal_(layer.weight)
        plain = outputs_of(block, x, dtype)
        with CountedCalls() as counted:
            outputs_of(block, x, dtype)
        with folded_once(block), CountedCalls() as fewer:
            folded = outputs_of(block, x, dtype)
        for one, other in zip(folded, plain, strict=True):
            assert torch.equal(one, other)
        saved = 4 * 6 if norm != "group" else 0  # two of the layers are called thrice
        assert counted.calls - fewer.calls >= saved
    block.train()
    block(x).sum().backward()
    if norm != "frozen":
        assert all(parameter.grad is not None for parameter in block.parameters())


def test_statistics_of_the_batch_are_not_folded() -> None:
    layer = ConvNorm(3, 4, 3, norm="batch").train()
    fold_norms(layer)
    assert isinstance(layer.norm, nn.BatchNorm2d)
    assert layer.bias is None


def test_batch_norm_trains_its_affine_in_both_modes() -> None:
    layer = ConvNorm(3, 4, 1, norm="batch")
    for mode in (True, False):
        layer.zero_grad()
        # Not the sum of squares: batch statistics hold it constant, gradients would be rounding.
        (layer.train(mode)(torch.randn(2, 3, 4, 4)) * torch.randn(2, 4, 4, 4)).sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize(
    ("channels", "groups"), [(256, 32), (64, 32), (16, 16), (24, 8), (6, 2), (1, 1)]
)
def test_group_norm_has_32_groups_or_as_many_as_divide(channels: int, groups: int) -> None:
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups
    assert norm(torch.randn(1, channels, 2, 2)).isfinite().all()
