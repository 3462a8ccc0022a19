"""Convolutions with their normalisation: frozen, batch or group statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .winograd import Convolution

#: Statistics of the training batch, of groups of channels, or constants.
Norm = Literal["batch", "group", "frozen"]
#: Added to the variance: the value of the paper's released models, torchvision and detectron2.
EPS = 1e-5


class FrozenNorm(nn.Module):
    """BN turned into a constant scale and shift per channel (ResNet paper, appendix A).

    It has buffers only, so that neither ``train()`` nor an optimizer changes it.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.full((channels,), 1 - EPS))

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = scale_and_shift(self)
        return x * scale[:, None, None] + shift[:, None, None]


def scale_and_shift(norm: FrozenNorm | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The (C,) scale and shift of a BN with fixed statistics."""
    assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101  narrows types
    scale = norm.weight * (norm.running_var + EPS).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def make_norm(kind: str, channels: int) -> nn.Module:
    """One of ``frozen``, ``batch`` or ``group`` (32 groups, fewer for narrow layers)."""
    makers = {
        "frozen": FrozenNorm,
        "batch": lambda width: nn.BatchNorm2d(width, eps=EPS),
        "group": lambda width: nn.GroupNorm(math.gcd(32, width), width),
    }
    return makers[kind](channels)


class ConvNorm(Convolution):
    """A convolution without bias and its norm, computed as one convolution where possible.

    With fixed statistics conv(x, w) * scale + shift = conv(x, w * scale) + shift: the activation is
    written once instead of three times, and the gradients of the weights are the same. `fold_norms`
    does that once and for all.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, norm: str = "frozen"
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = make_norm(norm, outputs)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        #: `as_convolution` within `folded_once`.
        self._folded: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        whole = self.as_convolution()
        if whole is None:
            return self.norm(self._convolve(x, self.weight, self.bias))
        return self._convolve(x, *whole)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.kernel_size != (1, 1) or self.stride == (1, 1):
            return self._conv_forward(x, weight, bias)
        # Subsampled first: in bfloat16 on a CPU, the kernel of a strided 1x1 convolution writes
        # outside its memory if channels are no multiple of 16 (torch 2.15).
        x = x[:, :, :: self.stride[0], :: self.stride[1]]
        return F.conv2d(x, *self._in_precision(x, weight, bias))

    def fixed_factors(self) -> tuple[Tensor, Tensor] | None:
        """``(scale, shift)`` while the statistics are fixed, else None."""
        norm = self.norm
        if isinstance(norm, FrozenNorm) or (isinstance(norm, nn.BatchNorm2d) and not norm.training):
            return scale_and_shift(norm)
        return None

    def as_convolution(self) -> tuple[Tensor, Tensor] | None:
        """The weight and bias of the whole layer while the statistics are fixed, else None."""
        if self._folded is not None or (factors := self.fixed_factors()) is None:
            return self._folded
        scale, shift = factors
        return self.weight * scale[:, None, None, None], shift

    def on_subsampled(self, x: Tensor) -> Tensor:
        """A 1x1 layer on input that its stride is already taken from."""
        whole = self.as_convolution()
        if whole is None:
            return self.norm(F.conv2d(x, *self._in_precision(x, self.weight, self.bias)))
        return F.conv2d(x, *whole)

    def before_pooling(self, x: Tensor) -> Tensor:
        """The linear part of a 1x1 convolution on (N, C, H, W), at stride 1, without the shift.

        RoI pooling is linear too, so it may run between this and `after_pooling`.
        """
        whole = self.as_convolution()
        if whole is None:
            return F.conv2d(x, self._in_precision(x, self.weight, self.bias)[0])
        return F.conv2d(x, whole[0])

    def after_pooling(self, crops: Tensor) -> Tensor:
        """The rest of the layer on (P, C, h, w) crops, which it may overwrite."""
        factors = self._folded or self.fixed_factors()
        shift = self.bias if factors is None else factors[1]
        if shift is None:
            return self.norm(crops)
        shift = shift.to(crops.dtype)[:, None, None]
        # The crops are a view: in place, autograd would copy their whole gradient at each step.
        return crops + shift if crops.requires_grad else crops.add_(shift)


@contextmanager
def folded_once(network: nn.Module) -> Iterator[None]:
    """Within it every `ConvNorm` of fixed statistics is one convolution, made at the beginning: for
    evaluations of a network in training, whose tensors and modes must not change meanwhile. The
    outputs are the same bit for bit; gradients do not reach these layers.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, ConvNorm)]
    with torch.no_grad():
        for layer in layers:
            layer._folded = layer.as_convolution()
    try:
        yield
    finally:
        for layer in layers:
            layer._folded = None


def fold_norms(network: nn.Module) -> nn.Module:
    """``network`` with every `ConvNorm` of fixed statistics made one convolution with a bias.

    For inference alone: the layers have other tensors then, and cannot be trained. The outputs are
    the same bit for bit. Norms that depend on their input stay.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, ConvNorm)]
    for layer, factors in [(layer, layer.fixed_factors()) for layer in layers]:
        if factors is not None:
            scale, shift = (factor.detach() for factor in factors)
            layer.weight = nn.Parameter(layer.weight.detach() * scale[:, None, None, None])
            layer.bias = nn.Parameter(shift)
            layer.norm = nn.Identity()
    return network.requires_grad_(False)
