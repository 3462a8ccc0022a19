"""Which numbers change when another system's weights become ours, and how?

A anchors per cell · K classes. Every function takes the rows (output channels) of a weight or bias,
so that one call serves both, and computes the same network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...detection.errors import WeightsError
from ..norm import EPS


def sigmoid_rows(rows: Tensor) -> Tensor:
    """(2A, ...) background rows then object rows of a softmax to the (A, ...) rows of a sigmoid.

    softmax(b, f)[1] = sigmoid(f - b).
    """
    background, foreground = rows.chunk(2)
    return foreground - background


def size_major(rows: Tensor, *, anchors: int, ratios: int) -> Tensor:
    """(A x c, ...) rows counted ratio x sizes + size, to size x ratios + ratio."""
    by_ratio = rows.unflatten(0, (ratios, anchors // ratios, len(rows) // anchors))
    return by_ratio.transpose(0, 1).flatten(0, 2)


def background_last(rows: Tensor) -> Tensor:
    """(K + 1, ...) with the background's row first, to last."""
    return rows.roll(-1, 0)


def object_boxes(rows: Tensor, *, classes: int, background: str) -> Tensor:
    """(4, ...), (4K, ...) or (4(K + 1), ...) to the first two; background boxes mean nothing.

    Raises:
        WeightsError: any other number of rows.
    """
    if len(rows) in (4, 4 * classes):
        return rows
    if len(rows) != 4 * (classes + 1):
        raise WeightsError(f"{len(rows)} box rows fit neither 4 nor {classes} classes x 4")
    return rows[4:] if background == "first" else rows[:-4]


def norm_from_affine(scale: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """The statistics (C,) of a frozen norm that multiplies by ``scale`` and adds ``shift``.

    Mean 0 and variance 1 - eps make it exact: 1 - eps + eps is 1 in float32 too.
    """
    return {
        "weight": scale,
        "bias": shift,
        "running_mean": torch.zeros_like(scale),
        "running_var": torch.ones_like(scale) - EPS,
    }
