"""For any input, the readers raise only the documented errors.

`run.py` in this folder does the same for hours.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from resdet.tests.fuzz import corpus
from resdet.tests.fuzz.targets import TARGETS, Target, attempt, example, prepare

RUN = Path(__file__).with_name("run.py")


@cache
def seeds_of(name: str) -> tuple[bytes, ...]:
    return tuple(TARGETS[name].seeds())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prepare(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", TARGETS)
def test_valid_files_are_read(name: str, folder: Path) -> None:
    """Otherwise fuzzing would only reach the first check of each reader."""
    taken = [attempt(TARGETS[name], folder, seed) for seed in seeds_of(name)]
    # Of the drawn XMLs some are faulty by chance; a floating-point TIFF is not accepted.
    assert sum(taken) >= {"voc": 1, "det": 1, "image": len(taken) - 1}.get(name, len(taken))


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors_are_raised(name: str, folder: Path) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=30,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.randoms(use_true_random=False))
    def check(random: Random) -> None:
        attempt(target, folder, example(target, seeds_of(name), random))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in corpus.kept(name):
            attempt(target, folder, data)
        check()


def test_a_failing_reader_is_reported(folder: Path) -> None:
    """The check itself: a reader that raises something else, or a message without the file."""

    def fail(path: Path) -> None:
        raise KeyError(str(path))

    def mumble(path: Path) -> None:
        raise ValueError("something is wrong")

    with pytest.raises(KeyError):
        attempt(Target("z", list, fail, (ValueError,)), folder, b"")
    with pytest.raises(AssertionError, match="not named"):
        attempt(Target("z", list, mumble, (ValueError,)), folder, b"")


def test_the_long_run_counts(tmp_path: Path) -> None:
    words = [sys.executable, str(RUN), "1", "--only", "records", "--keep", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("records"))
    assert int(row.split()[1]) > 20
