"""3x3 convolutions by Winograd's minimal filtering F(4x4, 3x3) (Lavin, Gray, arXiv:1509.09308).

A tile of 4x4 outputs takes 36 products for each pair of channels in place of 144, after transforms
of its 6x6 inputs, of the weights, and before one of the outputs. In float32 the result differs from
a direct convolution by about 1e-5 of its largest value.

N images · C input and O output channels · T tiles in all images.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import small_maps
from .low_precision import Kept, converted

#: Outputs of a tile in one direction, and its inputs.
TILE, FIELD = 4, 6
#: The share of the tiles' outputs that a map must use, and the fewest tiles of all images. A map of
#: 7x7 uses 77 %, one of 13x13 66 %.
LEAST_USED, LEAST_TILES = 0.75, 16

_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_WEIGHT = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def transformed(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) to (36, O, C)."""
    flat = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (_in_both_directions(_WEIGHT, flat) @ flat).view(FIELD * FIELD, *weight.shape[:2])


def winograd(maps: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, C, h, w) and the `transformed` weight to (N, O, h, w), as a convolution with padding 1
    and stride 1; channels-last."""
    count, _, height, width = maps.shape
    outputs = weight.shape[1]
    rows, columns = _tiles(height, width)
    products = torch.bmm(_transformed_fields(maps), weight.transpose(1, 2))
    tiles = _in_both_directions(_OUTPUT, maps) @ products.view(FIELD * FIELD, -1)
    if bias is not None:
        tiles.view(-1, outputs).add_(bias)
    whole = tiles.view(TILE, TILE, count, rows, columns, outputs).permute(2, 3, 0, 4, 1, 5)
    whole = whole.reshape(count, rows * TILE, columns * TILE, outputs)
    return whole[:, :height, :width].permute(0, 3, 1, 2)


def gradient_of_weight(maps: Tensor, gradient: Tensor) -> Tensor:
    """(O, C, 3, 3) from the input (N, C, h, w) and the gradient (N, O, h, w) of the output.

    The weight enters the output through three linear maps, which are transposed in reverse order.
    """
    count, outputs, height, width = gradient.shape
    rows, columns = _tiles(height, width)
    padded = F.pad(gradient, (0, columns * TILE - width, 0, rows * TILE - height))
    tiles = padded.permute(0, 2, 3, 1).reshape(count, rows, TILE, columns, TILE, outputs)
    tiles = tiles.permute(2, 4, 0, 1, 3, 5).reshape(TILE * TILE, -1)
    products = (_in_both_directions(_OUTPUT, maps).T @ tiles).view(FIELD * FIELD, -1, outputs)
    weight = torch.bmm(products.transpose(1, 2), _transformed_fields(maps))
    places = _in_both_directions(_WEIGHT, maps).T @ weight.view(FIELD * FIELD, -1)
    return places.view(3, 3, outputs, -1).permute(2, 3, 0, 1)


def _transformed_fields(maps: Tensor) -> Tensor:
    """(N, C, h, w) to (36, T, C)."""
    height, width = maps.shape[2:]
    rows, columns = _tiles(height, width)
    beyond = (1, columns * TILE + 1 - width, 1, rows * TILE + 1 - height)
    padded = F.pad(maps, beyond).permute(0, 2, 3, 1)
    fields = padded.unfold(1, FIELD, TILE).unfold(2, FIELD, TILE).permute(4, 5, 0, 1, 2, 3)
    values = _in_both_directions(_INPUT, maps) @ fields.reshape(FIELD * FIELD, -1)
    return values.view(FIELD * FIELD, -1, maps.shape[1])


def _tiles(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tiles of a map."""
    return -(-height // TILE), -(-width // TILE)


class _WithGradients(torch.autograd.Function):
    """`winograd` of an untransformed weight; the gradients are those of the convolution, by the
    same method."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(maps, weight)
        # Not a view, so that a ReLU may overwrite it.
        output = winograd(maps, transformed(weight), bias)
        return output.clone(memory_format=torch.channels_last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        of_maps, of_weight, of_bias = ctx.needs_input_grad
        return (
            winograd(gradient, transformed(weight.flip(2, 3).transpose(0, 1))) if of_maps else None,
            gradient_of_weight(maps, gradient) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
        )


def _in_both_directions(matrix: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """The Kronecker square of a transform of one direction."""
    one = like.new_tensor(matrix)
    return torch.kron(one, one)


class Convolution(nn.Conv2d):
    """``nn.Conv2d``, in training by `small_maps` where that is faster, and by Winograd's method
    after `use_winograd`: in float32 on a CPU and on maps that fill their tiles.

    For inference the transformed weight is kept, four times the memory of the weight, so the weight
    must not change any more. In training it is made in every pass. In bf16 the converted weight is
    kept (`low_precision`), half the memory of the weight, until that changes.
    """

    by_winograd = False
    #: Whether that is for passes with gradients alone, or for those without.
    with_gradients = False
    _transformed: Tensor | None = None
    _kept: Kept | None = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if small_maps.fits(self, input, weight):
            return small_maps.convolve(input, weight, bias, self.stride[0])
        wanted = self.by_winograd and torch.is_grad_enabled() == self.with_gradients
        if not wanted or not _fits(input):
            return super()._conv_forward(input, *self._in_precision(input, weight, bias))
        if self.with_gradients:
            output: Tensor = _WithGradients.apply(input, weight, bias)
            return output
        if self._transformed is None:
            self._transformed = transformed(weight.detach())
        return winograd(input, self._transformed, bias)

    def _in_precision(
        self, input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """``weight`` and ``bias`` as autocast would convert them, if they are the layer's own."""
        if weight is self.weight and bias is self.bias:
            self._kept = converted(self._kept, weight, bias, input.device)
            if self._kept is not None:
                return self._kept.weight, self._kept.bias
        return weight, bias

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_transformed": None, "_kept": None}


def _fits(maps: Tensor) -> bool:
    return (
        maps.device.type == "cpu"
        and maps.dtype == torch.float32
        and _fill_tiles(*maps.shape)
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
    )


def _fill_tiles(count: int, channels: int, height: int, width: int) -> bool:
    rows, columns = _tiles(height, width)
    used = height * width >= LEAST_USED * rows * columns * TILE**2
    return used and count * rows * columns >= LEAST_TILES


def use_winograd(network: nn.Module, channels: int, *, training: bool = False) -> nn.Module:
    """``network`` with every 3x3 convolution of stride 1 that has at least so many input and output
    channels computed by Winograd's method, in inference alone or in ``training`` alone: a network
    in training is evaluated as it will be later."""
    for layer in network.modules():
        if isinstance(layer, Convolution) and _is_plain_3x3(layer):
            layer.by_winograd = min(layer.in_channels, layer.out_channels) >= channels
            layer.with_gradients = training
    return network


def _is_plain_3x3(layer: nn.Conv2d) -> bool:
    kernel = (layer.kernel_size, layer.stride, layer.dilation, layer.padding)
    return kernel == ((3, 3), (1, 1), (1, 1), (1, 1)) and layer.groups == 1
