"""The grid of anchors of one feature map (Faster R-CNN paper, section 3.1.1).

A anchors per cell: every size crossed with every ratio, size outermost (detectron2's order).
The centre of cell (i, j) is at (stride * j, stride * i).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """(A, 4) boxes around the origin, px; ``ratios`` are height / width, areas are size²."""
    boxes = []
    for size in sizes:
        for ratio in ratios:
            width = (size * size / ratio) ** 0.5
            height = width * ratio
            boxes.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(boxes, dtype=torch.float32)


def grid_anchors(cells: Tensor, grid: tuple[int, int], stride: int) -> Tensor:
    """(A, 4) cell anchors to (h * w * A, 4), row by row, all anchors of a cell together."""
    height, width = grid
    y = torch.arange(height, device=cells.device, dtype=torch.float32) * stride
    x = torch.arange(width, device=cells.device, dtype=torch.float32) * stride
    centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)
    return (centres[:, :, None] + cells).reshape(-1, 4)


class AnchorGrid(nn.Module):
    """The anchors of feature maps with one cell every ``stride`` pixels; not in checkpoints."""

    cells: Tensor

    def __init__(self, cells: Tensor, stride: int) -> None:
        super().__init__()
        self.register_buffer("cells", cells, persistent=False)
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) to the (h * w * A, 4) anchors of each image."""
        return grid_anchors(self.cells, (features.shape[2], features.shape[3]), self.stride)
