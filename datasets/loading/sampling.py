"""The batch plan of a training run: the images of every batch.

N images. The plan is a function: step -> (epoch, position) -> images and seeds. It has no state
to save, and the batches are the same for every number of processes, accumulation steps and
workers, and after every restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...detection.errors import ConfigError, DataError

#: (N, 2) or N of (h, w).
Sizes = NDArray[np.int32] | Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class SampleKey:
    """One draw of one image: its index in the records and the seed of its random choices."""

    index: int
    seed: int


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 63-bit hash; unlike Python's ``hash`` the same in every process and release."""
    text = f"{seed}/{epoch}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def fixed_keys(count: int) -> list[SampleKey]:
    """The images in order, each with its fixed seed of testing."""
    return [SampleKey(index, sample_seed(0, 0, index)) for index in range(count)]


def epoch_batches(sizes: Sizes, batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The ceil(N / batch_size) batches of an epoch, (batches, batch_size) indices into ``sizes``.

    Images come in a seeded random order, landscape and portrait in separate batches because a
    mixed batch is mostly padding (grouping as in detectron2). The remaining images of
    both groups make mixed batches at the end. Every image occurs once; only the last batch, if
    incomplete, is filled with the first images of the epoch that are not in it.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(sizes))
    height, width = np.asarray(sizes).reshape(-1, 2)[order].T
    full, ends, left = [], [], []
    for places in (np.flatnonzero(width >= height), np.flatnonzero(width < height)):
        whole = len(places) // batch_size * batch_size
        full.append(order[places[:whole]].reshape(-1, batch_size))
        ends.append(places[batch_size - 1 : whole : batch_size])
        left.append(order[places[whole:]])
    # Each batch comes when its last image does.
    batches = np.concatenate(full)[np.argsort(np.concatenate(ends))]
    rest = np.concatenate(left)
    if not len(rest):
        return batches
    last = rest[(len(rest) - 1) // batch_size * batch_size :]
    others = order[~np.isin(order, last)]
    # A data set smaller than the batch repeats itself.
    filled = np.resize(others if len(others) else order, batch_size - len(last))
    return np.concatenate([batches, np.append(rest, filled).reshape(-1, batch_size)])


def any_shape(count: int) -> Sizes:
    """Sizes for a `BatchPlan` that groups nothing: crops share batches, whatever the images."""
    return np.broadcast_to(np.int32(1), (count, 2))


def images_at_once(batch_size: int, world: int, accumulate: int) -> int:
    """The images of one process in one accumulation step; raises ConfigError for a remainder."""
    if batch_size % (world * accumulate):
        raise ConfigError(
            f"train.batch_size {batch_size} cannot be divided among {world} process(es) x "
            f"{accumulate} accumulation step(s)"
        )
    return batch_size // (world * accumulate)


class BatchPlan:
    """The batches of one process, for the steps from ``start_step`` to before ``steps``.

    Each step has one global batch of ``batch_size`` keys. Process ``rank`` of ``world`` takes a
    contiguous slice of it and yields that slice in ``accumulate`` equal parts, one after another.
    Raises ConfigError when the batch cannot be divided, DataError when there are no images.
    """

    def __init__(
        self,
        sizes: Sizes,
        *,
        batch_size: int,
        seed: int,
        steps: int,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.part = images_at_once(batch_size, world, accumulate)
        if not len(sizes) and start_step < steps:
            raise DataError("no images to train on")
        self.sizes = sizes
        self.batch_size = batch_size
        self.seed = seed
        self.steps = range(start_step, steps)
        self.accumulate = accumulate
        self.first = rank * accumulate * self.part

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.sizes) // self.batch_size)

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for keys in self._global_batches():
            for part in range(self.accumulate):
                start = self.first + part * self.part
                yield keys[start : start + self.part]

    def _global_batches(self) -> Iterator[list[SampleKey]]:
        planned, batches = -1, np.empty((0, 0), np.int64)
        for step in self.steps:
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != planned:
                planned = epoch
                batches = epoch_batches(self.sizes, self.batch_size, self.seed, epoch)
            yield [
                SampleKey(index, sample_seed(self.seed, epoch, index))
                for index in batches[position].tolist()
            ]
