"""Pixel statistics that weights expect: mean, std and channel order, by origin, and as a layer.

Wrong statistics cost 15 points of mAP and raise no error (VOC .73 -> .58, maskrcnn-benchmark #643),
so they are named after the weights and stored with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PixelStats:
    """Mean and std of pixels in 0..255, in the network's channel ``order``."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: Literal["RGB", "BGR"]


#: ``torchvision``: its ImageNet statistics x 255. ``msra``: what detectron2 and mmdetection use
#: with the MSRA (Caffe) models. ``caffe``: py-faster-rcnn, Detectron and jwyang, same models.
PIXELS: dict[str, PixelStats] = {
    "torchvision": PixelStats((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB"),
    "msra": PixelStats((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "BGR"),
    "caffe": PixelStats((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), "BGR"),
}


class PixelNorm(nn.Module):
    """uint8 RGB to the network's input, as a layer whose constants are saved with the weights.

    Buffers, all (3,) and in the network's channel order: ``mean``, ``std`` and ``channels``, the
    RGB channel that feeds each network channel. The order is a buffer, so that every state
    dict contains it.
    """

    mean: Tensor
    std: Tensor
    channels: Tensor

    def __init__(self, stats: PixelStats) -> None:
        super().__init__()
        for name, tensor in pixel_buffers(stats).items():
            self.register_buffer(name, tensor)

    def forward(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """(N, 3, H, W) uint8 RGB to float32 in channels-last memory, 0 outside each (h, w).

        Padding is zeroed after normalising, as in detectron2: 0 is then the mean colour.
        """
        if len(images) != len(sizes):
            raise ValueError(f"PixelNorm: {len(images)} images but {len(sizes)} sizes")
        out = self.normalise(images)
        for image, (h, w) in zip(out, sizes, strict=True):
            image[:, h:] = 0
            image[:, :, w:] = 0
        return out

    def normalise(self, images: Tensor) -> Tensor:
        """`forward` for (N, 3, H, W) uint8 images without padding."""
        if images.device.type == "cpu" and not _is_traced():
            return self._normalise_rows(images)
        out = images.index_select(1, self.channels).to(
            self.mean.dtype, memory_format=torch.channels_last
        )
        return out.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])

    def _normalise_rows(self, images: Tensor) -> Tensor:
        """The same numbers in half the time: a CPU is slow where only the last three numbers of an
        operand lie beside each other, and here those of a row of pixels do."""
        pixels = images.index_select(1, self.channels).permute(0, 2, 3, 1)
        rows = pixels.flatten(2).to(self.mean.dtype, copy=True)
        width = images.shape[3]
        rows.sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
        return rows.view(pixels.shape).permute(0, 3, 1, 2)


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def pixel_buffers(stats: PixelStats) -> dict[str, Tensor]:
    """The state dict of ``PixelNorm(stats)``."""
    return {
        "mean": torch.tensor(stats.mean),
        "std": torch.tensor(stats.std),
        "channels": torch.tensor([0, 1, 2] if stats.order == "RGB" else [2, 1, 0]),
    }


def name_pixels(mean: Tensor, std: Tensor) -> str | None:
    """The entry of ``PIXELS`` with this mean and std (3,), None when there is none.

    The three entries differ in their means, so the channel order follows.
    """
    if mean.numel() != 3 or std.numel() != 3:
        return None
    actual = torch.cat([mean.flatten(), std.flatten()]).float().cpu()
    for name, stats in PIXELS.items():
        if torch.allclose(actual, torch.tensor(stats.mean + stats.std), atol=1e-3, rtol=0):
            return name
    return None
