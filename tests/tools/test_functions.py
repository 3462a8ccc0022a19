"""The commands as functions: what they return and raise, and what they leave as it was."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import resdet
import torch

STEPS = ("train.iterations=2", "train.milestones=[]", "train.eval_every=1")


def process_state() -> dict[str, Any]:
    """What a function shares with the program that calls it."""
    return {
        "folder": Path.cwd(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "format": warnings.formatwarning,
        "handlers": list(logging.getLogger().handlers),
        "outputs": (sys.stdout, sys.stderr),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "random": torch.random.get_rng_state().tolist(),
        # torch notes its caches there
        "environment": {k: v for k, v in os.environ.items() if not k.startswith("TORCH")},
    }


@contextmanager
def nothing_else_changes() -> Iterator[None]:
    before = process_state()
    yield
    after = process_state()
    for name, value in before.items():
        assert after[name] == value, name


def test_train_evaluate_and_infer_in_a_thread(
    tiny_config: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> tuple[resdet.TrainedRun, Any, resdet.FolderSummary]:
        run = resdet.train(tiny_config, *STEPS, out=tmp_path / "run", seed=3, device="cpu")
        scored = resdet.evaluate(run.weights, "test.nms_iou=0.5", resamples=0, sizes=(16, 64))
        images = scenes / "JPEGImages"
        summary = resdet.infer(run.weights, images, out=tmp_path / "found", draw=False, conf=0.1)
        return run, scored, summary

    with nothing_else_changes(), ThreadPoolExecutor(1) as thread:
        run, evaluation, summary = thread.submit(work).result()
    assert (run.folder, run.steps, run.stopped) == (tmp_path / "run", 2, False)
    assert list(run.evaluations) == [1, 2]
    assert run.metrics == run.evaluations[2]
    assert run.best_metrics in run.evaluations.values()
    assert "seed: 3" in (run.folder / "config.yaml").read_text()
    assert resdet.load(run.folder).classes == resdet.load(run.weights).classes
    assert isinstance(evaluation, resdet.Evaluation)
    assert evaluation.metrics["voc_ap50"] == pytest.approx(run.best_metrics["voc_ap50"], abs=1e-6)
    written = json.loads((run.folder / "eval" / "metrics.json").read_text())
    assert written["images"] == evaluation.images == 6
    assert (summary.done, summary.total, summary.failures) == (18, 18, ())
    assert len((summary.out / "detections.jsonl").read_text().splitlines()) == 18
    assert not (summary.out / "drawn").exists()
    printed = capsys.readouterr()
    assert "step 2/2" in printed.out and "done: 2 steps" in printed.out  # the log and the tables
    assert "voc_ap50" in printed.out


def test_a_run_goes_on_and_another_starts_from_it(tiny_run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(tiny_run, copied)
    quickly = ("train.eval_every=100", "train.val_loss_batches=0")
    longer = resdet.train(None, "train.iterations=9", *quickly, resume=copied)
    assert (longer.folder, longer.steps) == (copied, 9)
    once = ("train.iterations=1", "train.milestones=[]", *quickly)
    forked = resdet.train(None, *once, fork=tiny_run, out=tmp_path / "fork")
    assert (forked.folder, forked.steps) == (tmp_path / "fork", 1)


def test_the_first_interrupt_in_the_main_thread_saves_and_returns(
    tiny_config: Path, tmp_path: Path
) -> None:
    """A notebook's stop button is Ctrl-C; the result says that training goes on from there."""
    metrics = tmp_path / "run" / "metrics.jsonl"

    def interrupt() -> None:
        while not metrics.exists() or '"step": 1,' not in metrics.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    endless = ("train.iterations=100000", "train.log_every=1", "train.eval_every=100000")
    with nothing_else_changes():
        run = resdet.train(tiny_config, *endless, out=tmp_path / "run")
    assert run.stopped and 0 < run.steps < 100_000
    assert run.metrics == {}
    last = torch.load(run.folder / "weights" / "last.pt", weights_only=True)
    assert last["step"] == run.steps


def test_a_check_returns_the_report_of_data_with_errors(scenes: Path, tmp_path: Path) -> None:
    with nothing_else_changes():
        clean = resdet.check_data(scenes, workers=0)
    assert clean.images_checked == 18
    assert [each for each in clean.findings if each.severity == "error"] == []
    copied = tmp_path / "data"
    shutil.copytree(scenes, copied)
    (broken,) = (copied / "JPEGImages").glob("train_00001.*")
    broken.write_bytes(b"no image")
    report = resdet.check_data(copied, quick=True, out=tmp_path / "checked", classes=["circle"])
    assert "error" in {each.severity for each in report.findings}
    assert (tmp_path / "checked" / "data_report.html").exists()


def test_detections_of_another_tool_are_scored(tmp_path: Path) -> None:
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 50, "height": 50}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400}
        ],
    }
    found = [{"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.9}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    evaluation = resdet.evaluate(
        predictions=tmp_path / "found.json", annotations=tmp_path / "truth.json", resamples=0
    )
    assert evaluation is not None
    assert evaluation.metrics["voc_ap50"] == 1.0


def test_errors_are_raised(tiny_config: Path, tiny_run: Path, tmp_path: Path) -> None:
    """None ends the process, not even that of a value that the parser refuses."""
    weights = tiny_run / "weights" / "best.pt"
    with pytest.raises(resdet.ConfigError, match="no config: give --cfg"):
        resdet.train()
    with pytest.raises(resdet.ConfigError, match="--dry-run: options are keywords here"):
        resdet.train(tiny_config, "--dry-run")
    with nothing_else_changes(), pytest.raises(resdet.ConfigError, match=r"train\.lr"):
        resdet.train(tiny_config, "train.lr=fast", out=tmp_path / "a")
    with pytest.raises(resdet.ConfigError, match="argument --resamples: invalid int value"):
        resdet.evaluate(weights, resamples="many")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unknown option lr; the options are out, resume, fork"):
        resdet.train(tiny_config, lr=0.1)  # type: ignore[call-arg]
    with pytest.raises(resdet.WeightsError, match=r"none\.pt"):
        resdet.evaluate(tmp_path / "none.pt")
    with pytest.raises(resdet.ConfigError, match="no such folder"):
        resdet.check_data(tmp_path / "none", format="voc")
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no image")
    with pytest.raises(resdet.DataError, match=r"1 of 1 inputs failed: .*damaged\.jpg"):
        resdet.infer(weights, damaged, out=tmp_path / "found")
    assert (tmp_path / "found" / "detections.jsonl").exists()
    assert not (tmp_path / "a").exists()


def test_the_options_are_those_of_the_commands() -> None:
    """Each is one, and each of the commands has its place, but for what only prints."""
    from resdet.tools import functions

    pairs = {
        "train-det": functions.TrainOptions,
        "eval": functions.EvaluateOptions,
        "check-data": functions.CheckOptions,
        "infer": functions.InferOptions,
    }
    elsewhere = {"cfg", "weights", "overrides", "inputs", "words"}
    elsewhere |= {"dry_run", "print_config", "font", "start_or_resume"}
    for command, options in pairs.items():
        names = set(options.__annotations__)
        parsed = set(
            vars(functions._arguments(command, ["x"], required(command), options, "weights"))
        )
        assert names <= parsed, command
        assert parsed - names <= elsewhere, command


def required(command: str) -> dict[str, str]:
    return {"weights": "best.pt"} if command == "infer" else {}
