"""The log and history of a run, with kills, full disks and odd names."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resdet.detection.engine.history import FORMER_NAMES, History, LogEntry, read_history
from resdet.detection.engine.log import RunLog
from resdet.detection.engine.log_words import format_duration
from resdet.detection.errors import ConfigError
from rich.console import Console

LOSSES = {"loss": 1.5, "lr": 0.02, "images_per_s": 4.25, "data_wait": 0.03, "mem_gb": 6.0}


def pipe() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def train(log: RunLog, *, start: int, stop: int) -> None:
    """Log as the loop does: every 10 steps, an evaluation every 20."""
    for step in range(start + 10, stop + 1, 10):
        log.step(step, LOSSES | {"loss": 1.0 / step})
        if step % 20 == 0:
            log.evaluation(step, {"voc_ap50": step / 1000, "coco_ap": step / 2000})


def test_metrics_are_json_lines_with_null_for_what_is_not_finite(tmp_path: Path) -> None:
    with RunLog(tmp_path, total_steps=100, console=pipe()) as log:
        log.step(20, {"loss": 0.5, "lr": math.nan, "mem_gb": math.inf})
        log.evaluation(20, {"voc_ap50": 0.25})
    train_line, eval_line = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert train_line["kind"] == "train"
    assert train_line["step"] == 20
    assert train_line["loss"] == 0.5
    assert train_line["lr"] is None
    assert train_line["mem_gb"] is None
    assert train_line["eta"] >= 0
    assert {key: eval_line[key] for key in ("kind", "step", "voc_ap50")} == {
        "kind": "eval",
        "step": 20,
        "voc_ap50": 0.25,
    }


def test_results_have_one_row_per_evaluation_and_stable_columns(tmp_path: Path) -> None:
    with RunLog(tmp_path, total_steps=100, console=pipe()) as log:
        log.evaluation(10, {"voc_ap50": 0.25, "=cmd()": 1.0})
        log.evaluation(20, {"val_loss": 2.0, "voc_ap50": math.nan})
    assert list(csv.reader((tmp_path / "results.csv").open())) == [
        ["step", "voc_ap50", "'=cmd()", "val_loss"],
        ["10", "0.25", "1.0", ""],
        ["20", "", "", "2.0"],
    ]


def test_a_resumed_run_has_the_history_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with RunLog(whole, total_steps=100, console=pipe()) as log:
        train(log, start=0, stop=100)

    log = RunLog(killed, total_steps=100, console=pipe())
    train(log, start=0, stop=70)  # never closed: killed at 70, the last checkpoint was at 50
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    with RunLog(killed, total_steps=100, start_step=50, console=pipe()) as log:
        train(log, start=50, stop=100)

    assert (killed / "results.csv").read_text() == (whole / "results.csv").read_text()
    histories = [read_history(folder) for folder in (whole, killed)]
    numbers = [
        [(e.kind, e.step, {k: v for k, v in e.values.items() if k != "eta"}) for e in h.entries]
        for h in histories
    ]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) == 15
    assert histories[1].damaged == ()


def test_an_evaluation_that_is_made_again_is_logged_once(tmp_path: Path) -> None:
    """Killed after it was logged, before the checkpoint that says so."""
    log = RunLog(tmp_path, total_steps=100, console=pipe())
    train(log, start=0, stop=50)
    log.evaluation(50, {"voc_ap50": 0.5})
    with RunLog(tmp_path, total_steps=100, start_step=50, evaluated=False, console=pipe()) as log:
        log.evaluation(50, {"voc_ap50": 0.25})
    ends = [entry for entry in read_history(tmp_path).entries if entry.step == 50]
    assert [entry.kind for entry in ends] == ["train", "eval"]
    assert ends[1].values == {"voc_ap50": 0.25}


def test_a_new_run_in_an_old_folder_starts_an_empty_history(tmp_path: Path) -> None:
    with RunLog(tmp_path, total_steps=100, console=pipe()) as log:
        log.evaluation(0, {"voc_ap50": 0.0})
        train(log, start=0, stop=40)
    RunLog(tmp_path, total_steps=100, console=pipe()).close()
    assert read_history(tmp_path) == History()
    assert not (tmp_path / "results.csv").exists()


def test_damaged_lines_are_named_and_left_out(tmp_path: Path) -> None:
    good = LogEntry("train", 10, {"loss": 1.0}).to_line()
    bad = ["\0\0\0\n", '{"kind": "train", "step": "x"}\n', "[]\n", '{"kind":"eval"}\n', "[" * 9999]
    (tmp_path / "metrics.jsonl").write_text(good + "".join(bad))
    console = pipe()
    with RunLog(tmp_path, total_steps=100, start_step=10, console=console):
        pass
    assert (tmp_path / "metrics.jsonl").read_text() == good
    assert [f"metrics.jsonl:{n}: incomplete line" in said(console) for n in range(1, 8)] == [
        *[False, True, True, True, True, True, False]
    ]


def test_a_whole_last_line_without_its_line_end_is_kept(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(LogEntry("train", 10, {"loss": 1.0}).to_line().strip())
    with RunLog(tmp_path, total_steps=100, start_step=10, console=pipe()) as log:
        log.step(20, {"loss": 0.5})
    assert [entry.step for entry in read_history(tmp_path).entries] == [10, 20]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_once_and_lines_are_written_later(tmp_path: Path) -> None:
    console = pipe()
    with RunLog(tmp_path, total_steps=100, console=console) as log:
        log.step(10, LOSSES)
        metrics = tmp_path / "metrics.jsonl"
        metrics.rename(tmp_path / "kept")
        metrics.symlink_to("/dev/full")
        log.step(20, LOSSES)
        log.evaluation(20, {"voc_ap50": 0.5})
        metrics.unlink()
        (tmp_path / "kept").rename(metrics)
        log.step(30, LOSSES)
    assert said(console).count("No space left") == 1
    assert [(e.kind, e.step) for e in read_history(tmp_path).entries] == [
        ("train", 10),
        ("train", 20),
        ("eval", 20),
        ("train", 30),
    ]
    assert "0.5" in (tmp_path / "results.csv").read_text()


def test_a_folder_that_vanishes_does_not_stop_training(tmp_path: Path) -> None:
    console = pipe()
    with RunLog(tmp_path / "run", total_steps=100, console=console) as log:
        shutil.rmtree(tmp_path / "run")
        train(log, start=0, stop=40)
    assert said(console).count("warning: metrics.jsonl") == 1
    assert said(console).count("warning: train.log") == 1
    assert "step  40/100" in said(console)


def test_a_closed_pipe_does_not_stop_training(tmp_path: Path) -> None:
    console = pipe()
    console.file.close()
    with RunLog(tmp_path, total_steps=100, console=console) as log:
        train(log, start=0, stop=40)
    assert len(read_history(tmp_path).entries) == 6
    assert "warning: terminal" in (tmp_path / "train.log").read_text()


def test_a_file_in_the_place_of_the_folder_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError, match=r"run: cannot be a run folder: File exists"):
        RunLog(tmp_path / "run", total_steps=1, console=pipe())


def test_a_pipe_gets_one_unwrapped_line_a_step(tmp_path: Path) -> None:
    console = pipe()
    with RunLog(tmp_path, total_steps=18000, console=console) as log:
        log.step(20, LOSSES)
    (line,) = said(console).splitlines()
    assert line.startswith(
        "step    20/18000  loss 1.5  lr 2.00e-02  4.2 img/s  data 3%  6.0 GB  eta "
    )
    assert "\x1b" not in line
    assert (tmp_path / "train.log").read_text().strip().endswith(line)


@pytest.mark.parametrize("variable", ["CI", "NO_COLOR"])
def test_ci_and_no_color_get_plain_lines(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    console = Console(file=Screen(), force_terminal=True, color_system=None)
    with RunLog(tmp_path, total_steps=100, console=console) as log:
        log.step(20, LOSSES)
    assert said(console).startswith("step  20/100  loss 1.5")


def test_a_file_gets_plain_lines_where_colour_is_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console(file=io.StringIO(), width=120)
    with RunLog(tmp_path, total_steps=100, console=console) as log:
        log.step(20, LOSSES)
    assert said(console).startswith("step  20/100  loss 1.5") and "\x1b" not in said(console)


def test_a_terminal_gets_a_bar_with_messages_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    console = Console(file=Screen(), force_terminal=True, width=120)
    with RunLog(tmp_path, total_steps=100, start_step=10, console=console) as log:
        log.message("saved [bold]a.pt[/bold]")
        log.step(20, LOSSES)
        log.evaluation(20, {"voc_ap50": 0.5})
    text = said(console)
    assert "step 20/100" in text
    assert "loss 1.5  lr 2.00e-02" in text
    assert "saved [bold]a.pt[/bold]" in text
    assert "evaluation at step 20  voc_ap50 0.5" in text
    assert text.endswith("\x1b[?25h")  # the cursor is shown again


def test_control_characters_in_names_stay_visible(tmp_path: Path) -> None:
    console = pipe()
    with RunLog(tmp_path, total_steps=1, console=console) as log:
        log.message("bad\x1b[2Jname\r\udc80\nnext")
    assert said(console) == "bad\\x1b[2Jname\\r\\udc80\nnext\n"
    assert "\x1b" not in (tmp_path / "train.log").read_text()


def test_the_silent_log_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(None) as log:
        log.message("x")
        train(log, start=0, stop=40)
    assert capsys.readouterr() == ("", "")


def test_tensorboard_gets_the_scalars_and_a_resumed_run_hides_the_lost_ones(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, total_steps=100, trackers=["tensorboard"], console=pipe()) as log:
        train(log, start=0, stop=40)
    with RunLog(
        tmp_path, total_steps=100, start_step=20, trackers=["tensorboard"], console=pipe()
    ) as log:
        train(log, start=20, stop=60)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == [10, 20, 30, 40, 50, 60]
    assert [round(e.value, 6) for e in events.Scalars("eval/voc_ap50")] == [0.02, 0.04, 0.06]


def test_a_tensorboard_failure_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    console = pipe()
    with RunLog(tmp_path, total_steps=100, trackers=["tensorboard"], console=console) as log:
        train(log, start=0, stop=40)
    assert said(console).count("warning: tensorboard cannot be written") == 1
    assert len(read_history(tmp_path).entries) == 6


def test_the_eta_comes_from_the_steps_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    # The module's clock alone: loops of servers in this process go by the same one.
    monkeypatch.setattr(
        "resdet.detection.engine.log_words.time", SimpleNamespace(monotonic=lambda: now)
    )
    log = RunLog(tmp_path, total_steps=100, start_step=10, console=pipe())
    log.step(10, {})
    now += 20.0
    log.step(20, {})  # 2 s a step, 80 steps to go
    log.close()
    etas = [entry.values["eta"] for entry in read_history(tmp_path).entries]
    assert math.isnan(etas[0])
    assert etas[1] == 160.0


def test_durations_are_for_people() -> None:
    assert format_duration(3723.4) == "1:02:03"
    assert format_duration(90061) == "1 day, 1:01:01"
    assert format_duration(math.nan) == "?"


def test_measured_values_cannot_take_the_names_of_the_line() -> None:
    with pytest.raises(ValueError, match="'step'"):
        LogEntry("train", 1, {"step": 3.0})


@given(
    st.dictionaries(
        st.text().filter(lambda n: n not in ("kind", "step", "time", *FORMER_NAMES)), st.floats()
    ),
    st.integers(0, 10**9),
)
def test_a_line_gives_back_its_entry(values: dict[str, float], step: int) -> None:
    entry = LogEntry("eval", step, values)
    line = entry.to_line()
    assert line.count("\n") == 1
    back = LogEntry.from_line(line)
    assert back is not None
    assert (back.kind, back.step, back.time) == ("eval", step, entry.time)
    assert back.values.keys() == values.keys()
    for name, value in values.items():
        kept = back.values[name]
        assert kept == value if math.isfinite(value) else math.isnan(kept)


def test_former_names_of_values_are_read_as_todays(tmp_path: Path) -> None:
    line = '{"kind": "eval", "step": 4, "val_oracle_error": 0.5, "val_mean_oracle_iou": null}\n'
    (tmp_path / "metrics.jsonl").write_text(line)
    (entry,) = read_history(tmp_path).entries
    assert entry.values["val_true_class_error"] == 0.5
    assert list(entry.values) == ["val_true_class_error", "val_mean_true_class_iou"]
