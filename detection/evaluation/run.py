"""What a detector finds on a data set, shared out over the processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ..structures import Batch, Detections

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Network(Protocol):
    """What can be evaluated."""

    def predict(self, batch: Batch) -> list[Detections]: ...


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Run convolutions and products in ``precision``; box arithmetic stays float32 by itself."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode that was before outside."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass
class Timer:
    """What detecting cost, without the wait for pictures to be read."""

    seconds: float = 0.0
    images: int = 0

    @property
    def seconds_per_image(self) -> float | None:
        return self.seconds / self.images if self.images else None


def detect(
    model: Network,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: str,
    timer: Timer | None = None,
) -> dict[str, Detections]:
    """Detections of every image of ``batches`` by image id, in original pixels, on the CPU."""
    found = {}
    timer = timer or Timer()
    for batch in batches:
        start = time.perf_counter()
        with autocast(device, precision):
            results = model.predict(batch.to(device))
        for image_id, detections in zip(batch.image_ids, results, strict=True):
            found[image_id] = detections.to("cpu")
        timer.seconds += time.perf_counter() - start
        timer.images += len(batch)
    return found
