"""How large is a network: its parameters, and the multiply-adds of one picture?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Complexity:
    """``multiply_adds`` are those of convolutions and linear layers, which is what the paper calls
    FLOPs (Table 1); norms, activations and pooling are under 1 % of them and left out."""

    parameters: int
    multiply_adds: int


def measure(build: Callable[[], nn.Module], size: int) -> Complexity:
    """The complexity of the network that ``build`` makes, for one picture of ``size`` x ``size``.

    A forward pass is counted, on the meta device: shapes are real, numbers and memory are not.
    """
    with torch.device("meta"):
        network = build().eval()
        images = torch.empty(1, 3, size, size)
    counted: list[int] = []

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        # Each number of the output is one row of the weight times as many inputs.
        assert isinstance(layer.weight, Tensor)  # noqa: S101  narrows types
        counted.append(output.numel() * layer.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(images)
    return Complexity(sum(p.numel() for p in network.parameters()), sum(counted))
