"""The schedules by hand, and a new one: its function and its line of `SCHEDULES`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from resdet.detection.config.base import TrainConfig
from resdet.detection.config.classifier import ClassifierTrainConfig
from resdet.detection.config.localizer import LocalizerTrainConfig
from resdet.detection.schedules import SCHEDULES
from resdet.tools.cli import main


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("step", [1, 1, 0.1, 0.1, 0.01]),
        ("plateau", [1, 1, 1, 1, 1]),
        ("cosine", [1, 0.8535534, 0.5, 0.1464466, 0]),
    ],
)
def test_factors_by_hand(name: str, expected: list[float]) -> None:
    factors = [SCHEDULES[name](step, 100, (50, 90), 0.1) for step in (0, 25, 50, 75, 100)]
    assert factors == pytest.approx(expected)


def polynomial(step: int, total: int, milestones: Sequence[int], gamma: float) -> float:
    return (1 - step / total) ** 2


def test_a_new_schedule(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "polynomial", polynomial)
    words = ["train.schedule=polynomial", "train.iterations=4", "train.lr=0.01"]
    words += ["train.warmup_iterations=0", "train.log_every=1"]
    run = tmp_path / "run"
    assert main(["train-det", "--cfg", str(tiny_config), "--out", str(run), *words]) == 0
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    assert rates == pytest.approx([0.01, 0.005625, 0.0025, 0.000625])


@pytest.mark.parametrize("schema", [TrainConfig, ClassifierTrainConfig, LocalizerTrainConfig])
def test_an_unknown_schedule(schema: type[TrainConfig]) -> None:
    with pytest.raises(ValueError, match="should be 'step', 'plateau' or 'cosine'"):
        schema(schedule="linear")


def test_the_message_for_an_unknown_schedule(
    tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train-det", "--cfg", str(tiny_config), "--print-config", "train.schedule=linear"]
    assert main(words) == 2
    expected = "train.schedule: must be 'step', 'plateau' or 'cosine' (got 'linear')"
    assert expected in capsys.readouterr().err
