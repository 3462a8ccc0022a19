"""A detector cut at its crops: graphs for trunk, RPN and conv5_x, and what stands in their places.

N images · B anchors of the image · P regions · C channels · V region features · s bins.

Of bottlenecks with projections, the two 1x1 convolutions that conv5_x begins with are a graph of
their own: it runs on the map, which has fewer cells than the crops, and their results are pooled.

Normalisation, selection, RoIAlign, the two sibling layers and suppression stay outside: they are a
small part of the work, and what refinement, pyramids, ensembles and context work on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...backbones.base import Pool
from ...backbones.blocks import Bottleneck
from ...backbones.norm import ConvNorm
from ..errors import WeightsError
from ..models.faster_rcnn import FasterRCNN
from ..models.roi_head import RoIHead
from .detector import EXAMPLE, IMAGE_SIDES
from .folder import HEAD, MAP, RPN, SIBLINGS, TRUNK
from .network import ExportedNetwork, open_network
from .writing import Graph

#: Crops that conv5_x takes together: more gain no time, and each has a megabyte in memory.
CROPS_AT_ONCE = 64
SIBLING_LAYERS = ("cls_logits", "box_deltas")
#: The outputs of `MapGraph`, and the inputs of `RestGraph` in pooled form.
CROPS = ("residual", "shortcut")
#: The sides of a map that may have any size.
MAP_SIDES = {0: "images", 2: "rows", 3: "columns"}


class MapGraph(nn.Module):
    """(N, C, h, w) to the first 1x1 convolutions of conv5_1 without their shifts: that of the
    residual (N, C1, h, w) and that of the shortcut (N, C2, h, w), both at stride 1."""

    def __init__(self, first: Bottleneck, shortcut: ConvNorm) -> None:
        super().__init__()
        self.conv1, self.shortcut = first.conv1, shortcut

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv1.before_pooling(features), self.shortcut.before_pooling(features)


class RestGraph(nn.Module):
    """The rest of conv5_x after `MapGraph` and the pooling: (P, s, s, C1) and (P, s', s', C2) to
    (P, V)."""

    def __init__(self, first: Bottleneck, shortcut: ConvNorm, others: nn.Module) -> None:
        super().__init__()
        self.first, self.shortcut, self.others = first, shortcut, others

    def forward(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        # Copies, since `after_pooling` may overwrite.
        own, other = _channels_first(residual.clone(), shortcut.clone())
        crops = self.first.after_conv1(self.first.conv1.after_pooling(own))
        crops = self.first.relu(crops + self.shortcut.after_pooling(other))
        return self.others(crops).mean(dim=(2, 3))


class HeadGraph(nn.Module):
    """(P, s, s, C) crops to (P, V) region features."""

    def __init__(self, head: RoIHead) -> None:
        super().__init__()
        self.res5 = head.res5

    def forward(self, crops: Tensor) -> Tensor:
        return self.res5(*_channels_first(crops)).mean(dim=(2, 3))


def part_graphs(model: FasterRCNN) -> dict[str, Graph]:
    """The graphs by name."""
    images = torch.randn(EXAMPLE).to(memory_format=torch.channels_last)
    with torch.no_grad():
        features = model.trunk(images)
    return {
        TRUNK: Graph(
            model.trunk,
            {"images": images},
            {"images": IMAGE_SIDES},
            {"features": "(N, C, h, w) float32"},
        ),
        RPN: Graph(
            model.rpn_head,
            {"features": features},
            {"features": MAP_SIDES},
            {
                "objectness": "(N, B) float32, anchors of a cell together, row by row",
                "deltas": "(N, B, 4) float32",
            },
        ),
        **_head_graphs(model, features),
    }


def _head_graphs(model: FasterRCNN, features: Tensor) -> dict[str, Graph]:
    head, found = model.roi_head, {"features": "(P, V) float32"}
    inputs = head_inputs(model, features, [features.new_tensor([[0, 0, 64, 64]] * 3)])
    if (split := _projections(head)) is None:
        crops, sides = {"crops": inputs[0]}, {"crops": {0: "regions"}}
        return {HEAD: Graph(HeadGraph(head), crops, sides, found)}
    outputs = dict.fromkeys(CROPS, "(N, C, h, w) float32")
    crops, sides = dict(zip(CROPS, inputs, strict=True)), {name: {0: "regions"} for name in CROPS}
    return {
        MAP: Graph(MapGraph(*split), {"features": features}, {"features": MAP_SIDES}, outputs),
        HEAD: Graph(RestGraph(*split, head.res5[1:]), crops, sides, found),
    }


def head_inputs(model: FasterRCNN, features: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The inputs of the graph `HEAD` for regions N x (P_i, 4) of the map (N, C, h, w)."""
    head = model.roi_head
    if (split := _projections(head)) is None:
        return _channels_last(head.pool(features, boxes))
    maps, steps = MapGraph(*split), _steps(*split)
    if not head.linear_pool:
        return _channels_last(*_subsampled(maps(head.pool(features, boxes)), steps))
    pairs = zip(maps(features), steps, strict=True)
    return _channels_last(*(head.pool(each, boxes, step=step) for each, step in pairs))


def _channels_last(*maps: Tensor) -> tuple[Tensor, ...]:
    """(P, C, s, s) as the graph `HEAD` takes crops, and as `RoIHead.pool` writes them: nothing has
    to be copied for a runtime."""
    return tuple(each.permute(0, 2, 3, 1) for each in maps)


def _channels_first(*maps: Tensor) -> tuple[Tensor, ...]:
    return tuple(each.permute(0, 3, 1, 2) for each in maps)


def map_steps(model: FasterRCNN) -> dict[str, int]:
    """{output of the graph `MAP`: every how many-th of its bins is pooled}; empty without it."""
    split = _projections(model.roi_head)
    return {} if split is None else dict(zip(CROPS, _steps(*split), strict=True))


def _projections(head: RoIHead) -> tuple[Bottleneck, ConvNorm] | None:
    """conv5_1 and its shortcut, if both begin with a 1x1 convolution."""
    first = head.res5[0]
    if isinstance(first, Bottleneck) and isinstance(first.shortcut, ConvNorm):
        return first, first.shortcut
    return None


def _steps(first: Bottleneck, shortcut: ConvNorm) -> tuple[int, int]:
    """Every how many-th bin is pooled of the outputs of `MapGraph`."""
    return first.conv1.stride[0], shortcut.stride[0]


def _subsampled(maps: Sequence[Tensor], steps: Sequence[int]) -> tuple[Tensor, ...]:
    return tuple(each[:, :, ::step, ::step] for each, step in zip(maps, steps, strict=True))


def write_siblings(model: FasterRCNN, folder: Path) -> None:
    """Write the weights of the two sibling layers."""
    state = model.roi_head.state_dict()
    names = [f"{layer}.{part}" for layer in SIBLING_LAYERS for part in ("weight", "bias")]
    save_file({name: state[name].contiguous() for name in names}, folder / SIBLINGS)


def use_parts(model: FasterRCNN, folder: Path) -> FasterRCNN:
    """``model`` with its weights replaced by the graphs and tensors in ``folder``; anchors and
    normalisation stay. Raises WeightsError for a file that cannot be used."""
    model.trunk = _Trunk(open_network(folder, TRUNK))
    model.rpn_head = _Rpn(open_network(folder, RPN))  # type: ignore[assignment]
    head = model.roi_head
    graph, split = _HeadRunner(open_network(folder, HEAD)), _projections(head)
    if split is not None:
        head.res5 = nn.Sequential(_TailOnMap(open_network(folder, MAP), graph, *split))
    else:  # conv5_1 cannot run on the map
        head.res5, head.linear_pool = nn.Sequential(_Tail(graph)), False
    path = folder / SIBLINGS
    try:
        tensors: Mapping[str, Any] = load_file(path)
        for layer in SIBLING_LAYERS:
            weight, bias = (tensors[f"{layer}.{part}"] for part in ("weight", "bias"))
            if weight.shape != getattr(head, layer).weight.shape:
                raise KeyError(f"{layer} has the shape {tuple(weight.shape)}: of other classes")
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            linear.load_state_dict({"weight": weight, "bias": bias})
            setattr(head, layer, linear.requires_grad_(False))
    except (OSError, SafetensorError, KeyError, RuntimeError, IndexError) as error:
        raise WeightsError(f"{path}: not the sibling layers of a detector: {error}") from error
    return model


class _Trunk(nn.Module):
    """(N, 3, H, W) normalised to (N, C, h, w)."""

    def __init__(self, network: ExportedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]


class _Rpn(nn.Module):
    """(N, C, h, w) to objectness (N, B) and deltas (N, B, 4)."""

    def __init__(self, network: ExportedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        objectness, deltas = self.network(features)
        return objectness, deltas


class _HeadRunner(nn.Module):
    """The inputs of the graph `HEAD` to (P, V, 1, 1), whose mean over the cells `RoIHead` takes."""

    def __init__(self, network: ExportedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *crops: Tensor) -> Tensor:
        parts = zip(*(each.split(CROPS_AT_ONCE) for each in crops), strict=True)
        return torch.cat([self.network(*part)[0] for part in parts])[:, :, None, None]


class _Tail(nn.Module):
    """(P, C, s, s) crops to (P, V, 1, 1)."""

    def __init__(self, graph: _HeadRunner) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, crops: Tensor) -> Tensor:
        return self.graph(*_channels_last(crops))


class _TailOnMap(nn.Module):
    """The same as a `RunsOnMap`, with the graph `MAP` before the pooling."""

    def __init__(
        self, maps: ExportedNetwork, graph: _HeadRunner, first: Bottleneck, shortcut: ConvNorm
    ) -> None:
        super().__init__()
        self.maps, self.graph = maps, graph
        self.stride, self.steps = first.stride, _steps(first, shortcut)

    def forward(self, crops: Tensor) -> Tensor:
        return torch.cat([self._of_crops(part) for part in crops.split(CROPS_AT_ONCE)])

    def _of_crops(self, crops: Tensor) -> Tensor:
        return self.graph(*_channels_last(*_subsampled(self.maps(crops), self.steps)))

    def forward_on_map(self, features: Tensor, pool: Pool) -> Tensor:
        return self.graph(*_channels_last(*map(pool, self.maps(features), self.steps)))
