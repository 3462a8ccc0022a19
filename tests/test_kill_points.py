"""Commands that are killed at random file operations, for some seconds: see `kill_points.py`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from resdet.tests.kill_points import CASES, Harness, is_whole, search

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

#: Cases that take seconds in each run.
SLOW = {"export", *(name for name in CASES if "train-" in name)}


@pytest.fixture
def harness(resdet: Command, tmp_path: Path) -> Harness:
    made = Harness(resdet, tmp_path)
    made.make_inputs()
    return made


def test_random_points(harness: Harness) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    names = [name for name in CASES if name not in SLOW]
    assert search(harness, names[seed % len(names) :] + names, 20, seed) == 0


def test_what_differs_is_a_fault(harness: Harness) -> None:
    """The check itself: a result that is another, and a file that is half written."""
    harness.undisturbed("convert-weights")[1]["w.safetensors"] = b"other"  # type: ignore[index]
    assert "other results: ['w.safetensors']" in harness.fault_at("convert-weights", 1)
    for name, content in (("a.json", '{"a": '), ("a.html", "<html><bo"), ("a.csv", "a,b\n1")):
        path = harness.folder / name
        path.write_text(content)
        assert not is_whole(path)
