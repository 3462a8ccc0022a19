"""``infer --conf best``: the scores that the evaluation of the same weights found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from resdet.detection.export.folder import weights_hash
from resdet.tools.cli import main

CLASSES = ("circle", "cross", "ring", "square", "star", "triangle")


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run that was evaluated: circles have their best score at 0.12345, crosses at 0.3, nothing
    of the other classes is right; the best score of all together is 0.2."""
    (tmp_path / "run/weights").mkdir(parents=True)
    shutil.copy(tiny_run / "weights/best.pt", tmp_path / "run/weights")
    _write(tmp_path / "run")
    return tmp_path / "run"


def _write(run: Path, **changed: Any) -> None:
    scores = {"circle": 0.12345, "cross": 0.3}
    content = {
        "weights": [weights_hash(run / "weights/best.pt")],
        "per_class": [{"name": name, "threshold": scores.get(name)} for name in CLASSES],
        "operating_points": {"best_f1": {"score": 0.2}},
    }
    (run / "eval").mkdir(exist_ok=True)
    content = {key: value for key, value in {**content, **changed}.items() if value != "none"}
    (run / "eval/metrics.json").write_text(json.dumps(content))


def _infer(run: Path, scenes: Path, *words: str, code: int = 0) -> dict[str, Any]:
    image = str(next((scenes / "JPEGImages").iterdir()))
    weights, out = run / "weights/best.pt", run.parent / f"out{len(list(run.parent.iterdir()))}"
    options = ["--weights", str(weights), "--out", str(out), "--no-draw"]
    assert main(["infer", *options, *words, image]) == code
    meta: dict[str, Any] = json.loads((out / "meta.json").read_text()) if code == 0 else {}
    return meta


def test_each_class_has_its_own_score(
    run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = _infer(run, scenes, "--conf", "best")
    assert meta["score_threshold"] == 0.2  # of the classes without their own
    assert meta["class_thresholds"] == {"circle": 0.1234, "cross": 0.3}  # rounded down
    said = "--conf best: circle 0.1234; cross 0.3; ring 0.2; square 0.2; star 0.2; triangle 0.2\n"
    assert said in capsys.readouterr().out
    # What else is given counts before it, in any order.
    meta = _infer(run, scenes, "--conf", "cross=0.6", "--conf", "best, 0.05")
    assert meta["score_threshold"] == 0.05
    assert meta["class_thresholds"] == {"circle": 0.1234, "cross": 0.6}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"weights": ["another"]}, "is of other weights; `resdet eval --weights "),
        ({"operating_points": "none"}, "only the evaluation of a detector finds scores"),
        ({"per_class": [{"name": "circle"}]}, "damaged; `resdet eval --weights "),
        ({"per_class": [], "operating_points": {"best_f1": {"score": None}}}, "nothing right"),
    ],
)
def test_without_scores_it_says_why(
    run: Path,
    scenes: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    reason: str,
) -> None:
    _write(run, **changed)
    _infer(run, scenes, "--conf", "best", code=2)
    assert "--conf best: " in (printed := capsys.readouterr().err) and reason in printed


def test_without_an_evaluation_the_command_is_named(
    run: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "eval")
    _infer(run, scenes, "--conf", "best", code=2)
    printed = capsys.readouterr().err
    assert "metrics.json: no such file" in printed
    assert f"`resdet eval --weights {run / 'weights/best.pt'}` writes it" in printed
