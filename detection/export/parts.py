"""A detector cut at its crops: graphs for trunk, RPN and conv5_x, and what stands in their places.

N images · B anchors of the image · P regions · C channels · V region features · s bins.

Normalisation, selection, RoIAlign, the two sibling layers and suppression stay outside: they are a
small part of the work, and what refinement, pyramids, ensembles and context work on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import WeightsError
from ..models.faster_rcnn import FasterRCNN
from ..models.roi_head import RoIHead
from .detector import EXAMPLE, IMAGE_SIDES
from .folder import HEAD, RPN, SIBLINGS, TRUNK
from .network import ExportedNetwork, open_network
from .writing import Graph

#: Crops that conv5_x takes together: more gain no time, and each has a megabyte in memory.
CROPS_AT_ONCE = 64
SIBLING_LAYERS = ("cls_logits", "box_deltas")


class HeadGraph(nn.Module):
    """(P, C, s, s) crops to (P, V) region features."""

    def __init__(self, head: RoIHead) -> None:
        super().__init__()
        self.res5 = head.res5

    def forward(self, crops: Tensor) -> Tensor:
        return self.res5(crops).mean(dim=(2, 3))


def part_graphs(model: FasterRCNN) -> dict[str, Graph]:
    """The graphs by name."""
    images = torch.randn(EXAMPLE).to(memory_format=torch.channels_last)
    with torch.no_grad():
        features = model.trunk(images)
    crops = torch.randn(3, features.shape[1], *[model.roi_head.pool_size] * 2)
    cells = {0: "images", 2: "rows", 3: "columns"}
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
            {"features": cells},
            {
                "objectness": "(N, B) float32, anchors of a cell together, row by row",
                "deltas": "(N, B, 4) float32",
            },
        ),
        HEAD: Graph(
            HeadGraph(model.roi_head),
            {"crops": crops},
            {"crops": {0: "regions"}},
            {"features": "(P, V) float32"},
        ),
    }


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
    head.res5 = _Tail(open_network(folder, HEAD))  # type: ignore[assignment]
    head.linear_pool = False  # conv5_1 cannot run on the map
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


class _Tail(nn.Module):
    """(P, C, s, s) crops to (P, V, 1, 1), whose mean over the cells `RoIHead` takes."""

    def __init__(self, network: ExportedNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> Tensor:
        parts = [self.network(part)[0] for part in crops.split(CROPS_AT_ONCE)]
        return torch.cat(parts)[:, :, None, None]
