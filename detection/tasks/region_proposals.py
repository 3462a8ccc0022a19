"""Proposals of the first stage for the second: made image by image, kept in the run folder so that
a resumed run has the same.

P proposals of one image, for its own class.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import DataError
from ..evaluation.prediction import Timer
from ..files import atomic_write
from ..structures import Batch, Record

Answer = TypeVar("Answer")

FILE = "proposals.safetensors"


def write_proposals(proposals: Mapping[str, Tensor], path: Path) -> None:
    """(P, 4) float32 boxes in original pixels by image id; written whole or not at all."""
    with atomic_write(path) as part:
        save_file({name: boxes.contiguous() for name, boxes in proposals.items()}, part)


def read_proposals(path: Path, records: Iterable[Record]) -> dict[str, Tensor]:
    """Those of the ``records``; raises DataError, naming the file, where one has none."""
    try:
        proposals = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read: {error}; delete it to make it anew") from error
    missing = [record.image_id for record in records if record.image_id not in proposals]
    if missing:
        raise DataError(
            f"{path}: no proposals for {len(missing)} images, the first: {missing[0]}; "
            "delete it to make it anew"
        )
    bad = [name for name, boxes in proposals.items() if not _fits(boxes)]
    if bad:
        raise DataError(f"{path}: {bad[0]} has no (P, 4) float32 boxes; delete it to make it anew")
    return proposals


def _fits(boxes: Tensor) -> bool:
    return boxes.dim() == 2 and boxes.shape[1] == 4 and boxes.dtype == torch.float32


def each_image(
    answer: Callable[[np.ndarray, int], Answer],
    batches: Iterable[Batch],
    timer: Timer | None = None,
) -> dict[str, Answer]:
    """``answer(pixels, label)`` by image id, for batches of one whole image."""
    timer = timer or Timer()
    answers = {}
    for batch in batches:
        start = time.perf_counter()
        pixels = batch.images[0].permute(1, 2, 0).numpy()
        answers[batch.image_ids[0]] = answer(pixels, int(batch.labels[0]))
        timer.seconds += time.perf_counter() - start
        timer.images += 1
    return answers
