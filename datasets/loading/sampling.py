"""The batch plan of a training run: the images of every batch.

N images. The plan is a function: step -> (epoch, position) -> images and seeds. It has no state
to save, and the batches are the same for every number of processes, accumulation steps and
workers, and after every restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from ...detection.errors import ConfigError, DataError


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


def epoch_batches(
    sizes: Sequence[tuple[int, int]], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The ceil(N / batch_size) batches of an epoch, as indices into ``sizes`` (h, w).

    Images come in a seeded random order, landscape and portrait in separate batches because a
    mixed batch is mostly padding (grouping as in detectron2). The remaining images of
    both groups make mixed batches at the end. Every image occurs once; only the last batch, if
    incomplete, is filled with the first images of the epoch that are not in it.
    """
    order = [int(index) for index in np.random.default_rng([seed, epoch]).permutation(len(sizes))]
    batches: list[list[int]] = []
    landscape: list[int] = []
    portrait: list[int] = []
    for index in order:
        height, width = sizes[index]
        group = landscape if width >= height else portrait
        group.append(index)
        if len(group) == batch_size:
            batches.append(group.copy())
            group.clear()
    left = landscape + portrait
    batches += [left[at : at + batch_size] for at in range(0, len(left), batch_size)]
    if batches:
        last = batches[-1]
        # A data set smaller than the batch repeats itself.
        used = set(last)
        others = [index for index in order if index not in used] or order
        last += islice(cycle(others), batch_size - len(last))
    return batches


def any_shape(count: int) -> list[tuple[int, int]]:
    """Sizes for a `BatchPlan` that groups nothing: crops share batches, whatever the images."""
    return [(1, 1)] * count


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
        sizes: Sequence[tuple[int, int]],
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
        if not sizes and start_step < steps:
            raise DataError("no images to train on")
        self.sizes = list(sizes)
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
        planned, batches = -1, []
        for step in self.steps:
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != planned:
                planned = epoch
                batches = epoch_batches(self.sizes, self.batch_size, self.seed, epoch)
            yield [
                SampleKey(index, sample_seed(self.seed, epoch, index))
                for index in batches[position]
            ]
