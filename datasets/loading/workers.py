"""Batches read by worker processes, whose failures are raised in the main process.

Workers that give no batch for `PATIENCE` seconds, as on a network disk that does not answer, are
ended; the environment variable RESDET_BATCH_TIMEOUT sets another time. None outlives its loader,
not even one that was stopped.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from threading import Event, Thread, current_thread, main_thread
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ...detection.errors import ConfigError, DataError, ImageError, ResdetError
from ...detection.structures import Batch

Key = TypeVar("Key")
Read = Callable[[list[Key]], "Batch | None"]


class _BatchReader(Dataset["Batch | ResdetError | None"], Generic[Key]):
    """Reads whole batches inside a worker.

    An expected failure is returned, not raised: the data loader would re-raise it with the worker's
    traceback as its message, where a user needs one line.
    """

    def __init__(self, read: Read[Key]) -> None:
        self.read = read

    def __getitems__(self, keys: list[Key]) -> Batch | ResdetError | None:
        try:
            batch = self.read(keys)
            return None if batch is None else _to_shared_memory(batch)
        except ResdetError as error:
            return error


class BatchStream(IterableDataset["Batch | ResdetError | None"]):
    """Yields from ``read(worker, workers)`` in each worker, or from ``read(0, 1)`` without workers.

    An expected failure is yielded as the last item, as in `_BatchReader`.
    """

    def __init__(self, read: Callable[[int, int], Iterator[Batch | None]]) -> None:
        self.read = read

    def __iter__(self) -> Iterator[Batch | ResdetError | None]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        try:
            for batch in self.read(worker, workers):
                yield None if batch is None else _to_shared_memory(batch)
        except ResdetError as error:
            yield error


def _to_shared_memory(batch: Batch) -> Batch:
    """Move ``batch`` to shared memory in a worker, for the transfer to the main process.

    Otherwise the queue's thread would do it: if there is too little, it prints an error, loses the
    batch, and the main process waits forever.
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
    yield from (batch.images, batch.labels)
    for annotation in batch.annotations:
        yield from (annotation.boxes, annotation.labels, annotation.ignore)
    for view in batch.views:
        yield from _tensors(view)


class BatchLoader(Generic[Key]):
    """Iterates over ``read(keys)`` for each list of keys, in order; None is left out.

    An image that fails raises its ImageError here, whichever process read it.
    """

    def __init__(
        self,
        read: Read[Key],
        batches: Iterable[list[Key]],
        *,
        workers: int,
        pin_memory: bool = False,
    ) -> None:
        self._loader = data_loader(
            _BatchReader(read), workers=workers, batch_sampler=batches, pin_memory=pin_memory
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        return received(self._loader)


def data_loader(source: Dataset, *, workers: int, **options: Any) -> DataLoader:
    """PyTorch's loader of batches that ``source`` collates itself."""
    return DataLoader(
        source,
        collate_fn=_as_read,
        num_workers=workers,
        timeout=_CHECK if workers else 0,
        worker_init_fn=_init_worker,
        # Forked workers share the records; elsewhere they are sent to each worker.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        # Without its own generator, the loader would draw seeds from the global one.
        generator=torch.Generator(),
        **options,
    )


def received(loader: DataLoader) -> Iterator[Any]:
    """The items from the workers; raises the errors that they returned, and DataError if they died
    or hang."""
    patience = _patience()
    items = _started(loader)
    guard = _Guard(getattr(items, "_workers", ()), patience)
    try:
        while (item := _next(items, guard)) is not _END:
            if isinstance(item, ImageError):
                raise ImageError(f"{item}; data.on_bad_image=skip goes on without such images")
            if isinstance(item, ResdetError):
                raise item
            if item is not None:
                yield item
    finally:
        guard.close(items)


def _started(loader: DataLoader) -> Iterator[Any]:
    """The iterator of ``loader``, without PyTorch's handler of SIGCHLD.

    The handler raises in whatever code the main process executes, such as a half-finished update of
    the weights. Without it, ``next`` notices dead workers within five seconds.
    """
    if not hasattr(signal, "SIGCHLD") or current_thread() is not main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    items = iter(loader)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
    return items


_END = object()
#: Seconds without a batch before workers are taken to hang.
PATIENCE = 600.0
#: Seconds from one look at the workers to the next.
_CHECK = 2.0
#: Seconds that a killed worker has to end. One that waits for a disk in the kernel does not.
_LAST_WAIT = 5.0
#: Containers start with 64 MB of shared memory.
_ADVICE = (
    "give the container more shared memory (--shm-size=8g or --ipc=host) or set data.workers=0; "
    "see `resdet doctor`"
)


def _patience() -> float:
    """Raises ConfigError for a time that is none."""
    text = os.environ.get("RESDET_BATCH_TIMEOUT") or str(PATIENCE)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ConfigError(f"RESDET_BATCH_TIMEOUT={text}: expected seconds above 0")
    return seconds


class _Guard:
    """Kills ``workers`` if the main process has waited for one for longer than ``patience`` by some
    seconds: it then hangs in code of its own, as in the transfer from a worker that was stopped.
    """

    def __init__(self, workers: Sequence[BaseProcess], patience: float) -> None:
        self.workers, self.patience = workers, patience
        self.since: float | None = None
        self.fired = False
        self._process, self._closed = os.getpid(), Event()
        if workers:
            Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self.since = time.monotonic()
        try:
            yield
        finally:
            self.since = None

    def _watch(self) -> None:
        while not self._closed.wait(_CHECK):
            since = self.since
            if since is not None and time.monotonic() - since > self.patience + 2 * _CHECK:
                self.fired = True
                return self.kill()

    def kill(self) -> None:
        for worker in self.workers:
            worker.kill()

    def close(self, items: Any) -> None:
        """End the workers as PyTorch does, which waits, and asks those that go on to end; then kill
        those that were stopped and do not hear it, or the command would wait for them at its end.
        One that even then goes on is left: what the caller saves must not wait for it.
        """
        if os.getpid() != self._process:  # a forked worker, which has no say
            return
        try:
            if self.workers:
                with self.waiting():
                    items._shutdown_workers()
                self.kill()
                for worker in self.workers:
                    worker.join(_LAST_WAIT)
        finally:
            self._closed.set()


def _next(items: Iterator[Any], guard: _Guard) -> Any:
    """The next item or _END. Raises DataError if a worker died, usually for lack of memory, or if
    none comes in time."""
    since = time.monotonic()
    while True:
        try:
            with guard.waiting():
                return next(items, _END)
        except (RuntimeError, ConnectionError, EOFError) as error:
            late = isinstance(error, RuntimeError) and "timed out" in str(error)
            if late and time.monotonic() - since < guard.patience:
                continue
            if late or guard.fired:
                guard.kill()
                raise DataError(
                    f"the data workers gave no batch for {guard.patience:g} s: a disk that does "
                    "not answer, or an image that takes very long; the environment variable "
                    "RESDET_BATCH_TIMEOUT sets another time"
                ) from error
            # The connection breaks if the worker dies while it sends a batch.
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"a data worker died ({reason}); {_ADVICE}") from error


def _as_read(batch: Any) -> Any:
    # The reader has collated already.
    return batch


def _init_worker(worker: int) -> None:
    gc.freeze()  # a collection writes to every inherited object, which copies its page
    # One thread per worker: more would fight for the cores, and cv2's pool does not survive fork.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    # Terminals and torchrun send Ctrl-C and SIGTERM to the whole process group. The main process
    # finishes its step first and needs its workers until then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
