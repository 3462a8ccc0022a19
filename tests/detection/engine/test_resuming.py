"""Checkpoints that lack or distort what resuming needs are refused, by entry."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from resdet.detection.engine.meter import Meter
from resdet.detection.engine.optim import MovingAverage
from resdet.detection.engine.state import TrainingState
from resdet.detection.errors import WeightsError
from torch import nn

if TYPE_CHECKING:
    from resdet.tests.conftest import Command


def training_state() -> TrainingState:
    """A state after one step, in fp16 and with an average."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    meter = Meter()
    meter.add({"loss": torch.tensor(2.0)}, images=1)
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    return TrainingState(
        model, optimizer, scaler, MovingAverage(model, 0.9), step=1, best=0.5, meter=meter
    )


def test_what_was_saved_is_continued() -> None:
    saved = copy.deepcopy(training_state().to_dict())
    for old in ("drops", "flat"):  # as in checkpoints of earlier versions
        del saved[old]
    fresh = training_state()
    fresh.step, fresh.best = 0, float("-inf")
    fresh.load_dict(saved)
    assert (fresh.step, fresh.best, fresh.meter.steps, fresh.drops) == (1, 0.5, 1, 0)
    fresh.load_dict({**saved, "best": float("-inf"), "meter": {"sums": {}, "steps": 0}})


def put(*keys: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the entry at all but the last of ``keys`` to the last."""
    *path, name, value = keys

    def change(state: dict[str, Any]) -> None:
        for key in path:
            state = state[key]
        state[name] = value

    return change


CHANGES = {
    "step": put("step", -1),
    "step ": put("step", 1.5),
    "step  ": put("step", True),
    "best": put("best", float("nan")),
    "skipped": put("skipped", "3"),
    "stale": put("stale", 2**60),
    "drops": put("drops", None),
    "param_groups": put("optimizer", {}),
    "optimizer ": put("optimizer", "param_groups", []),
    "optimizer  ": put("optimizer", "param_groups", 0, "params", [0, 1, 2]),
    "optimizer.lr": put("optimizer", "param_groups", 0, "lr", "0.1"),
    "optimizer.momentum": put("optimizer", "param_groups", 0, "momentum", float("inf")),
    "optimizer.momentum ": put("optimizer", "param_groups", 0, "momentum", None),
    "optimizer.weight_decay": put("optimizer", "param_groups", 0, "weight_decay", True),
    "optimizer.foreach": put("optimizer", "param_groups", 0, "foreach", 3.0),
    "setting": put("optimizer", "param_groups", 0, "new", 1),
    "parameter 0": put("optimizer", "state", 0, "momentum_buffer", torch.ones(2)),
    "parameter 1": put("optimizer", "state", 1, {}),
    "parameter 99": put("optimizer", "state", 99, {"momentum_buffer": None}),
    "average": put("average", None),
    "average 0.bias": put("average", "0.bias", "text"),
    "average 0.weight": put("average", "0.weight", torch.ones(1)),
    "scaler": put("scaler", 3),
    "scaler.scale": put("scaler", {"scale": "2"}),
    "scaler.growth_interval": put("scaler", "growth_interval", 0.5),
    "meter": put("meter", None),
    "meter ": put("meter", "steps", 0),
    "meter  ": put("meter", "sums", "loss", torch.ones(2)),
    "meter   ": put("meter", "sums", {"loss": 1.0}),
    "0.weight": put("model", "0.weight", torch.ones(4)),
}


@pytest.mark.parametrize("entry", CHANGES)
def test_a_distorted_entry_is_named(entry: str) -> None:
    state = copy.deepcopy(training_state().to_dict())
    CHANGES[entry](state)
    fresh = training_state()
    with pytest.raises(WeightsError, match=rf"x\.pt.*{entry.strip()}"):
        fresh.load_dict(state, "x.pt")


@pytest.mark.parametrize(
    "entry", ["optimizer", "average", "scaler", "meter", "stale", "best", "dampening"]
)
def test_a_missing_entry_is_named(entry: str) -> None:
    state = training_state().to_dict()
    if entry in state:
        del state[entry]
    else:
        del state["optimizer"]["param_groups"][0][entry]
    with pytest.raises(WeightsError, match=rf"x\.pt: cannot be resumed: its {entry} is missing"):
        training_state().load_dict(state, "x.pt")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("meter", None), "cannot be resumed: its meter is None"),
        (lambda state: state.pop("meter"), "cannot be resumed: its meter is missing"),
        (put("step", -3), "damaged: its step is -3"),
        (put("optimizer", {"state": {}, "param_groups": []}), "0 groups of parameters"),
    ],
)
def test_the_command_ends_with_one_line(
    resdet: Command,
    tiny_run: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    reason: str,
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    last = run / "weights" / "last.pt"
    state = torch.load(last, weights_only=True)
    change(state)
    torch.save(state, last)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = resdet("train-det", "--resume", run, "train.iterations=9")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert done.code == 3 and reason in done.err and len(done.err.splitlines()) == 1, done.err
