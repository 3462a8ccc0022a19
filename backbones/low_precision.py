"""Weights of inference in bf16 or fp16 on a CPU, converted once.

Autocast keeps what it converts for one context, and only of parameters with gradients: the folded
weights of a loaded network would be converted again for every image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Kept(NamedTuple):
    """A converted weight and bias, and of which tensors and type."""

    key: tuple[object, ...]
    weight: Tensor
    bias: Tensor | None


def converted(
    kept: Kept | None, weight: Tensor, bias: Tensor | None, device: torch.device
) -> Kept | None:
    """``kept``, or what takes its place, for a call on ``device``; None where autocast is off, the
    weight may be trained, or its changes could not be noticed."""
    if (
        device.type != "cpu"
        or weight.requires_grad
        or torch.is_grad_enabled()
        or not torch.is_autocast_enabled("cpu")
        or weight.is_inference()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    ):
        return None
    dtype = torch.get_autocast_dtype("cpu")
    key = (dtype, *(part for each in (weight, bias) for part in _state(each)))
    if kept is None or kept.key != key:
        kept = Kept(key, weight.to(dtype), None if bias is None else bias.to(dtype))
    return kept


def _state(tensor: Tensor | None) -> tuple[int, ...]:
    """What is another after every change of a tensor."""
    return () if tensor is None else (tensor.data_ptr(), tensor._version)
