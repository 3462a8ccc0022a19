"""The curves command: a plot and one line per run from run folders."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from resdet.detection.engine.history import LogEntry
from resdet.tools.cli import run_tool


def make_run(folder: Path, *errors: float) -> Path:
    folder.mkdir(parents=True)
    entries = [LogEntry("train", 5 * i, {"train_top1_error": e}) for i, e in enumerate(errors)]
    entries += [LogEntry("eval", 10 * i, {"val_top1_error": e}) for i, e in enumerate(errors, 1)]
    (folder / "metrics.jsonl").write_text("".join(entry.to_line() for entry in entries))
    return folder


def curves(*words: object) -> int:
    return run_tool("curves", [str(word) for word in words])


def test_the_plot_and_the_best_value_of_each_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = make_run(tmp_path / "plain", 0.9, 0.5, 0.6), make_run(tmp_path / "res", 0.4)
    out = tmp_path / "new" / "curves.png"
    assert curves(first, second, "--out", out, "--smooth", 2) == 0
    assert cv2.imread(str(out)).std() > 1
    assert capsys.readouterr().out.splitlines() == [
        "plain: 30 steps; val_top1_error best 0.5000 at 20, last 0.6000",
        "res: 10 steps; val_top1_error best 0.4000 at 10, last 0.4000",
        "res vs plain, last values: val_top1_error -0.2000",
        f"written: {out}",
    ]


def test_folders_with_equal_names_get_longer_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(tmp_path / seed / "r18", 0.5) for seed in ("seed0", "seed1")]
    assert curves(*runs, "--out", tmp_path / "a.png") == 0
    said = capsys.readouterr().out
    assert "seed0/r18: 10 steps" in said
    assert "seed1/r18: 10 steps" in said


def test_an_incomplete_line_is_reported_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a", 0.5)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "ev')
    assert curves(run, "--out", tmp_path / "a.png") == 0
    assert "metrics.jsonl:3: incomplete line, skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["none", "--out", "a.png"], "none: not a run folder"),
        (["empty", "--out", "a.png"], "nothing to plot"),
        (["good", "good", "--out", "a.png"], "given twice"),
        (["good", "--out", "a.txt"], "expected a suffix of .png"),
        (["good", "--out", "good/metrics.jsonl/a.png"], "cannot be written"),
        (["good", "--out", "a.png", "--smooth", "0"], "--smooth 0: expected at least 1"),
    ],
)
def test_error_messages(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("good"), 0.5)
    make_run(Path("empty"))
    assert curves(*words) == 2
    assert reason in capsys.readouterr().err
    assert not Path("a.png").exists()
