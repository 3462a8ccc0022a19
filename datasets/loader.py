"""Which pictures make up which batch, and how do workers read them?

N pictures. The plan of a training run is arithmetic: step -> (epoch, position) -> pictures and
seeds. It has no state to save, and the batches are the same for every number of processes,
accumulation steps and workers, and after every restart.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from threading import current_thread, main_thread
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ..detection.errors import ConfigError, DataError, ImageError, ResdetError
from ..detection.structures import Annotation, Batch, Record, Sample
from .image import ImageRules, LoadedImage, TruncatedImage, read_image
from .transforms import Transform, make_sample


@dataclass(frozen=True, slots=True)
class SampleKey:
    """One draw of one picture: its index in the records and the seed of its random choices."""

    index: int
    seed: int


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 63-bit hash; unlike Python's ``hash`` the same in every process and release."""
    text = f"{seed}/{epoch}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class DetectionDataset(Dataset[Sample]):
    """``dataset[SampleKey]`` reads, checks and transforms one picture; every transform but the
    first gives a further view of it (`Sample.views`).

    Raises ImageError, naming the file, for a picture that cannot be read or is not of the size in
    its record, and TruncatedImage where ``rules.on_truncated`` is ``skip``: the loaders below
    decide what takes its place.
    """

    def __init__(
        self, records: Sequence[Record], *transforms: Transform, rules: ImageRules | None = None
    ) -> None:
        self.records = tuple(records)
        self.transforms = transforms
        self.rules = ImageRules() if rules is None else rules

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey) -> Sample:
        record = self.records[key.index]
        loaded = read_image(record.path, self.rules)
        for warning in loaded.warnings:
            warnings.warn(f"{record.path}: {warning}", stacklevel=2)
        _check_size(record, loaded)
        try:
            return make_sample(
                loaded.pixels,
                record.annotation,
                self.transforms,
                image_id=record.image_id,
                seed=key.seed,
            )
        except ConfigError as error:
            raise ConfigError(f"{record.path}: {error}") from error


def _check_size(record: Record, loaded: LoadedImage) -> None:
    height, width = loaded.pixels.shape[:2]
    if (height, width) == record.size:
        return
    reason = "the file has changed or the annotation is of another picture"
    if (width, height) == record.size and loaded.orientation >= 5:
        reason = (
            f"its EXIF orientation {loaded.orientation} turns it by 90 degrees: "
            "the boxes were drawn with the other setting of data.exif"
        )
    raise ImageError(
        f"{record.path}: the picture is {width}x{height} but its annotation is for "
        f"{record.size[1]}x{record.size[0]} (width x height); {reason}"
    )


def epoch_batches(
    sizes: Sequence[tuple[int, int]], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The ceil(N / batch_size) batches of an epoch, as indices into ``sizes`` (h, w).

    Pictures come in a seeded random order, landscape and portrait in separate batches because a
    mixed batch is mostly padding (grouping as in detectron2). What is left of both groups makes
    mixed batches at the end. Every picture occurs once; only the last batch, if incomplete, is
    topped up with the first pictures of the epoch that are not in it.
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
        others = [index for index in order if index not in last] or order
        last += islice(cycle(others), batch_size - len(last))
    return batches


class BatchPlan:
    """The batches of one process, for the steps from ``start_step`` to before ``steps``.

    Each step has one global batch of ``batch_size`` keys. Process ``rank`` of ``world`` takes a
    contiguous slice of it and yields that slice in ``accumulate`` equal parts, one after another.
    Raises ConfigError when the batch cannot be divided, DataError when there are no pictures.
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
        if batch_size % (world * accumulate):
            raise ConfigError(
                f"train.batch_size {batch_size} cannot be divided among {world} process(es) x "
                f"{accumulate} accumulation step(s)"
            )
        if not sizes and start_step < steps:
            raise DataError("no pictures to train on")
        self.sizes = list(sizes)
        self.batch_size = batch_size
        self.seed = seed
        self.steps = range(start_step, steps)
        self.accumulate = accumulate
        self.part = batch_size // (world * accumulate)
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


class _BatchReader(Dataset["Batch | ResdetError | None"]):
    """Reads whole batches inside a worker.

    An expected failure is returned, not raised: the data loader would re-raise it with the worker's
    traceback as its message, and a user is owed one line. ``replace`` says what happens to a
    picture that raises TruncatedImage: the next of the data set that is whole takes its place, or
    it is left out; None stands for a batch of which nothing is left.
    """

    def __init__(self, dataset: DetectionDataset, *, replace: bool) -> None:
        self.dataset = dataset
        self.replace = replace

    def __getitems__(self, keys: list[SampleKey]) -> Batch | ResdetError | None:
        try:
            samples = [sample for key in keys if (sample := self._sample(key)) is not None]
            return _handed_over(Batch.collate(_share_storage(samples))) if samples else None
        except ResdetError as error:
            return error

    def _sample(self, key: SampleKey) -> Sample | None:
        count = len(self.dataset)
        for offset in range(count if self.replace else 1):
            try:
                return self.dataset[SampleKey((key.index + offset) % count, key.seed)]
            except TruncatedImage as error:
                fate = "the next picture takes its place" if self.replace else "left out"
                warnings.warn(f"{error}; {fate}", stacklevel=2)
        if self.replace:
            raise DataError(f"all {count} pictures are truncated")
        return None


def _share_storage(samples: list[Sample]) -> list[Sample]:
    """The same samples, with all boxes in one storage, all labels in one, all flags in one.

    A tensor from a worker costs the main process one open file per storage: 49 for a batch of 16,
    where the usual limit is 1024 for all batches of all workers.
    """
    counts = [len(sample.annotation) for sample in samples]
    boxes, labels, ignore = (
        torch.cat([getattr(sample.annotation, name) for sample in samples]).split(counts)
        for name in ("boxes", "labels", "ignore")
    )
    return [
        replace(sample, annotation=Annotation(*parts))
        for sample, *parts in zip(samples, boxes, labels, ignore, strict=True)
    ]


def _handed_over(batch: Batch) -> Batch:
    """In a worker, ``batch`` moved to shared memory, through which it reaches the main process.

    Left to the queue's own thread, a lack of it would be printed, the batch be lost, and the main
    process wait for ever.
    """
    if get_worker_info() is None:
        return batch
    try:
        for tensor in _tensors(batch):
            tensor.share_memory_()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"a data worker cannot hand over a batch ({reason}); {_ADVICE}") from error
    return batch


def _tensors(batch: Batch) -> Iterator[Tensor]:
    yield batch.images
    for annotation in batch.annotations:
        yield from (annotation.boxes, annotation.labels, annotation.ignore)
    for view in batch.views:
        yield from _tensors(view)


class BatchLoader:
    """Iterates over `Batch`; a picture that fails raises its ImageError here, whoever read it."""

    def __init__(
        self,
        reader: _BatchReader,
        batches: Iterable[list[SampleKey]],
        *,
        workers: int,
        pin_memory: bool,
    ) -> None:
        self._loader: DataLoader = DataLoader(
            reader,
            batch_sampler=batches,
            collate_fn=_as_read,
            num_workers=workers,
            worker_init_fn=_init_worker,
            pin_memory=pin_memory,
            # Forked workers share the records; elsewhere they are sent to each worker.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            # An own generator: the loader draws a seed per iteration, from the global one if left.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        items = _started(self._loader)
        while (item := _next(items)) is not _END:
            if isinstance(item, ResdetError):
                raise item
            if item is not None:
                yield item


def _started(loader: DataLoader) -> Iterator[Any]:
    """The iterator, whose workers' deaths are told by its ``next`` and nowhere else.

    PyTorch's handler of SIGCHLD raises in whatever the main process is doing: half an update of the
    weights may be done, and nobody there knows what the error means. Without it ``next`` looks
    after its workers every five seconds.
    """
    if not hasattr(signal, "SIGCHLD") or current_thread() is not main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    items = iter(loader)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
    return items


_END = object()
#: Containers start with 64 MB of shared memory.
_ADVICE = (
    "give the container more shared memory (--shm-size=8g or --ipc=host) or set data.workers=0; "
    "see `resdet doctor`"
)


def _next(items: Iterator[Any]) -> Any:
    """The next item or _END. A worker killed by the system is the machine's fault, not the data's:
    the usual cause is a lack of memory, shared or other."""
    try:
        return next(items, _END)
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A connection breaks where the worker died while it was handing a batch over.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"a data worker died ({reason}); {_ADVICE}") from error


def _as_read(batch: Any) -> Any:
    # The reader collates; torch's type wants a function of a list.
    return batch


def _init_worker(worker: int) -> None:
    # One thread per worker: more would fight for the cores, and cv2's pool does not survive fork.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # A worker leaves with the main process, which finishes its step first: Ctrl-C and SIGTERM,
    # sent to the whole process group by terminals and torchrun, must not reach the worker before.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def train_loader(
    dataset: DetectionDataset, plan: BatchPlan, *, workers: int, pin_memory: bool = False
) -> BatchLoader:
    """The batches of ``plan``. Under ``on_truncated: skip`` the next whole picture of the data set
    takes the place of a truncated one, with a warning, so that the batch keeps its size.
    """
    reader = _BatchReader(dataset, replace=True)
    return BatchLoader(reader, plan, workers=workers, pin_memory=pin_memory)


def test_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> BatchLoader:
    """Every picture once over all processes, in order, never padded with repeats.

    Batches are cut before they are dealt out, process ``rank`` taking every ``world``-th: which
    pictures share a batch, and so the result, does not depend on the number of processes. Processes
    may get one batch more or less, so none may wait for another inside the loop. Each picture has
    one fixed seed. Under ``on_truncated: skip`` a truncated picture is left out with a warning.
    """
    keys = [SampleKey(index, sample_seed(0, 0, index)) for index in range(len(dataset))]
    batches = [keys[at : at + batch_size] for at in range(0, len(keys), batch_size)]
    reader = _BatchReader(dataset, replace=False)
    return BatchLoader(reader, batches[rank::world], workers=workers, pin_memory=pin_memory)
