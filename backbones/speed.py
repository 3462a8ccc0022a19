"""How fast this processor convolves, and from how many channels on by Winograd's method.

`resdet doctor --speed` measures it once and keeps the answer in a file of the user, so that results
do not depend on what else the machine does while a model is loaded.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from ..detection.errors import ConfigError
from ..detection.processor import cpu_name
from .winograd import transformed, winograd

#: (N maps, C input channels, O output channels, kernel, h, w) of layers of a C4 detector at
#: 600 x 1000; several maps are crops of regions.
LAYERS = (
    (1, 64, 256, 1, 150, 250),
    (1, 128, 128, 3, 75, 125),
    (1, 256, 256, 3, 38, 63),
    (1, 1024, 256, 1, 38, 63),
    (1, 512, 512, 3, 38, 63),
    (64, 512, 512, 3, 7, 7),
    (1, 1024, 1024, 3, 38, 63),
)
#: The measured speed-up from which on Winograd's method is used.
PAYS = 1.1
REPEATS = 5
#: Numbers that take the place of everything in a processor's caches, 128 MB.
CACHES = 2**25


@dataclass(frozen=True)
class LayerSpeed:
    """Seconds of one layer, and the operations of the direct convolution; ``winograd`` is None for
    a 1x1 convolution."""

    layer: tuple[int, int, int, int, int, int]
    operations: float
    direct: float
    winograd: float | None

    @property
    def speedup(self) -> float:
        """Direct / Winograd; 0 where there is none."""
        return self.direct / self.winograd if self.winograd else 0.0


@torch.inference_mode()
def measure_layers() -> tuple[list[LayerSpeed], float]:
    """The `LAYERS` in float32, and the processor's peak: the best operations a second of them and
    of a product of square matrices. It takes some seconds."""
    layers = [_measure(layer) for layer in LAYERS]
    square = torch.ones(1024, 1024)
    rates = [2 * 1024**3 / _seconds(partial(torch.mm, square, square))]
    return layers, max(rates + [each.operations / each.direct for each in layers])


def _measure(layer: tuple[int, int, int, int, int, int]) -> LayerSpeed:
    count, inputs, outputs, kernel, height, width = layer
    maps = torch.randn(count, inputs, height, width).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, kernel, kernel)
    weight = weight.contiguous(memory_format=torch.channels_last)
    direct = _seconds(partial(F.conv2d, maps, weight, padding=kernel // 2))
    fast = _seconds(partial(winograd, maps, transformed(weight))) if kernel == 3 else None
    return LayerSpeed(layer, 2.0 * weight.numel() * count * height * width, direct, fast)


def _seconds(call: Callable[[], object]) -> float:
    """The shortest of `REPEATS` calls after one that is not counted, in processor time of each
    thread: other programs on the machine change it less than the time that passes.

    As between the layers of a network, what a call reads is not in the caches any more.
    """
    taken, others = [], torch.ones(CACHES)
    for _ in range(REPEATS + 1):
        others.add_(1)
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken[1:]) / torch.get_num_threads()


def least_channels(layers: Sequence[LayerSpeed]) -> int | None:
    """The fewest channels from which on Winograd's method pays in all measured layers, if any."""
    slowest: dict[int, float] = {}
    for each in layers:
        if each.winograd is not None:
            channels = each.layer[1]
            slowest[channels] = min(each.speedup, slowest.get(channels, each.speedup))
    least = None
    for channels in sorted(slowest, reverse=True):
        if slowest[channels] < PAYS:
            break
        least = channels
    return least


def table_file() -> Path:
    """The file of the answer: ``speed.json`` of ``resdet`` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "resdet" / "speed.json"


def keep(channels: int | None) -> Path:
    """Write the answer for `winograd_channels`; raises ConfigError where that is not possible."""
    path = table_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_machine() | {"winograd_channels": channels}) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    return path


def winograd_channels() -> int | None:
    """The answer that is kept for this processor, number of threads and version of torch."""
    channels = _kept().get("winograd_channels")
    return channels if isinstance(channels, int) else None


def unmeasured() -> list[str]:
    """A line that tells of `resdet doctor --speed` where it has no answer for this machine yet."""
    if _kept():
        return []
    return [
        "`resdet doctor --speed` finds out, once, whether this processor can compute 3x3 "
        "convolutions in fp32 faster"
    ]


def _kept() -> dict[str, object]:
    """What the file has of this machine; nothing else."""
    try:
        kept = json.loads(table_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(kept, dict) or {name: kept.get(name) for name in _machine()} != _machine():
        return {}
    return kept


def _machine() -> dict[str, object]:
    return {
        "processor": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
