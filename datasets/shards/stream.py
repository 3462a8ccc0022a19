"""Streams of batches from tar shards, in training and in testing.

`StreamPlan` determines their order.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, islice

import numpy as np
import torch

from ...detection.errors import ConfigError, DataError
from ...detection.structures import Batch, Sample
from ..image import SkippedImage
from ..loading.sampling import images_at_once, sample_seed
from ..loading.workers import BatchStream, data_loader, received
from .plan import Segment, StreamPlan
from .reader import Packed, ShardSource, require_webdataset

# ------------------------------------------------------------------------------------ training


class _Lane:
    """The images of one lane from a step on, without end."""

    def __init__(self, source: ShardSource, plan: StreamPlan, lane: int, step: int) -> None:
        self.source, self.plan, self.lane = source, plan, lane
        self._coming = self._from(step)
        self._ahead: deque[tuple[Packed, int]] = deque()

    def sample(self) -> Sample:
        """The next image; the next usable one takes the place of one to be skipped."""
        packed, seed = self._ahead.popleft() if self._ahead else next(self._coming)
        tried = 0
        skipped: list[str] = []
        while True:
            try:
                sample = self.source.sample(packed, seed)
                return replace(sample, skipped=tuple(skipped)) if skipped else sample
            except SkippedImage as error:
                skipped.append(str(error))
            if tried == len(self._ahead):
                self._ahead.append(next(self._coming))
            packed, _ = self._ahead[tried]
            tried += 1
            if tried > len(self.source.shards):
                raise DataError(
                    f"{self.source.shards.folder}: lane {self.lane}: no image can be used"
                )

    def _from(self, step: int) -> Iterator[tuple[Packed, int]]:
        epoch, steps = divmod(step, self.plan.steps_per_epoch)
        skip = steps * self.plan.per_step
        while True:
            for packed in self._epoch(epoch, skip):
                yield packed, sample_seed(self.plan.seed, epoch, packed.index)
            epoch, skip = epoch + 1, 0

    def _epoch(self, epoch: int, skip: int) -> Iterator[Packed]:
        """The images of one epoch without the first ``skip``, which are read only if they are
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
                yield from zip(range(start, end), self.source.read(part), strict=True)


def _lane_batches(
    source: ShardSource, plan: StreamPlan, steps: range, lanes: range, worker: int, workers: int
) -> Iterator[Batch]:
    """A worker's part of each batch: the images of its lanes, which are neighbours."""
    first, last = (len(lanes) * number // workers for number in (worker, worker + 1))
    own = [_Lane(source, plan, lane, steps.start) for lane in lanes[first:last]]
    for _ in steps:
        samples = [lane.sample() for lane in own for _ in range(plan.per_step)]
        yield Batch.collate(samples, pad=False)


class ShardTrainLoader:
    """The batches of one process for ``steps``, as with `BatchPlan`: a contiguous slice
    of each batch, in ``accumulate`` equal parts.

    A lane is never shared, so that ``plan.lanes`` must be divisible by the processes, and more
    workers than lanes of a process have nothing to do. Each lane holds ``plan.buffer`` encoded
    images. Raises ConfigError where batch or lanes cannot be divided.
    """

    def __init__(
        self,
        source: ShardSource,
        plan: StreamPlan,
        steps: range,
        *,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if plan.lanes % world:
            raise ConfigError(
                f"{plan.lanes} lanes of the stream cannot be divided among {world} processes"
            )
        self.part = images_at_once(plan.batch_size, world, accumulate)
        require_webdataset()
        own = plan.lanes // world
        lanes = range(rank * own, (rank + 1) * own)
        self.steps, self.accumulate, self.pin_memory = steps, accumulate, pin_memory
        self.workers = min(workers, own)
        stream = BatchStream(partial(_lane_batches, source, plan, steps, lanes))
        self._loader = data_loader(stream, workers=self.workers, batch_size=None)

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[Batch]:
        parts = received(self._loader)
        # The loader takes one part from each worker in turn; concatenated they are the batch.
        while turn := list(islice(parts, max(1, self.workers))):
            batch = _joined(turn)
            for first in range(0, self.accumulate * self.part, self.part):
                part = _joined([batch], slice(first, first + self.part))
                yield part.pin_memory() if self.pin_memory else part


def _joined(parts: Sequence[Batch], kept: slice = slice(None)) -> Batch:
    """The images ``kept`` of all batches side by side; they have labels and no annotations."""
    # Concatenated in channels-last order, as in memory.
    stacks = [part.images.permute(0, 2, 3, 1) for part in parts]
    images = stacks[0] if len(stacks) == 1 else torch.cat(stacks)
    return Batch(
        images.permute(0, 3, 1, 2)[kept],
        [size for part in parts for size in part.sizes][kept],
        [],
        [],
        [name for part in parts for name in part.image_ids][kept],
        [seed for part in parts for seed in part.seeds][kept],
        torch.cat([part.labels for part in parts])[kept],
        skipped=tuple(line for part in parts for line in part.skipped),
    )


# ------------------------------------------------------------------------------------- testing


def _shard_batches(
    source: ShardSource, batch_size: int, shards: range, worker: int, workers: int
) -> Iterator[Batch | None]:
    """A worker's shards, whole and one after another, in batches that end with the shard."""
    for shard in shards[worker::workers]:
        images = source.read(Segment(shard, 0, len(source.shards.shards[shard])))
        while packed := list(islice(images, batch_size)):
            samples = [sample for one in packed if (sample := _or_none(source, one)) is not None]
            yield Batch.collate(samples, pad=False) if samples else None


def _or_none(source: ShardSource, packed: Packed) -> Sample | None:
    try:
        return source.sample(packed, sample_seed(0, 0, packed.index))
    except SkippedImage as error:
        warnings.warn(f"{error}; left out", stacklevel=2)
        return None


class ShardEvalLoader:
    """Every image once over all processes, never padded with repeats.

    Batches end with their shard, and process ``rank`` takes every ``world``-th shard: which
    images share a batch depends on neither. Each image has one fixed seed.
    """

    def __init__(
        self,
        source: ShardSource,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        require_webdataset()
        own = range(rank, len(source.shards.shards), world)
        # Images of different sizes cannot share a batch.
        batch_size = batch_size if all(crop.fixed for crop in source.crops) else 1
        self._counts = [-(-len(source.shards.shards[number]) // batch_size) for number in own]
        self._loader = data_loader(
            BatchStream(partial(_shard_batches, source, batch_size, own)),
            workers=min(workers, len(own)),
            batch_size=None,
            pin_memory=pin_memory,
        )

    def __len__(self) -> int:
        return sum(self._counts)

    def __iter__(self) -> Iterator[Batch]:
        return received(self._loader)
