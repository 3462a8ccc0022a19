"""Where does a localizer find the objects of a data set: the one evaluation, in training and
afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..datasets.catalog import DataSplit
from ..datasets.crops import WholePicture
from ..datasets.labelled_loader import LabelledDataset, labelled_test_loader
from .build_localizer import image_rules
from .engine.distributed import Group
from .evaluation.run import Timer, autocast
from .inference.locate import LocationPipeline
from .localizer_schema import AnyLocalizerConfig
from .structures import LabelledBatch, Located

Answer = TypeVar("Answer")


def locate_split(
    pipeline: LocationPipeline,
    split: DataSplit,
    config: AnyLocalizerConfig,
    group: Group,
    progress: Console | None = None,
    timer: Timer | None = None,
) -> dict[str, Located] | None:
    """The boxes of every picture by image id; each process takes its share, the main one gets all
    and the others None. The models must be in evaluation mode. ``timer`` gets what this process
    spent on its share."""
    precision = config.test.precision

    def locate(pixels: np.ndarray, label: int) -> Located:
        with autocast(pipeline.device, precision):
            return pipeline.locate(pixels, label)

    return group.gather(_each(locate, split, config, group, "evaluating", progress, timer))


def propose_split(
    pipeline: LocationPipeline,
    split: DataSplit,
    config: AnyLocalizerConfig,
    group: Group,
    progress: Console | None = None,
) -> dict[str, Tensor] | None:
    """The proposals (P, 4) of every picture for its own class, likewise."""
    return group.gather(
        _each(pipeline.propose, split, config, group, "proposing regions", progress, None)
    )


def _each(
    answer: Callable[[np.ndarray, int], Answer],
    split: DataSplit,
    config: AnyLocalizerConfig,
    group: Group,
    doing: str,
    progress: Console | None,
    timer: Timer | None,
) -> dict[str, Answer]:
    """What ``answer(pixels, label)`` says of this process's share of the pictures."""
    dataset = LabelledDataset(split.records, WholePicture(), rules=image_rules(config))
    batches: Iterable[LabelledBatch] = labelled_test_loader(
        dataset,
        batch_size=1,
        workers=config.data.workers,
        rank=group.rank,
        world=group.world,
    )
    if progress is not None and group.is_main:
        batches = track(batches, doing, console=progress, transient=True)
    timer = timer or Timer()
    answers = {}
    for batch in batches:
        start = time.perf_counter()
        pixels = batch.images[0].permute(1, 2, 0).numpy()
        answers[batch.image_ids[0]] = answer(pixels, int(batch.labels[0]))
        timer.seconds += time.perf_counter() - start
        timer.images += 1
    return answers
