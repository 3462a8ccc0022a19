"""Trackers: what they get, that their failures never stop a training, and the real libraries."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import override
from resdet.detection.engine.history import read_history
from resdet.detection.engine.log import RunLog
from resdet.detection.errors import ConfigError
from resdet.detection.trackers import TRACKERS, TrackedRun
from resdet.tools.cli import main
from rich.console import Console

CONFIG = {"task": "detection", "train": {"lr": 0.02, "milestones": [5]}, "start": {"é": "b" * 900}}


class Fake:
    """Keeps what it gets; raises in the methods that ``broken`` names."""

    broken: tuple[str, ...] = ()
    calls: list[object]

    def __init__(self, run: TrackedRun) -> None:
        type(self).calls = []
        self._call("init", run)

    def scalars(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self._call("scalars", (kind, step, dict(values)))

    def close(self) -> None:
        self._call("close", None)

    def _call(self, name: str, content: object) -> None:
        type(self).calls.append((name, content))
        if name in self.broken:
            raise RuntimeError("no\nserver")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Fake]]:
    class One(Fake):
        pass

    monkeypatch.setitem(TRACKERS, "fake", One)
    yield One


def run_of_two_steps(folder: Path, *trackers: str, start: int = 0) -> str:
    console = Console(file=io.StringIO(), width=200)
    with RunLog(
        folder,
        total_steps=9,
        start_step=start,
        trackers=trackers,
        config=CONFIG,
        console=console,
    ) as log:
        for step in (start + 1, start + 2):
            log.step(step, {"loss": 1.0 / step, "lr": math.nan})
        log.evaluation(start + 2, {"voc_ap50": 0.5})
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_tracker_gets_steps_evaluations_and_the_end(fake: type[Fake], tmp_path: Path) -> None:
    run_of_two_steps(tmp_path / "run", "fake", "fake")
    names = [name for name, _ in fake.calls]
    assert names == ["init", "scalars", "scalars", "scalars", "close"]
    assert fake.calls[0][1] == TrackedRun(tmp_path / "run", 0, CONFIG)
    kind, step, values = fake.calls[2][1]
    assert (kind, step, values["loss"]) == ("train", 2, 0.5) and {"lr", "eta"} < values.keys()
    assert fake.calls[3][1] == ("eval", 2, {"voc_ap50": 0.5})


def test_names_and_settings_of_a_run() -> None:
    run = TrackedRun(Path("runs/a"), 20, CONFIG)
    assert run.name == "a from step 20" and TrackedRun(Path("runs/a")).name == "a"
    assert run.settings["train.milestones"] == "[5]" and "task" not in run.settings


@pytest.mark.parametrize("broken", [("init",), ("scalars",), ("close",), ("scalars", "close")])
def test_a_broken_tracker_is_told_of_once(
    broken: tuple[str, ...], fake: type[Fake], tmp_path: Path
) -> None:
    fake.broken = broken
    said = run_of_two_steps(tmp_path, "fake")
    assert said.count("warning: fake cannot be written, training continues: no") == 1
    assert len(read_history(tmp_path).entries) == 3
    assert len(fake.calls) == {"init": 1, "scalars": 2, "close": 5}[broken[0]]


def test_a_training_outlives_its_trackers(
    fake: type[Fake], tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.broken = ("init", "scalars", "close")
    words = ["train-det", "--cfg", str(tiny_config), "--out", str(tmp_path / "run")]
    words += ["train.trackers=[fake]", "train.iterations=2", "train.eval_every=2", "--debug"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count("warning: fake") == 1 and "done: 2 steps" in said


def test_an_unknown_tracker_is_refused() -> None:
    expected = r"train\.trackers\.0: must be 'tensorboard', 'mlflow' or 'wandb'"
    with pytest.raises(ConfigError, match=expected):
        override(DetectorConfig(), ["train.trackers=[visdom]"])


@pytest.mark.parametrize(("name", "module"), [("mlflow", "mlflow"), ("wandb", "wandb")])
def test_a_missing_library_is_named(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    said = run_of_two_steps(tmp_path, name)
    assert said.count("warning: ") == 1 and f"pip install 'resdet[{name}]'" in said


def test_mlflow_has_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a run"
    for start in (0, 1):
        assert "warning" not in run_of_two_steps(folder, "mlflow", start=start)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    (experiment,) = [each for each in client.search_experiments() if each.name == "resdet"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"a run", "a run from step 1"}
    run = runs["a run"]
    assert run.info.status == "FINISHED" and run.data.params["train.lr"] == "0.02"
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in losses] == [(1, 1.0), (2, 0.5)]
    assert run.data.metrics["eval/voc_ap50"] == 0.5 and "train/lr" not in run.data.metrics


def test_weights_and_biases_has_an_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    assert "warning" not in run_of_two_steps(tmp_path / "run", "wandb")
    (stored,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = stored.read_bytes()
    for text in (b"train/loss", b"eval/voc_ap50", b"milestones"):
        assert text in content
