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

    @contextmanager
    def measure(self, images: int = 0) -> Iterator[None]:
        """Adds the time inside, and ``images``."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
        self.images += images

    @property
    def seconds_per_image(self) -> float | None:
        return self.seconds / self.images if self.images else None


def predict_batches(
    model: Network[Answer], batches: Iterable[Batch], *, device: torch.device, timer: Timer
) -> Iterator[tuple[str, Answer]]:
    """(image id, answer) for all images of ``batches``, on the CPU: detections in original pixels,
    or class scores."""
    for batch in batches:
        with timer.measure(len(batch)):
            answers = [answer.to("cpu") for answer in model.predict(batch.to(device))]
        yield from zip(batch.image_ids, answers, strict=True)
