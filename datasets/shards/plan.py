"""The order of images in a stream of shards, which are read from start to end.

The shards of an epoch are concatenated in a seeded random order and cut into equal lanes. Each lane
is read from start to end and yields its images in the order of a shuffle buffer. Every batch has
the same number of images of each lane. The order depends on the sizes of the shards only: a run
continues at any step, and batches do not depend on workers, processes or restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from ...detection.errors import ConfigError, DataError


@dataclass(frozen=True)
class Segment:
    """Images ``first`` to before ``last`` of a shard."""

    shard: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class StreamPlan:
    """``counts``: images of each shard. ``buffer``: how many images a lane holds to shuffle.

    Raises ConfigError for a batch that the lanes cannot share evenly, DataError without images.
    """

    counts: tuple[int, ...]
    batch_size: int
    seed: int
    lanes: int = 8
    buffer: int = 512

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.batch_size % self.lanes:
            raise ConfigError(
                f"train.batch_size {self.batch_size} cannot be divided among {self.lanes} lanes "
                "of the stream (data.source.lanes)"
            )
        if self.buffer < 1:
            raise ConfigError(f"shuffle buffer: {self.buffer} images, expected at least 1")
        if not sum(self.counts):
            raise DataError("no images to train on")

    @property
    def steps_per_epoch(self) -> int:
        return -(-sum(self.counts) // self.batch_size)

    @property
    def per_step(self) -> int:
        """Images of a lane in a batch."""
        return self.batch_size // self.lanes

    def segments(self, epoch: int, lane: int) -> list[Segment]:
        """The images that a lane reads in an epoch, ``steps_per_epoch * per_step`` of them.

        Together the lanes read every image once; the last batch, if incomplete, is filled with
        the first images of the epoch.
        """
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts))
        length = self.steps_per_epoch * self.per_step
        start, wanted = lane * length % sum(self.counts), length
        segments: list[Segment] = []
        for shard in cycle(order.tolist()):
            count = self.counts[shard]
            if start >= count:
                start -= count
                continue
            last = min(count, start + wanted)
            segments.append(Segment(shard, start, last))
            wanted -= last - start
            start = 0
            if not wanted:
                return segments
        raise AssertionError("cycle does not end")

    def order(self, epoch: int, lane: int) -> NDArray[np.int64]:
        """The order in which the lane's images, numbered as they are read, leave the buffer."""
        random = np.random.default_rng([self.seed, epoch, lane])
        return buffered_order(self.steps_per_epoch * self.per_step, self.buffer, random)


def buffered_order(count: int, size: int, random: np.random.Generator) -> NDArray[np.int64]:
    """0..count-1 in the order of a shuffle buffer of ``size``: each step draws one at random and
    replaces it by the next."""
    held = list(range(min(size, count)))
    draws = random.random(count)
    order = np.empty(count, np.int64)
    for turn in range(count):
        chosen = int(draws[turn] * len(held))
        order[turn] = held[chosen]
        coming = turn + size
        if coming < count:
            held[chosen] = coming
        else:
            held[chosen] = held[-1]
            held.pop()
    return order
