"""Workers that hang, the time after which they are ended, and their memory."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest
import torch
from resdet.datasets.loading.workers import BatchLoader
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
