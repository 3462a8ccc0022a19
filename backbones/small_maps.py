"""3x3 convolutions of small maps in bf16, with the gradient of the weights as matrix products.

On a processor with AMX, oneDNN's kernel for that gradient takes three to seven times as long for
maps of 7x7 and 4x4 cells: those of conv5 in classifiers at 112 and 224 px and of a detector's
crops. For larger maps, in float32 and without AMX it is the faster way or as fast.

N images · C input and O output channels · h, w of the output.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..detection.processor import cpu_flags

#: Cells of an output's side up to which the products are faster; at 14 they are as fast.
LARGEST_MAP = 7


def fits(layer: nn.Conv2d, maps: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` computes this call of ``layer`` faster."""
    return (
        not torch.compiler.is_compiling()  # which could not read the flags of the processor
        and layer.kernel_size == (3, 3)
        and weight.requires_grad
        and torch.is_grad_enabled()
        and maps.device.type == "cpu"
        and maps.dim() == 4
        and max(maps.shape[2:]) <= LARGEST_MAP * layer.stride[0]
        and _computed_in(maps) == torch.bfloat16
        and (layer.padding, layer.dilation, layer.groups) == ((1, 1), (1, 1), 1)
        and layer.stride[0] == layer.stride[1]
        and "amx_bf16" in cpu_flags()
    )


def convolve(maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """(N, C, H, W) by (O, C, 3, 3) to (N, O, h, w) with padding 1, in the type of autocast.

    The output is that of ``F.conv2d``, the gradients but for the order of sums. It has no second
    derivative.
    """
    dtype = _computed_in(maps)
    output: Tensor = _Convolution.apply(
        maps.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), stride
    )
    return output


def _computed_in(maps: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else maps.dtype


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.stride = stride
        return F.conv2d(maps, weight, bias, stride, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        of_maps, of_weight, of_bias, _ = ctx.needs_input_grad
        places = ([len(weight)], [ctx.stride] * 2, [1, 1], [1, 1], False, [0, 0], 1)
        wanted = [of_maps, False, of_bias]
        first, _, last = torch.ops.aten.convolution_backward(grad, maps, weight, *places, wanted)
        return first, _of_weight(maps, grad, ctx.stride) if of_weight else None, last, None


def _of_weight(maps: Tensor, grad: Tensor, stride: int) -> Tensor:
    """(N, C, H, W) and (N, O, h, w) to (O, C, 3, 3): for each place of the kernel the product of
    the gradient with the input that it multiplied."""
    _, outputs, height, width = grad.shape
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    lines = grad.permute(0, 2, 3, 1).reshape(-1, outputs).T.contiguous()
    parts = [
        lines
        @ padded[
            :,
            y : y + (height - 1) * stride + 1 : stride,
            x : x + (width - 1) * stride + 1 : stride,
        ].reshape(-1, padded.shape[-1])
        for y in range(3)
        for x in range(3)
    ]
    return torch.stack(parts).view(3, 3, outputs, -1).permute(2, 3, 0, 1)
