"""3x3 convolutions of small maps: the same results and gradients as ``F.conv2d``'s."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.backbones import small_maps
from resdet.backbones.norm import ConvNorm
from resdet.backbones.small_maps import LARGEST_MAP, convolve, fits
from torch import nn


@pytest.fixture(autouse=True)
def amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_maps, "cpu_flags", lambda: frozenset({"amx_bf16"}))


@given(
    count=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    stride=st.sampled_from([1, 2, 3]),
    biased=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_gradients_of_a_convolution(
    count: int, inputs: int, outputs: int, height: int, width: int, stride: int, biased: bool
) -> None:
    generator = torch.Generator().manual_seed(height * 100 + width)
    shapes = [(count, inputs, height, width), (outputs, inputs, 3, 3), (outputs,)]
    values = [torch.randn(shape, generator=generator).double() for shape in shapes]
    both = []
    for call in (convolve, lambda *args: F.conv2d(*args, padding=1)):
        given_ = [value.clone().requires_grad_() for value in values[: 3 if biased else 2]]
        found = call(given_[0], given_[1], given_[2] if biased else None, stride)
        found.backward(torch.ones_like(found).cumsum(0) + found.detach())
        both.append([found, *(each.grad for each in given_)])
    for found, wanted in zip(*both, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_layer_in_training_computes_by_it_in_bf16_only(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(
        small_maps, "convolve", lambda *args: called.append(args[3]) or convolve(*args)
    )
    torch.manual_seed(0)
    layers = nn.Sequential(ConvNorm(4, 6, 3, stride=2, norm="frozen"), ConvNorm(6, 5, 3)).train()
    maps = torch.randn(2, 4, 2 * LARGEST_MAP, 2 * LARGEST_MAP).requires_grad_()
    layers(maps).sum().backward()
    assert called == [], "float32"
    wanted = [each.grad.clone() for each in (maps, *layers.parameters())]
    for each in (maps, *layers.parameters()):
        each.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        found = layers(maps)
    assert found.dtype == torch.bfloat16 and called == [2, 1]
    found.float().sum().backward()
    for each, right in zip((maps, *layers.parameters()), wanted, strict=True):
        assert each.grad is not None and each.grad.dtype == torch.float32
        assert (each.grad - right).norm() < 0.02 * right.norm()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layers(maps)
        assert len(called) == 2, "no gradient"


@pytest.mark.parametrize(
    ("kernel", "stride", "side", "frozen", "fitting"),
    [
        (3, 1, LARGEST_MAP, False, True),
        (3, 1, LARGEST_MAP + 1, False, False),
        (3, 2, 2 * LARGEST_MAP, False, True),
        (1, 1, LARGEST_MAP, False, False),
        (3, 1, LARGEST_MAP, True, False),
    ],
)
def test_where_it_is_used(kernel: int, stride: int, side: int, frozen: bool, fitting: bool) -> None:
    layer = ConvNorm(4, 4, kernel, stride=stride)
    layer.weight.requires_grad_(not frozen)
    maps = torch.zeros(1, 4, side, side, dtype=torch.bfloat16)
    assert fits(layer, maps, layer.weight) is fitting


def test_not_without_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_maps, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    layer = ConvNorm(4, 4, 3)
    assert not fits(layer, torch.zeros(1, 4, 7, 7, dtype=torch.bfloat16), layer.weight)


def test_compiled_and_without_images() -> None:
    layer = ConvNorm(4, 4, 3)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    maps = torch.randn(2, 4, 7, 7)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(maps), layer(maps))
    convolve(maps[:0].bfloat16(), layer.weight.bfloat16(), None, 1).sum().backward()
    assert layer.weight.grad is not None and not layer.weight.grad.any()
