"""A model's predictions for all images of a data set, with autocast and timing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ...backbones.speed import unmeasured
from ..processor import bf16_gain, computes_bf16
from ..structures import Batch, Detections

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

#: Images from which on a run is told what is faster; bf16 if it is at least so many times as fast.
MANY, WORTH = 20, 1.2

Prediction = TypeVar("Prediction", Detections, Tensor)


class Network(Protocol[Prediction]):
    """A model with a prediction for each image of a batch."""

    def predict(self, batch: Batch) -> list[Prediction]: ...


def resolved(precision: str, device: torch.device) -> str:
    """What ``auto`` means on ``device``; any other precision is as it is."""
    if precision != "auto":
        return precision
    return "bf16" if computes_bf16(str(device)) else "fp32"


def emulation(setting: str, precision: str, device: torch.device) -> list[str]:
    """A warning where ``setting`` asks for bf16 that ``device`` emulates."""
    if precision != "bf16" or computes_bf16(str(device)):
        return []
    return [
        f"WARNING: {setting}=bf16: {device} has no bf16 instructions and emulates them, which is "
        f"slower than fp32; {setting}=auto takes bf16 only where it is computed"
    ]


def gain(setting: str, precision: str, device: torch.device, images: int) -> list[str]:
    """What would make ``images`` in fp32 faster on this processor, where they are enough: bf16
    where it computes that, by a measurement of a tenth of a second, else `resdet doctor --speed`.
    """
    if resolved(precision, device) != "fp32" or device.type != "cpu" or images < MANY:
        return []
    if not computes_bf16("cpu"):
        return unmeasured()
    factor = bf16_gain()
    if factor < WORTH:
        return []
    return [
        f"{setting}=bf16 would compute convolutions {factor:.1f} times as fast on this processor "
        "(measured), with slightly other scores"
    ]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Run convolutions and matrix products in ``precision``; box arithmetic stays float32."""
    precision = resolved(precision, device)
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the block; restores the previous mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass
class Timer:
    """Time spent on predictions, excluding the reading of images."""

    seconds: float = 0.0
    images: int = 0

    @contextmanager
    def measure(self, images: int = 0) -> Iterator[None]:
        """Add the time of the block, and ``images``."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
        self.images += images

    @property
    def seconds_per_image(self) -> float | None:
        return self.seconds / self.images if self.images else None


def predict_batches(
    model: Network[Prediction], batches: Iterable[Batch], *, device: torch.device, timer: Timer
) -> Iterator[tuple[str, Prediction]]:
    """(image id, prediction) of all images of ``batches``, on the CPU: detections in original
    pixels, or class scores."""
    for batch in batches:
        with timer.measure(len(batch)):
            predictions = [prediction.to("cpu") for prediction in model.predict(batch.to(device))]
        yield from zip(batch.image_ids, predictions, strict=True)
