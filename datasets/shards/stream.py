"""How are the images of tar shards streamed, in training and in testing?

Which image comes when is `StreamPlan`'s part.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ...detection.errors import ConfigError, DataError, ResdetError
from ...detection.structures import Batch, Sample
from ..image import ImageRules, TruncatedImage
from ..loading.crops import Crop
from ..loading.sampling import sample_seed
from ..loading.workers import data_loader, received, to_shared_memory
from .index import ShardSet
from .plan import Segment, StreamPlan
from .reader import Packed, read_segment, require_webdataset, unpacked

# ------------------------------------------------------------------------------------ training


class _Lane:
    """The images of one lane from a step on, over all epochs to come."""

    def __init__(
        self,
        shards: ShardSet,
        plan: StreamPlan,
        crop: Crop,
        rules: ImageRules,
        *,
        lane: int,
        step: int,
    ) -> None:
        self.shards, self.plan, self.crop, self.rules = shards, plan, crop, rules
        self.lane = lane
        self._coming = self._from(step)
        self._ahead: deque[tuple[Packed, int]] = deque()

    def sample(self) -> Sample:
        """The next image; for a truncated one, under ``skip``, the next whole one stands in."""
        packed, seed = self._ahead.popleft() if self._ahead else next(self._coming)
        tried = 0
        while True:
            try:
                return unpacked(packed, (self.crop,), self.rules, seed)
            except TruncatedImage as error:
                warnings.warn(f"{error}; the next image takes its place", stacklevel=2)
            if tried == len(self._ahead):
                self._ahead.append(next(self._coming))
            packed, _ = self._ahead[tried]
            tried += 1
            if tried > len(self.shards):
                raise DataError(f"{self.shards.folder}: lane {self.lane}: no image is whole")

    def _from(self, step: int) -> Iterator[tuple[Packed, int]]:
        epoch, steps = divmod(step, self.plan.steps_per_epoch)
        skip = steps * self.plan.per_step
        while True:
            for packed in self._epoch(epoch, skip):
                yield packed, sample_seed(self.plan.seed, epoch, packed.index)
            epoch, skip = epoch + 1, 0

    def _epoch(self, epoch: int, skip: int) -> Iterator[Packed]:
        """The images of one epoch but for the first ``skip``; those are read only where they lie
        between others."""
        order = self.plan.order(epoch, self.lane)[skip:]
        wanted = np.zeros(len(order) + skip, bool)
        wanted[order] = True
        held: dict[int, Packed] = {}
        stream = self._read(self.plan.segments(epoch, self.lane), int(order.min(initial=0)))
        for number in order.tolist():
            while number not in held:
                read, packed = next(stream)
                if wanted[read]:
                    held[read] = packed
            yield held.pop(number)

    def _read(self, segments: Sequence[Segment], first: int) -> Iterator[tuple[int, Packed]]:
        """(number in the lane's epoch, image) from number ``first`` on."""
        ends = accumulate(map(len, segments))
        for segment, end in zip(segments, ends, strict=True):
            start = max(first, end - len(segment))
            if start < end:
                part = Segment(segment.shard, segment.last - (end - start), segment.last)
                yield from zip(range(start, end), read_segment(self.shards, part), strict=True)


class _LaneReader(IterableDataset["Batch | ResdetError"]):
    """A worker's part of each batch: the images of its lanes, which are neighbours."""

    def __init__(
        self,
        shards: ShardSet,
        plan: StreamPlan,
        crop: Crop,
        rules: ImageRules,
        *,
        steps: range,
        lanes: range,
    ) -> None:
        self.shards, self.plan, self.crop, self.rules = shards, plan, crop, rules
        self.steps, self.lanes = steps, lanes

    def __iter__(self) -> Iterator[Batch | ResdetError]:
        worker = get_worker_info()
        own = _share(self.lanes, worker.id, worker.num_workers) if worker else self.lanes
        lanes = [
            _Lane(self.shards, self.plan, self.crop, self.rules, lane=lane, step=self.steps.start)
            for lane in own
        ]
        for _ in self.steps:
            try:
                samples = [lane.sample() for lane in lanes for _ in range(self.plan.per_step)]
                part = to_shared_memory(Batch.collate(samples, pad=False))
            except ResdetError as error:
                # Returned, not raised: a user needs one line without the worker's traceback.
                yield error
                return
            yield part


def _share(lanes: range, worker: int, workers: int) -> range:
    first, last = (len(lanes) * number // workers for number in (worker, worker + 1))
    return lanes[first:last]


class ShardTrainLoader:
    """The batches of one process, for the steps from ``start_step`` to before ``steps``, as
    `BatchPlan` deals them out: a contiguous slice of each batch, in ``accumulate`` equal parts.

    A lane is never shared, so that ``plan.lanes`` must be divisible by the processes, and more
    workers than lanes of a process have nothing to do. Each lane holds ``plan.buffer`` encoded
    images. Raises ConfigError where batch or lanes cannot be divided.
    """

    def __init__(
        self,
        shards: ShardSet,
        crop: Crop,
        plan: StreamPlan,
        *,
        steps: int,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        rules: ImageRules | None = None,
    ) -> None:
        if plan.lanes % world:
            raise ConfigError(
                f"{plan.lanes} lanes of the stream cannot be divided among {world} processes"
            )
        if plan.batch_size % (world * accumulate):
            raise ConfigError(
                f"train.batch_size {plan.batch_size} cannot be divided among {world} process(es) x "
                f"{accumulate} accumulation step(s)"
            )
        require_webdataset()
        own = plan.lanes // world
        self.steps, self.accumulate, self.pin_memory = (
            range(start_step, steps),
            accumulate,
            pin_memory,
        )
        self.part = plan.batch_size // (world * accumulate)
        self.workers = min(workers, own)
        lanes = range(rank * own, (rank + 1) * own)
        reader = _LaneReader(
            shards, plan, crop, rules or ImageRules(), steps=self.steps, lanes=lanes
        )
        self._loader = data_loader(reader, workers=self.workers, batch_size=None)

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        parts = received(self._loader)
        # Workers answer in turn, and their lanes are neighbours: side by side it is the batch.
        while turn := list(islice(parts, max(1, self.workers))):
            batch = _joined(turn)
            for number in range(self.accumulate):
                part = _sliced(batch, number * self.part, (number + 1) * self.part)
                yield part.pin_memory() if self.pin_memory else part


def _joined(parts: Sequence[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    # With the channels last, as they lie in memory.
    images = torch.cat([part.images.permute(0, 2, 3, 1) for part in parts])
    return Batch(
        images.permute(0, 3, 1, 2),
        [size for part in parts for size in part.sizes],
        [],
        [],
        [name for part in parts for name in part.image_ids],
        [seed for part in parts for seed in part.seeds],
        torch.cat([part.labels for part in parts]),
    )


def _sliced(batch: Batch, first: int, last: int) -> Batch:
    return Batch(
        batch.images[first:last],
        batch.sizes[first:last],
        [],
        [],
        batch.image_ids[first:last],
        batch.seeds[first:last],
        batch.labels[first:last],
    )


# ------------------------------------------------------------------------------------- testing


class _ShardReader(IterableDataset["Batch | ResdetError | None"]):
    """Whole shards, one after another, in batches that end with the shard."""

    def __init__(
        self,
        shards: ShardSet,
        crops: Sequence[Crop],
        rules: ImageRules,
        *,
        batch_size: int,
        own: range,
    ) -> None:
        self.shards, self.crops, self.rules = shards, crops, rules
        # Images of different sizes cannot share a batch.
        self.batch_size = batch_size if all(crop.fixed for crop in crops) else 1
        self.own = own

    def __iter__(self) -> Iterator[Batch | ResdetError | None]:
        worker = get_worker_info()
        for shard in self.own[worker.id :: worker.num_workers] if worker else self.own:
            whole = Segment(shard, 0, len(self.shards.shards[shard]))
            images = read_segment(self.shards, whole)
            try:
                while packed := list(islice(images, self.batch_size)):
                    yield self._batch(packed)
            except ResdetError as error:
                yield error
                return

    def _batch(self, packed: Sequence[Packed]) -> Batch | None:
        samples = []
        for each in packed:
            try:
                samples.append(
                    unpacked(each, self.crops, self.rules, sample_seed(0, 0, each.index))
                )
            except TruncatedImage as error:
                warnings.warn(f"{error}; left out", stacklevel=2)
        return to_shared_memory(Batch.collate(samples, pad=False)) if samples else None


class ShardEvalLoader:
    """Every image once over all processes, never padded with repeats.

    Batches end with their shard, and process ``rank`` takes every ``world``-th shard: which
    images share a batch depends on neither. Each image has one fixed seed.
    """

    def __init__(
        self,
        shards: ShardSet,
        *crops: Crop,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        rules: ImageRules | None = None,
    ) -> None:
        require_webdataset()
        own = range(rank, len(shards.shards), world)
        self.reader = _ShardReader(
            shards, crops, rules or ImageRules(), batch_size=batch_size, own=own
        )
        workers = min(workers, len(own))
        self._loader = data_loader(
            self.reader, workers=workers, batch_size=None, pin_memory=pin_memory
        )

    def __len__(self) -> int:
        sizes = [len(self.reader.shards.shards[number]) for number in self.reader.own]
        return sum(-(-size // self.reader.batch_size) for size in sizes)

    def __iter__(self) -> Iterator[Batch]:
        return received(self._loader)
