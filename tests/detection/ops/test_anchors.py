"""The anchor grid against detectron2's definition, worked by hand."""

from __future__ import annotations

import torch
from resdet.detection.ops.anchors import AnchorGrid, cell_anchors, grid_anchors

SIZES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)


def test_fifteen_anchors_sizes_outermost_ratios_are_height_over_width() -> None:
    cells = cell_anchors(SIZES, RATIOS)
    root = 2**0.5
    by_hand = []
    for size in (32.0, 64.0, 128.0, 256.0, 512.0):
        by_hand += [(size * root, size / root), (size, size), (size / root, size * root)]
    sides = cells[:, 2:] - cells[:, :2]
    torch.testing.assert_close(sides, torch.tensor(by_hand), rtol=1e-6, atol=0)
    assert torch.equal(cells[:, :2], -cells[:, 2:])
    # As printed by detectron2's DefaultAnchorGenerator for size 32.
    printed = [[-22.6274, -11.3137, 22.6274, 11.3137], [-16, -16, 16, 16]]
    torch.testing.assert_close(cells[:2], torch.tensor(printed), atol=1e-4, rtol=0)


def test_cells_go_row_by_row_and_their_centres_are_multiples_of_the_stride() -> None:
    cells = cell_anchors(SIZES, RATIOS)
    anchors = grid_anchors(cells, (2, 3), 16)
    assert anchors.shape == (2 * 3 * 15, 4)
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2).view(6, 15, 2)
    by_hand = torch.tensor([[0, 0], [16, 0], [32, 0], [0, 16], [16, 16], [32, 16]])
    expected = by_hand[:, None].expand(6, 15, 2).float()
    torch.testing.assert_close(centres, expected, atol=1e-4, rtol=0)
    assert torch.equal(anchors[:15], cells)


def test_a_map_without_cells_has_no_anchors() -> None:
    assert grid_anchors(cell_anchors(SIZES, RATIOS), (0, 3), 16).shape == (0, 4)


def test_the_grid_of_a_feature_map() -> None:
    cells = cell_anchors(SIZES, RATIOS)
    grid = AnchorGrid(cells, 16)
    expected = grid_anchors(cells, (2, 3), 16)
    assert torch.equal(grid(torch.zeros(4, 8, 2, 3)), expected)
    assert not grid.state_dict()
