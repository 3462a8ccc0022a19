"""docs/files.md names every file of a run and an evaluation, and its samples have the real keys."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from resdet.tests.conftest import Command

PAGE = Path(__file__).resolve().parent.parent / "docs" / "files.md"


def section(title: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def files(title: str) -> set[str]:
    """The files in the first column of a section's table."""
    cells = re.findall(r"^\| (`.*?) \|", section(title), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def sample(title: str) -> dict[str, object]:
    (block,) = re.findall(r"```json\n(.*?)```", section(title), re.DOTALL)
    found: dict[str, object] = json.loads(block)
    return found


@pytest.fixture(scope="module")
def run(tiny_run: Path, resdet: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("files") / "run"
    shutil.copytree(tiny_run, copy, ignore=shutil.ignore_patterns("eval"))
    done = resdet("eval", "--weights", copy / "weights" / "best.pt", "--trust-paths", "--save-json")
    assert done.code == 0, done.err
    return copy


def test_a_training_run(run: Path) -> None:
    written = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    trained = {name for name in written if not name.startswith("eval/")}
    assert trained == files("A training run") - {"held_out.txt", "report.html"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    line = next(line for line in lines if line["kind"] == "train")
    assert sample("A training run").keys() <= line.keys()


def test_an_evaluation(run: Path) -> None:
    written = {path.name for path in (run / "eval").iterdir()}
    assert written == files("Evaluation") - {"results/"}
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    assert list(sample("Evaluation")) == list(metrics)


def test_inference(run: Path, scenes: Path, resdet: Command, tmp_path: Path) -> None:
    image = next((scenes / "JPEGImages").iterdir())
    words = ("--weights", run / "weights" / "best.pt", image, "--out", tmp_path / "found")
    assert resdet("infer", *words, "--conf", "0.01", "--no-draw").code == 0
    record = json.loads((tmp_path / "found" / "detections.jsonl").read_text())
    shown = sample("Inference")
    assert list(record) == list(shown)
    assert [list(each) for each in record["detections"][:1]] == [
        list(each) for each in shown["detections"]
    ]
