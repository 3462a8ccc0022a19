"""Chunks of regions that torchvision's pooling kernels can count.

The CUDA kernels count elements in 32-bit integers. Above 2^31 their loops do not run: they return
zeros, and zero gradients, without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError

#: Largest number of elements of a tensor that a kernel gets or returns. Half of the range: the
#: loops add their stride of 2^21 before they compare, and 2^30 float32 are already 4 GiB.
MAX_ELEMENTS = 2**30

#: ``kernel(maps, boxes)``: (N, C, H, W) and N x (P_i, 4) to (P, C, s, s).
Kernel = Callable[[Tensor, Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Chunk:
    """Consecutive regions: ``spans[i]`` (start, stop) are those of image ``first`` + i."""

    first: int
    spans: tuple[tuple[int, int], ...]

    def of(self, features: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The maps and the boxes of this chunk."""
        images = slice(self.first, self.first + len(self.spans))
        spans = zip(boxes[images], self.spans, strict=True)
        return features[images], [regions[start:stop] for regions, (start, stop) in spans]


def plan_chunks(
    counts: Sequence[int], *, per_region: int, per_image: int, limit: int = MAX_ELEMENTS
) -> list[Chunk]:
    """Divide ``counts`` regions of each image into the fewest consecutive chunks with at most
    ``limit`` elements in their maps (``per_image`` each) and in their crops (``per_region`` each).

    Raises:
        ConfigError: one map or one crop exceeds the limit.
    """
    regions, images = limit // per_region, limit // per_image
    if not images:
        raise ConfigError(_too_large("the map of one image", per_image, limit, "image sizes"))
    if not regions:
        raise ConfigError(_too_large("the crop of one region", per_region, limit, "roi.pool_size"))
    chunks: list[Chunk] = []
    spans: list[tuple[int, int]] = []
    room = regions
    for image, count in enumerate(counts):
        start = 0
        while True:
            if len(spans) == images or (room == 0 and start < count):
                chunks.append(Chunk(image - len(spans) + (start > 0), tuple(spans)))
                spans, room = [], regions
            stop = min(count, start + room)
            spans.append((start, stop))
            room -= stop - start
            start = stop
            if start == count:
                break
    return [*chunks, Chunk(len(counts) - len(spans), tuple(spans))]


def in_chunks(kernel: Kernel, features: Tensor, boxes: Sequence[Tensor], *, bins: int) -> Tensor:
    """``kernel(features, boxes)``, whose crops have ``bins`` per channel, in as many calls as
    32-bit counters need: (P, C, s, s), float32 or float64 within the kernel."""
    plan = plan_chunks(
        [len(regions) for regions in boxes],
        per_region=features.shape[1] * bins,
        per_image=features[0].numel(),
        limit=MAX_ELEMENTS,
    )
    parts = [_pool(kernel, *chunk.of(features, boxes)) for chunk in plan]
    crops = parts[0] if len(parts) == 1 else torch.cat(parts)
    return crops.contiguous(memory_format=torch.channels_last)


def _pool(kernel: Kernel, features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """The crops in the type of the features; a chunk's large temporaries end here."""
    exact = features.to(torch.promote_types(features.dtype, torch.float32))
    crops = kernel(exact, [regions.to(exact.dtype) for regions in boxes])
    return crops.to(features.dtype).contiguous(memory_format=torch.channels_last)


def _too_large(what: str, elements: int, limit: int, lower: str) -> str:
    return f"RoI pooling: {what} has {elements} elements, a kernel takes {limit}; lower {lower}"
