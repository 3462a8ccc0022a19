"""Workers that hang, the time after which they are ended, and their memory."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from resdet.datasets.loading.workers import BatchLoader, _Guard, _next
from resdet.detection.errors import ConfigError, DataError
from resdet.detection.structures import Annotation, Batch, Geometry, Sample


def children() -> set[str]:
    """The processes that this one has started."""
    return set(Path("/proc/thread-self/children").read_text().split())


def test_workers_that_hang_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network disk that does not answer; a slow batch in time is none of it."""

    def read(keys: list[int]) -> Batch:
        time.sleep({0: 0.0, 1: 2.2, 2: 600.0}[keys[0]])
        pixels = torch.zeros(4, 4, 3, dtype=torch.uint8)
        return Batch.collate([Sample(pixels, Annotation.empty(), Geometry((4, 4)), str(keys[0]))])

    monkeypatch.setenv("RESDET_BATCH_TIMEOUT", "3")
    start, seen, before = time.monotonic(), [], children()
    with pytest.raises(DataError, match=r"no batch for 3 s: .* RESDET_BATCH_TIMEOUT sets"):
        for batch in BatchLoader(read, [[0], [1], [2]], workers=2):
            seen += batch.image_ids
            workers = children() - before
    assert len(workers) == 2 and seen == ["0", "1"] and time.monotonic() - start < 60
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}/task").exists() for child in workers):
        assert time.monotonic() < deadline, "a worker goes on"


def _batch(keys: list[int]) -> Batch:
    pixels = torch.zeros(4, 4, 3, dtype=torch.uint8)
    return Batch.collate([Sample(pixels, Annotation.empty(), Geometry((4, 4)), str(keys[0]))])


@pytest.mark.parametrize("batches", [1, 50], ids=["at the end", "before"])
def test_a_stopped_worker_does_not_outlive_its_loader(
    batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process takes no SIGTERM, and its parent would wait for it at its own end."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    before = children()
    loader = BatchLoader(_batch, [[number] for number in range(batches)], workers=1)
    read = iter(loader)
    assert next(read).image_ids == ["0"]
    (worker,) = children() - before
    os.kill(int(worker), signal.SIGSTOP)
    if batches == 1:
        assert list(read) == []
    read.close()  # type: ignore[attr-defined]  # a generator
    assert not Path(f"/proc/{worker}").exists()


class Stuck:
    """A loader's iterator that waits for what a worker holds."""

    def __init__(self, worker: multiprocessing.process.BaseProcess) -> None:
        self._workers = [worker]

    def __next__(self) -> None:
        self._workers[0].join()
        raise EOFError


def test_a_wait_for_a_stopped_worker_in_its_own_code_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the transfer of a batch, where PyTorch's own time limit does not hold."""
    monkeypatch.setattr("resdet.datasets.loading.workers._CHECK", 0.1)
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    worker.start()
    os.kill(worker.pid or 0, signal.SIGSTOP)
    guard = _Guard([worker], 0.2)
    with pytest.raises(DataError, match=r"no batch for 0\.2 s"):
        _next(Stuck(worker), guard)  # type: ignore[arg-type]
    assert not worker.is_alive()


class Unkillable:
    """A worker in the kernel, where no signal reaches it."""

    def kill(self) -> None: ...

    def terminate(self) -> None: ...

    def join(self, timeout: float | None = None) -> None:
        assert timeout is not None, "it would wait for ever"


def test_what_follows_does_not_wait_for_a_worker_that_nothing_ends() -> None:
    class Items:
        def _shutdown_workers(self) -> None: ...

    guard = _Guard([Unkillable()], 600)  # type: ignore[list-item]
    guard.close(Items())
    assert guard._closed.is_set()


def test_workers_do_not_copy_what_they_inherit() -> None:
    """A collection that sees an object writes to it, and so copies its page."""

    def read(keys: list[int]) -> Batch:
        known = {id(each) for each in gc.get_objects()}
        pixels = torch.zeros(4, 4, 3, dtype=torch.uint8)
        seen = f"{id(inherited) in known} {id(keys) in known}"
        return Batch.collate([Sample(pixels, Annotation.empty(), Geometry((4, 4)), seen)])

    inherited = [read]
    (batch,) = BatchLoader(read, [[0]], workers=1)
    assert batch.image_ids == ["False True"]


@pytest.mark.parametrize("text", ["0", "-1", "nan", "soon"])
def test_a_time_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESDET_BATCH_TIMEOUT", text)
    with pytest.raises(ConfigError, match=f"RESDET_BATCH_TIMEOUT={text}: expected seconds above 0"):
        next(iter(BatchLoader(lambda keys: None, [[0]], workers=0)))
