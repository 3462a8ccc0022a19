"""Accuracy, speed, memory and size of several detectors, checkpoints or exports, side by side."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...datasets.catalog import DataSplit
from ...datasets.image import read_image
from ..config.data_rules import image_rules
from ..config.detector import DetectorConfig
from ..config.files import read_config
from ..errors import ConfigError
from ..inference.pipeline import Prepared
from .base import ALONE
from .checkpoints import Checkpoint, load_members, read_applicable
from .detector import DETECTION
from .detector_export import Detector
from .eval_split import read_eval_split
from .named_paths import NamedPaths
from .quantizing import GATED

BATCHES = (1, 4)
#: Different images that are timed.
TIMED = 8
STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Measured:
    """The figures of one detector: ``metrics`` of the validation split by name, images a second by
    batch size, seconds until it is loaded, bytes of memory that loading and predicting added (None
    where the system does not tell), and bytes on the disk."""

    path: Path
    metrics: dict[str, float]
    images_per_second: dict[int, float]
    load_seconds: float
    memory: int | None
    size: int


@dataclass(frozen=True)
class _Entry:
    loaded: Detector
    pipeline: Any
    load_seconds: float
    memory: int | None


def benchmark(
    paths: Sequence[Path], cfg: str | None = None, *, rounds: int = 5, trust_paths: bool = False
) -> list[Measured]:
    """The figures of the detectors, in their order, on the validation split of the config ``cfg``,
    or of the first one. Each has the settings of testing of its own config.

    Times are those of networks, selection and suppression, without the reading of images: medians
    of ``rounds``, in each of which every detector has its turn.

    Raises:
        WeightsError: unusable weights.
        ConfigError: no validation images.
        DataError: the classes of two of them, or of the data, differ.
    """
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: at least one")
    first, *others = [read_applicable(path, DETECTION) for path in paths]
    checkpoints = [first, *(other.ordered_as(first.classes, str(first.path)) for other in others)]
    (leader,) = load_members([first], trust_paths=trust_paths)
    split, data = _validation(leader, cfg)
    images = _of_one_size(split)
    entries = [_load(checkpoint, images) for checkpoint in checkpoints]
    seconds = _time(entries, images, rounds)
    found = []
    for path, entry, times in zip(paths, entries, seconds, strict=True):
        config = entry.loaded.config.model_copy(update={"data": data})
        predicted = DETECTION.predict_split(entry.pipeline, config, split, ALONE)
        assert predicted is not None  # noqa: S101  the only process gets all
        metrics = DETECTION.evaluate(predicted, split, config).metrics
        found.append(
            Measured(
                path,
                {name: float(metrics[name]) for name in GATED},
                {batch: batch / statistics.median(each) for batch, each in times.items()},
                entry.load_seconds,
                entry.memory,
                _size(path),
            )
        )
    return found


def _validation(leader: Detector, cfg: str | None) -> tuple[DataSplit, Any]:
    if cfg is not None:
        data = read_config(DetectorConfig, cfg).data
        config = leader.config.model_copy(update={"data": data})
        leader = replace(leader, config=config, named=NamedPaths())
    split = read_eval_split(DETECTION, leader, "val")
    return split, leader.config.data


def _of_one_size(split: DataSplit) -> list[Path]:
    """Images of the commonest size, so that they can share a batch; as many as fill the batches,
    some of them repeated if there are too few."""
    groups: dict[tuple[int, int], list[Path]] = defaultdict(list)
    for record in split.records:
        groups[record.size].append(record.path)
    commonest = max(groups.values(), key=len)
    return [commonest[index % len(commonest)] for index in range(TIMED)]


def _load(checkpoint: Checkpoint, images: Sequence[Path]) -> _Entry:
    gc.collect()
    before, start = _resident(), time.perf_counter()
    # The validation data are read already: no path that the weights name is opened.
    (loaded,) = load_members([checkpoint])
    pipeline = DETECTION.pipeline([loaded]).eval()
    seconds = time.perf_counter() - start
    pipeline.detect(_prepared(loaded, pipeline, images[: max(BATCHES)]))
    gc.collect()
    after = _resident()
    memory = None if before is None or after is None else max(0, after - before)
    return _Entry(loaded, pipeline, seconds, memory)


def _prepared(loaded: Detector, pipeline: Any, images: Sequence[Path]) -> list[Prepared]:
    rules = image_rules(loaded.config)
    read = [read_image(path, rules) for path in images]
    return [Prepared(image, pipeline.sample(image.pixels)) for image in read]


def _time(
    entries: Sequence[_Entry], images: Sequence[Path], rounds: int
) -> list[dict[int, list[float]]]:
    """The seconds of each batch, by detector and size of the batch."""
    found: list[dict[int, list[float]]] = [{batch: [] for batch in BATCHES} for _ in entries]
    for number in range(rounds):
        for entry, times in zip(entries, found, strict=True):
            for batch in BATCHES:
                places = [(number * batch + index) % len(images) for index in range(batch)]
                given = _prepared(entry.loaded, entry.pipeline, [images[each] for each in places])
                start = time.perf_counter()
                entry.pipeline.detect(given)
                times[batch].append(time.perf_counter() - start)
    return found


def _resident() -> int | None:
    """The bytes of this process in memory."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def _size(path: Path) -> int:
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files)


def describe_threads() -> str:
    """What the times depend on, beside the machine."""
    return f"{torch.get_num_threads()} threads, on the CPU"
