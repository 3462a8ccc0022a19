"""Analysis of networks: the responses of their layers, parameters and multiply-adds.

A response is a layer's output after its norm and before the nonlinearity and the addition, so that
its std tells how much the layer changes what passes through (ResNet paper, section 4.1, Fig. 7).
Projections on the shortcuts do not count as layers, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..detection.errors import DataError
from .exact_bn import Moments
from .norm import ConvNorm
from .undrawn import shapes_only

T = TypeVar("T")


@dataclass(frozen=True)
class Response:
    """``std`` over all images, channels and positions; ``kernel`` is the convolution's side."""

    layer: str
    kernel: int
    std: float


def layer_responses(
    model: nn.Module, batches: Iterable[T], run: Callable[[T], object]
) -> list[Response]:
    """The responses of all layers in the order in which they run, from one pass over ``batches``.

    ``run`` computes a batch with the model, which should be in evaluation mode.

    Raises:
        DataError: there are no images.
    """
    layers = {
        layer: name
        for name, layer in model.named_modules()
        if isinstance(layer, ConvNorm) and name.rpartition(".")[2] != "shortcut"
    }
    moments: dict[ConvNorm, Moments] = {}

    def record(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, ConvNorm)  # noqa: S101  narrows types
        moments.setdefault(layer, Moments()).add(output.flatten(1).unsqueeze(1))

    with ExitStack() as stack, torch.no_grad():
        for layer in layers:
            stack.callback(layer.register_forward_hook(record).remove)
        for batch in batches:
            run(batch)
    if not moments:
        raise DataError("no images to measure responses on")
    return [
        Response(layers[layer], layer.kernel_size[0], found.variance.sqrt().item())
        for layer, found in moments.items()
    ]


@dataclass(frozen=True)
class Complexity:
    """``multiply_adds`` are those of convolutions and linear layers, which the paper calls FLOPs
    (Table 1); norms, activations and pooling are under 1 % of them and not counted."""

    parameters: int
    multiply_adds: int


def measure(build: Callable[[], nn.Module], size: int) -> Complexity:
    """The complexity of the network that ``build`` makes, for one image of ``size`` x ``size``.

    A forward pass is counted on the meta device, which computes shapes only.
    """
    with shapes_only():
        network = build().eval()
        images = torch.empty(1, 3, size, size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Complexity(parameters, counter.get_total_flops() // 2)
