"""Runs and evaluations that exhaust the memory: their messages, and the commands in them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.detection.engine.distributed import Group
from resdet.detection.engine.log import RunLog
from resdet.detection.engine.memory import step_advice
from resdet.detection.engine.state import Outputs, TrainingState
from resdet.detection.inference.pipeline import Pipeline
from resdet.detection.models.faster_rcnn import FasterRCNN
from resdet.detection.structures import Annotation, Batch, Geometry, Sample
from resdet.tools.cli import main

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


def limit(
    patch: pytest.MonkeyPatch, owner: type, method: str, fits: Callable[[Batch], bool]
) -> None:
    """``owner.method`` runs out of memory for a batch that does not fit."""
    original = getattr(owner, method)

    def limited(self: Any, batch: Batch, *rest: Any, **options: Any) -> Any:
        if not fits(batch):
            raise torch.OutOfMemoryError(FULL)
        return original(self, batch, *rest, **options)

    patch.setattr(owner, method, limited)


def failed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of a command that ends for lack of memory."""
    code = main([str(word) for word in words])
    error = capsys.readouterr().err.lstrip()  # after the progress bar
    assert code == 2 and error.startswith("error: cpu is out of memory"), error
    assert error.count("error: ") == 1 and error.count("\n") == 1, error
    return error


def commands(message: str) -> list[list[str]]:
    """The complete commands in a message, as words without ``resdet``."""
    found = re.findall(r"with: resdet (.+?)(?: \(|, or|;|$)", message.strip())
    return [shlex.split(command) for command in found]


def evaluated(run: Path) -> list[int]:
    entries = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [entry["step"] for entry in entries if entry["kind"] == "eval"]


def test_a_step_that_does_not_fit_is_resumed_in_smaller_passes(
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two images at once do not fit from the fourth step on; one by one they do."""
    run, calls = tmp_path / "a run", []

    def fits(batch: Batch) -> bool:
        calls.append(len(batch))
        return len(calls) < 4 or len(batch) == 1

    limit(monkeypatch, FasterRCNN, "forward", fits)
    words = ("train-det", "--cfg", tiny_config, "--out", run, "backbone.norm=group")
    message = failed(capsys, *words)
    assert "in step 4 with 2 image(s) of 128x96 and up to " in message
    assert load_checkpoint(run / "weights" / "last.pt")["step"] == 3, "no step is lost"

    resume, fresh = commands(message)
    assert resume == ["train-det", "--resume", str(run), "train.accumulate=2"]
    assert "or train.precision=bf16" in message
    assert main(resume) == 0, capsys.readouterr().err
    assert "done: 8 steps" in capsys.readouterr().out
    assert evaluated(run) == [4, 8]

    less = {"image.long_side_max=96", "roi.batch_per_image=8", "train.iterations=5"}
    assert less < set(fresh)
    assert main([*fresh, "train.accumulate=2"]) == 0, capsys.readouterr().err
    assert "done: 5 steps" in capsys.readouterr().out


def test_the_first_step_does_not_fit(
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    limit(monkeypatch, FasterRCNN, "forward", lambda batch: False)
    message = failed(capsys, "train-det", "--cfg", tiny_config, "--out", run)
    monkeypatch.undo()
    resume, _ = commands(message)
    assert main([*resume, "train.precision=bf16", "train.iterations=1"]) == 0
    assert "done: 1 steps" in capsys.readouterr().out


def test_an_evaluation_in_training_that_does_not_fit_is_made_up_for(
    tiny_config: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The evaluations of steps 4 and 8; the weights end as those of an undisturbed run."""
    run = tmp_path / "run"
    limit(monkeypatch, Pipeline, "predict", lambda batch: len(batch) < 4)
    settings = ("train.ema_decay=0.9", "test.batch_size=4")
    message = failed(capsys, "train-det", "--cfg", tiny_config, "--out", run, *settings)
    assert "in the evaluation at step 4; " in message
    assert load_checkpoint(run / "weights" / "last.pt")["step"] == 4
    assert not (run / "weights" / "best.pt").exists()
    (resume,) = commands(message)
    assert resume == ["train-det", "--resume", str(run), "test.batch_size=2"]
    for way in ("or test.precision=bf16", "or train.val_loss_batches=0"):
        assert way in message
    elsewhere = re.search(r"on a CPU: resdet (.*)", message)
    assert elsewhere and main([*shlex.split(elsewhere[1]), "test.batch_size=1"]) == 0
    capsys.readouterr()

    assert main(resume) == 0, capsys.readouterr().err
    assert evaluated(run) == [4, 8]
    ours, theirs = (load_checkpoint(each / "weights" / "last.pt") for each in (run, tiny_run))
    for part in ("model", "average"):
        assert all(torch.equal(ours[part][name], theirs[part][name]) for name in theirs[part])
    assert ours["best"] == theirs["best"] and ours["stale"] == theirs["stale"]


def test_the_last_evaluation_is_made_up_for(
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    limit(monkeypatch, Pipeline, "predict", lambda batch: len(batch) == 1)
    settings = ("train.iterations=2", "test.batch_size=2")
    (resume,) = commands(failed(capsys, "train-det", "--cfg", tiny_config, "--out", run, *settings))
    assert main(resume) == 0, capsys.readouterr().err
    assert evaluated(run) == [2] and (run / "weights" / "best.pt").exists()
    assert main(["train-det", "--resume", str(run)]) == 0
    assert evaluated(run) == [2], "once"


def test_eval_and_ablate(
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limit(monkeypatch, Pipeline, "predict", lambda batch: len(batch) == 1)
    weights = ("--weights", tiny_run / "weights" / "best.pt", "--out", tmp_path)
    message = failed(capsys, "eval", *weights, "test.batch_size=3", "test.flip=true")
    ways = message.partition("added to it: ")[2].strip().split(", ")
    assert ways == [
        "test.batch_size=1",
        "test.precision=bf16",
        "test.flip=false",
        "or --device cpu",
    ]
    again = ["eval", *map(str, weights), "test.batch_size=3", "test.flip=true"]
    assert main([*again, *ways[:3]]) == 0
    capsys.readouterr()
    failed(capsys, "ablate", *weights, "test.batch_size=2")


def test_infer_is_resumed_with_smaller_batches(
    tiny_config: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limit(monkeypatch, Pipeline, "predict", lambda batch: len(batch) == 1)
    images = tiny_config.parent / "scenes" / "JPEGImages"
    words = ["infer", "--weights", tiny_run / "weights" / "best.pt", images, "--out", tmp_path]
    words = [*map(str, words), "--no-draw", "--batch-size"]
    assert main([*words, "2"]) == 2
    message = capsys.readouterr().err
    ways = re.search(r"on cpu at .*; continue with --resume --batch-size (\d+)", message)
    assert ways, message
    assert main([*words, ways[1], "--resume"]) == 0, capsys.readouterr().err
    assert "18 of 18 images done" in capsys.readouterr().out


def test_any_other_command(
    resdet: Command, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An exhausted memory where no command expects it is no bug of the program."""

    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", full)
    lines: list[str] = []
    monkeypatch.setattr("resdet.tools.cli._print_error", lines.append)
    words = ["eval", "--weights", str(tiny_run / "weights" / "best.pt"), "--out", str(tmp_path)]
    assert main(words) == 2
    assert len(lines) == 1 and "out of memory" in lines[0] and "--device" in lines[0]


def advice(batch: Batch, parts: int, config: dict[str, Any], folder: Path, drops: int = 0) -> str:
    model = torch.nn.Linear(1, 1)
    state = TrainingState(model, torch.optim.SGD(model.parameters()), torch.amp.GradScaler("cpu"))
    state.step, state.drops = 30, drops
    group = Group(0, 1, torch.device("cpu"))
    outputs = Outputs(folder, RunLog(None), {"config": config}, command="resdet train-cls")
    outputs.save_last(state, group)
    return step_advice([batch] * parts, state, outputs, group.device)


SCHEDULE = {"precision": "bf16", "iterations": 100, "milestones": [20, 60, 90], "gamma": 0.1}


def test_crops_and_the_rest_of_a_schedule(tmp_path: Path) -> None:
    """By hand: two passes of three images can be three passes of two; one milestone is over."""
    pixels = torch.zeros(224, 224, 3, dtype=torch.uint8)
    batch = Batch.collate([Sample(pixels, label=0)] * 3, pad=False)
    config = {"crop": {"size": 224}, "train": SCHEDULE | {"lr": 0.2}}
    assert advice(batch, 2, config, tmp_path) == (
        "cpu is out of memory in step 31 with 3 image(s) of 224x224 at once; continue with: resdet "
        f"train-cls --resume {tmp_path} train.accumulate=3 (the same images in smaller passes); "
        f"start a new run from it with: resdet train-cls --from {tmp_path} --out {tmp_path}-2 "
        "crop.size=168 train.iterations=70 'train.milestones=[30,60]' train.lr=0.02"
    )


def test_one_image_at_a_time_in_half_precision_has_only_a_smaller_input(tmp_path: Path) -> None:
    pixels, truth = torch.zeros(60, 100, 3, dtype=torch.uint8), Annotation.empty()
    batch = Batch.collate([Sample(pixels, truth, Geometry((60, 100)))])
    config = {"roi": {"batch_per_image": 64}, "train": SCHEDULE | {"lr": 0.2}}
    message = advice(batch, 4, config, tmp_path)
    assert "--resume" not in message
    assert "image.long_side_max=75 roi.batch_per_image=32" in message


def test_the_rate_of_a_plateau_schedule_goes_on(tmp_path: Path) -> None:
    batch = Batch.collate([Sample(torch.zeros(8, 8, 3).byte(), label=0)], pad=False)
    config = {"crop": {"size": 8}, "train": SCHEDULE | {"milestones": [], "lr": 0.2}}
    message = advice(batch, 1, config, tmp_path, drops=2)
    assert message.endswith("crop.size=6 train.iterations=70 train.lr=0.002")
