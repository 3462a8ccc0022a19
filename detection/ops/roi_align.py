"""RoI pooling: features of P regions as crops of s x s bins.

N images · C channels · H, W cells · P regions · s bins per side.

RoIAlign samples bilinearly, so a bin is a weighted sum of cells, and the weights of a region are
the product of one factor per axis. On a CPU that makes a region two small matrix products on
channels-last features (`_SeparableAlign`); on a GPU torchvision's kernel does the same work, except
in deterministic mode: the kernel adds gradients in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .chunks import in_chunks


def roi_align(
    features: Tensor,
    boxes: Sequence[Tensor],
    *,
    size: int,
    stride: int,
    sampling_ratio: int,
    step: int = 1,
) -> Tensor:
    """(N, C, H, W) and N x (P_i, 4) px to (P, C, s', s'), half-pixel aligned (detectron2's V2).

    ``sampling_ratio`` 0 takes as many samples as cells fit into a bin. ``step`` keeps every step-th
    bin of the s x s grid: s' = ceil(s / step).
    """
    if features.device.type == "cpu" or torch.are_deterministic_algorithms_enabled():
        return _align_separably(features, boxes, size, stride, sampling_ratio, step)
    return _align_by_kernel(features, boxes, size, stride, sampling_ratio, step)


def roi_pool(
    features: Tensor, boxes: Sequence[Tensor], *, size: int, stride: int, step: int = 1
) -> Tensor:
    """RoIPool of Fast R-CNN (max over rounded bins), with the shapes of `roi_align`."""
    import torchvision.ops  # takes more than a second (see `kernels`)

    def pool(maps: Tensor, regions: Sequence[Tensor]) -> Tensor:
        crops = torchvision.ops.roi_pool(maps, list(regions), size, 1.0 / stride)
        return crops[..., ::step, ::step]

    return in_chunks(pool, features, boxes, bins=size * size)


def _align_by_kernel(
    features: Tensor,
    boxes: Sequence[Tensor],
    size: int,
    stride: int,
    sampling_ratio: int,
    step: int,
) -> Tensor:
    """`roi_align` by torchvision's kernel, on the rows of bins that are kept.

    Their columns are all pooled: neighbouring threads read neighbouring cells. Where ``step`` is
    not 1 and bins are a whole number of cells high, rounding may add a sample to an adaptive row.
    """
    import torchvision.ops  # late, as above

    rows = len(range(0, size, step))

    def pool(maps: Tensor, regions: Sequence[Tensor]) -> Tensor:
        bands = [_bands(own, size, step) for own in regions]
        height = 1 if step > 1 else size
        crops = torchvision.ops.roi_align(
            maps, bands, (height, size), 1.0 / stride, sampling_ratio, aligned=True
        )
        if step == 1:
            return crops
        count = sum(len(own) for own in regions)
        return crops[:, :, 0, ::step].unflatten(0, (count, rows)).transpose(1, 2)

    return in_chunks(pool, features, boxes, bins=rows * size)


def _bands(boxes: Tensor, size: int, step: int) -> Tensor:
    """(P, 4) to (P x s', 4): each step-th of ``size`` bands of equal height; itself for 1."""
    if step == 1:
        return boxes
    x1, y1, x2, y2 = boxes.unbind(1)
    height = (y2 - y1)[:, None] / size
    top = y1[:, None] + height * torch.arange(0, size, step, device=boxes.device)
    left, right = (side[:, None].expand_as(top) for side in (x1, x2))
    return torch.stack([left, top, right, top + height], dim=-1).flatten(0, 1)


def _align_separably(
    features: Tensor,
    boxes: Sequence[Tensor],
    size: int,
    stride: int,
    sampling_ratio: int,
    step: int,
) -> Tensor:
    images = torch.repeat_interleave(
        torch.arange(len(boxes)), torch.tensor([len(b) for b in boxes], dtype=torch.int64)
    )
    cells = torch.cat(list(boxes)).float().cpu() / stride - 0.5
    height, width = features.shape[2:]
    rows = _axis_weights(cells[:, 1], cells[:, 3], size, height, sampling_ratio)[:, ::step]
    columns = _axis_weights(cells[:, 0], cells[:, 2], size, width, sampling_ratio)[:, ::step]
    maps = features.permute(0, 2, 3, 1).contiguous()
    windows = _windows(images, rows, columns)
    with torch.autocast(maps.device.type, enabled=False):
        crops = _SeparableAlign.apply(maps, windows, rows.to(maps.device), columns.to(maps.device))
    return crops.permute(0, 3, 1, 2)


def _axis_weights(
    start: Tensor, end: Tensor, size: int, length: int, sampling_ratio: int
) -> Tensor:
    """The weight of each of ``length`` cells in each bin along one axis: (P, size, length).

    ``start`` and ``end`` (P,) are in cells. Samples more than one cell outside the map have no
    weight, those at most one outside take the border cell, as in Detectron's kernel.
    """
    if len(start) == 0:
        return start.new_zeros(0, size, length)
    bin_length = (end - start) / size
    if sampling_ratio > 0:
        counts = torch.full_like(start, sampling_ratio)
    else:
        counts = bin_length.ceil().clamp(min=0)  # none in a region without extent
    sample = torch.arange(int(counts.max()), dtype=start.dtype)
    offset = (sample + 0.5) / counts[:, None].clamp(min=1)
    bins = torch.arange(size, dtype=start.dtype)
    position = (
        start[:, None, None] + (bins[:, None] + offset[:, None, :]) * bin_length[:, None, None]
    )
    used = (sample < counts[:, None])[:, None, :] & (position >= -1) & (position <= length)
    share = used / counts[:, None, None].clamp(min=1)
    position = position.clamp(0, length - 1)
    low = position.floor().clamp(max=max(length - 2, 0))
    high_part = position - low
    weights = start.new_zeros(len(start), size, length + 1)
    weights.scatter_add_(2, low.long(), share * (1 - high_part))
    weights.scatter_add_(2, low.long() + 1, share * high_part)
    return weights[..., :length]


def _windows(images: Tensor, rows: Tensor, columns: Tensor) -> list[tuple[int, ...]]:
    """The image and the cells (n, y1, y2, x1, x2) that each region reads; empty where it lies
    outside the map."""
    spans = [images]
    for weights in (rows, columns):
        used = (weights > 0).any(dim=1)
        length = used.shape[1]
        first = used.int().argmax(dim=1)
        last = length - used.flip(1).int().argmax(dim=1)
        spans += [first, torch.where(used.any(dim=1), last, first)]
    return list(zip(*(span.tolist() for span in spans), strict=True))


class _SeparableAlign(torch.autograd.Function):
    """crop[i, j] = sum over y, x of rows[i, y] * columns[j, x] * map[y, x], region by region.

    Only the window of the map that a region touches is read and, backwards, written. Products of
    half-precision maps are in float32: regions have many shapes, for each of which a CPU would make
    a kernel of its own, which takes longer than the product.
    """

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, windows: list[tuple[int, ...]], rows: Tensor, columns: Tensor
    ) -> Tensor:
        """(N, H, W, C), P windows, (P, s, H), (P, s, W) to (P, s, s, C)."""
        channels, size = maps.shape[3], rows.shape[1]
        exact = torch.promote_types(maps.dtype, torch.float32)
        rows, columns, wide = rows.to(exact), columns.to(exact), maps.to(exact)
        crops = maps.new_empty(len(windows), size, size, channels)
        for region, (image, y1, y2, x1, x2) in enumerate(windows):
            if y1 == y2 or x1 == x2:
                crops[region].zero_()
                continue
            window = wide[image, y1:y2, x1:x2].reshape(y2 - y1, -1)
            lines = (rows[region, :, y1:y2] @ window).view(size, x2 - x1, channels)
            crops[region] = columns[region, :, x1:x2] @ lines
        ctx.save_for_backward(rows, columns)
        ctx.windows, ctx.shape = windows, maps.shape
        return crops

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns = ctx.saved_tensors
        crops = grads[0].contiguous()
        # Hundreds of regions overlap; in bfloat16 their sum would lose small addends.
        maps = crops.new_zeros(ctx.shape, dtype=rows.dtype)
        for region, (image, y1, y2, x1, x2) in enumerate(ctx.windows):
            if y1 == y2 or x1 == x2:
                continue
            lines = columns[region, :, x1:x2].T @ crops[region].to(rows.dtype)
            window = rows[region, :, y1:y2].T @ lines.flatten(1)
            maps[image, y1:y2, x1:x2] += window.view(y2 - y1, x2 - x1, -1)
        return maps.to(crops.dtype), None, None, None
