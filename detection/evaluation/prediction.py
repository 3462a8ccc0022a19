"""A model's predictions for all images of a data set, with autocast and timing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..structures import Batch, Detections

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Answer = TypeVar("Answer", Detections, Tensor)


class Network(Protocol[Answer]):
    """A model with a prediction for each image of a batch."""

    def predict(self, batch: Batch) -> list[Answer]: ...


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
    """Time spent on predictions, without the wait for images to be read."""

    seconds: float = 0.0
    images: int = 0

    @property
    def seconds_per_image(self) -> float | None:
        return self.seconds / self.images if self.images else None


def detect(
    model: Network[Answer],
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: str,
    timer: Timer | None = None,
) -> dict[str, Answer]:
    """The predictions for all images of ``batches`` by image id, on the CPU: detections in
    original pixels, or class scores."""
    found: dict[str, Answer] = {}
    timer = timer or Timer()
    for batch in batches:
        start = time.perf_counter()
        with autocast(device, precision):
            results = model.predict(batch.to(device))
        for image_id, answer in zip(batch.image_ids, results, strict=True):
            found[image_id] = answer.to("cpu")
        timer.seconds += time.perf_counter() - start
        timer.images += len(batch)
    return found
