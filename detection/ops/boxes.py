"""Arithmetic on boxes: area, overlap, regression deltas, clipping.

Boxes are (..., 4) float32 (x1, y1, x2, y2) in continuous pixels: the width is x2 - x1, without + 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Largest log-scale of a delta: 1000 px from a 16-px anchor (detectron2, Detectron).
SCALE_CLAMP = math.log(1000.0 / 16)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) to (...), px²."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """(A, 4) and (B, 4) to (A, B), px²."""
    top_left = torch.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    return (bottom_right - top_left).clamp_(min=0).prod(dim=-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union: (A, 4) and (B, 4) to (A, B); 0 where both are empty."""
    shared = intersection(first, second)
    union = area(first)[:, None] + area(second)[None, :] - shared
    return torch.where(shared > 0, shared / union, torch.zeros_like(shared))


def covered(boxes: Tensor, regions: Tensor) -> Tensor:
    """The largest share of each box's area inside one region: (A, 4) and (B, 4) to (A,)."""
    if len(regions) == 0:
        return boxes.new_zeros(len(boxes))
    return (intersection(boxes, regions) / area(boxes)[:, None].clamp(min=1e-6)).amax(dim=1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut (..., 4) to an image of ``size`` (h, w)."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(
        [x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], dim=-1
    )


def encode(
    targets: Tensor, references: Tensor, weights: tuple[float, float, float, float]
) -> Tensor:
    """Deltas that take references (P, 4) to targets (P, 4) (R-CNN's parametrisation)."""
    centre_t, size_t = _centre_size(targets)
    centre_r, size_r = _centre_size(references)
    deltas = torch.cat([(centre_t - centre_r) / size_r, torch.log(size_t / size_r)], dim=-1)
    return deltas * deltas.new_tensor(weights)


def decode(
    deltas: Tensor, references: Tensor, weights: tuple[float, float, float, float]
) -> Tensor:
    """Apply deltas (P, ..., 4) to references (P, 4), in float32 whatever the deltas' type.

    The scale deltas are clamped from above only, as in detectron2, so that the exponential of an
    untrained layer's output stays finite.
    """
    deltas = deltas.float() / torch.tensor(weights, device=deltas.device)
    middle = (1,) * (deltas.dim() - 2)
    centre_r, size_r = (part.unflatten(0, (-1, *middle)) for part in _centre_size(references))
    centre = centre_r + deltas[..., :2] * size_r
    half = size_r * deltas[..., 2:].clamp(max=SCALE_CLAMP).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size
