"""Where does a localizer find the objects of a data set: the one evaluation, in training and
afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ...datasets.catalog import DataSplit
from ...datasets.loading.crops import UncroppedImage
from ...datasets.loading.dataset import ClassificationDataset, eval_loader
from ..config.localizer import AnyLocalizerConfig
from ..engine.distributed import Group
from ..evaluation.localization import Localization, evaluate_located
from ..evaluation.run import Timer, autocast
from ..inference.localize import LocationPipeline
from ..structures import Batch, Located
from .localizer import image_rules

Answer = TypeVar("Answer")


def locate_split(
    pipeline: LocationPipeline,
    split: DataSplit,
    config: AnyLocalizerConfig,
    group: Group,
    progress: Console | None = None,
    timer: Timer | None = None,
) -> dict[str, Located] | None:
    """The boxes of every image by image id; each process takes its share, the main one gets all
    and the others None. The models must be in evaluation mode. ``timer`` gets what this process
    spent on its share."""
    answers = _each(pipeline, pipeline.locate, split, config, group, "evaluating", progress, timer)
    return group.gather(answers)


def propose_split(
    pipeline: LocationPipeline,
    split: DataSplit,
    config: AnyLocalizerConfig,
    group: Group,
    progress: Console | None = None,
) -> dict[str, Tensor] | None:
    """The proposals (P, 4) of every image for its own class, likewise."""
    answers = _each(pipeline, pipeline.propose, split, config, group, "proposing", progress, None)
    return group.gather(answers)


def evaluate_split(
    found: Mapping[str, Located],
    split: DataSplit,
    config: AnyLocalizerConfig,
    baseline: Mapping[str, Located] | None = None,
) -> Localization:
    """The errors on one split.

    Truncated images that ``data.on_truncated: skip`` left out are not counted; a note tells.
    """
    records = split.records
    if config.data.on_truncated == "skip":
        records = tuple(record for record in records if record.image_id in found)
    left_out = len(split.records) - len(records)
    evaluation = evaluate_located(found, records, split.classes, baseline=baseline)
    if not left_out:
        return evaluation
    note = f"{left_out} truncated image(s) left out (data.on_truncated: skip)"
    return replace(evaluation, notes=(*evaluation.notes, note))


def _each(
    pipeline: LocationPipeline,
    answer: Callable[[np.ndarray, int], Answer],
    split: DataSplit,
    config: AnyLocalizerConfig,
    group: Group,
    doing: str,
    progress: Console | None,
    timer: Timer | None,
) -> dict[str, Answer]:
    """What ``answer(pixels, label)`` says of this process's share of the images."""
    dataset = ClassificationDataset(split.records, UncroppedImage(), rules=image_rules(config))
    batches: Iterable[Batch] = eval_loader(
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
        with autocast(pipeline.device, config.test.precision):
            answers[batch.image_ids[0]] = answer(pixels, int(batch.labels[0]))
        timer.seconds += time.perf_counter() - start
        timer.images += 1
    return answers
