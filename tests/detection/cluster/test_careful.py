"""Child processes that die while they load the model, or end before their time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from resdet.detection.cluster import careful
from resdet.detection.cluster.job import ModelArguments
from resdet.detection.errors import ConfigError
from resdet.detection.inference.predictor import Predictor

pytest.importorskip("pyarrow", reason="pyarrow is not installed")


@pytest.fixture
def forked(monkeypatch):
    """Children that know what is defined here."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(careful, "_context", lambda: context)


def _end(code: int, tell: object) -> None:
    os._exit(code)


def _tell(index: int, tell: Callable[[int], None]) -> None:
    tell(index)


def test_a_child_that_ends_early_has_died(forked):
    assert careful._run(_end, (0,), lambda: False) == "exit code 0"
    assert careful._run(_end, (3,), lambda: False) == "exit code 3"
    assert careful._run(_tell, (7,), lambda: False, (told := []).append) is None and told == [7]


@dataclass(frozen=True)
class DeadlyModel(ModelArguments):
    """One whose loading kills the process."""

    def load(self) -> Predictor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_model_that_kills_is_reported(forked, job, model, tmp_path):
    settings = replace(job(), model=DeadlyModel(model.weights, "cpu"))
    with pytest.raises(ConfigError, match=r"shard 0: .* died while loading the model \(signal 9\)"):
        list(careful.careful_records(settings, 0, tmp_path / "records", lambda: False))
