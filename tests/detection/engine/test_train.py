"""Training runs that are killed, interrupted, resumed or diverge."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from resdet.detection.config.base import TrainConfig
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.detection.engine.distributed import Group
from resdet.detection.engine.log import RunLog
from resdet.detection.engine.signals import StopRequest
from resdet.detection.engine.state import Outputs, TrainingState
from resdet.detection.engine.train import train
from resdet.detection.inference.pipeline import Pipeline
from resdet.detection.structures import Annotation, Batch, Detections, Geometry, Sample
from resdet.tools.cli import main

if TYPE_CHECKING:
    from resdet.tests.conftest import Command, Finished, Running

#: Of the clock and the machine; no two runs agree on them.
UNREPEATABLE = ("time", "eta", "images_per_s", "data_wait", "mem_gb")


def expect_equal(one: Any, other: Any, where: str = "") -> None:
    """The same tree of tensors and primitives, bit for bit."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            expect_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            expect_equal(*pair, where=f"{where}[{index}]")
    else:
        assert one == other, where


def history(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [{k: v for k, v in entry.items() if k not in UNREPEATABLE} for entry in entries]


def expect_same_run(run: Path, undisturbed: Path) -> None:
    for name in ("last.pt", "best.pt"):
        one, other = (load_checkpoint(folder / "weights" / name) for folder in (run, undisturbed))
        del one["config"], other["config"]
        expect_equal(one, other, name)
    assert history(run) == history(undisturbed)
    assert (run / "results.csv").read_text() == (undisturbed / "results.csv").read_text()


def wait_for_step(running: Running, run: Path, step: int) -> None:
    """Until the run is past ``step`` by its own log."""
    metrics = run / "metrics.jsonl"

    def passed() -> bool:
        return metrics.exists() and any(f'"step": {step},' in line for line in metrics.open())

    assert running.until(passed), running.wait().err


@pytest.mark.parametrize(("workers", "kills"), [(0, 5), (2, 3)])
def test_killed_and_resumed_equals_undisturbed(
    resdet: Command, tiny_config: Path, tiny_run: Path, tmp_path: Path, workers: int, kills: int
) -> None:
    """Checkpoints are written at every step, so that some kills land in one."""
    run = tmp_path / "run"
    last = run / "weights" / "last.pt"
    settings = ("train.ema_decay=0.9", f"data.workers={workers}", "train.log_every=1")
    words: tuple[object, ...] = ("train-det", "--cfg", tiny_config, "--out", run, *settings)
    moments = random.Random(workers)  # noqa: S311  a test
    killed_at = []
    for kill in range(kills):
        running = resdet.start(*words)
        wait_for_step(running, run, min(1 + kill, 7))
        time.sleep(moments.uniform(0, 0.1))
        running.kill()
        assert running.wait().code in (-signal.SIGKILL, 0)
        if last.exists():
            killed_at.append(load_checkpoint(last)["step"])
            words = ("train-det", "--resume", run)
        else:
            shutil.rmtree(run)
    assert killed_at and killed_at[0] < 8
    # The undisturbed run logs every second step; so does this one from here on.
    done = resdet("train-det", "--resume", run)
    assert done.code == 0, done.err
    one = load_checkpoint(last)
    other = load_checkpoint(tiny_run / "weights" / "last.pt")
    for key in ("model", "average", "optimizer", "step", "best", "stale"):
        expect_equal(one[key], other[key], key)
    steps = [(entry["kind"], entry["step"]) for entry in history(run)]
    expected = [
        (kind, step)
        for step in range(1, 9)
        for kind in ("train", "eval")
        if kind == "train" or step % 4 == 0
    ]
    assert steps == expected
    assert (run / "results.csv").read_text() == (tiny_run / "results.csv").read_text()


def test_history_goes_on_between_two_lines_of_the_log(
    resdet: Command, tiny_config: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """Stopped after an odd step, while the log shows means over two."""
    run = tmp_path / "run"
    last = run / "weights" / "last.pt"
    running = resdet.start("train-det", "--cfg", tiny_config, "--out", run, "train.ema_decay=0.9")
    running.until(lambda: last.exists() and load_checkpoint(last)["step"] in (1, 3))
    running.kill()
    running.wait()
    assert resdet("train-det", "--resume", run).code == 0
    expect_same_run(run, tiny_run)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_interrupted_saves_and_prints_how_to_continue(
    resdet: Command,
    tiny_config: Path,
    tiny_run: Path,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    """The signal goes to the whole process group, as from a terminal; two workers are in it."""
    run = tmp_path / "a run"
    settings = ("train.ema_decay=0.9", "data.workers=2", "train.checkpoint_every=1000")
    running = resdet.start("train-det", "--cfg", tiny_config, "--out", run, *settings)
    wait_for_step(running, run, 2)
    os.killpg(running.pid, number)
    stopped = running.wait()
    assert stopped.code == code, stopped.err
    assert stopped.err == ""
    state = load_checkpoint(run / "weights" / "last.pt")
    assert 2 <= state["step"] < 8
    command = stopped.out.split("continue with: ")[1].strip()
    assert f"stopped at step {state['step']}" in stopped.out
    if number == signal.SIGINT:  # run what was printed, as it is
        environment = resdet.environment()
        subprocess.run(command, shell=True, check=True, env=environment, capture_output=True)  # noqa: S602  it is for a shell
    else:
        assert resdet(*shlex.split(command)[1:]).code == 0
    expect_same_run(run, tiny_run)


@pytest.mark.parametrize("step", [4, 8])
def test_a_signal_in_an_evaluation_ends_it_and_a_resumed_run_makes_up_for_it(
    step: int,
    tiny_config: Path,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SIGTERM or SIGKILL before the second of its six images, which is the last one that SIGTERM
    lets it finish; ``last.pt`` is from before the evaluation."""
    run, killed = tmp_path / "run", tmp_path / "killed"
    last, predict, seen = run / "weights" / "last.pt", Pipeline.predict, []

    def predict_and_stop(self: Pipeline, batch: Batch) -> list[Detections]:
        seen.append(len(batch))
        if len(seen) == 2 + 6 * (step == 8):
            state = load_checkpoint(last)
            assert state["step"] == step and state["unevaluated"]
            shutil.copytree(run, killed)  # what SIGKILL would leave
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(self, batch)

    monkeypatch.setattr(Pipeline, "predict", predict_and_stop)
    words = ["train-det", "--cfg", str(tiny_config), "--out", str(run), "train.ema_decay=0.9"]
    assert main([*words, "train.checkpoint_every=1000"]) == 143
    assert sum(seen) == 2 + 6 * (step == 8)
    assert f"stopped at step {step}; continue with: " in capsys.readouterr().out
    monkeypatch.undo()
    for stopped in (run, killed):
        assert main(["train-det", "--resume", str(stopped)]) == 0
        expect_same_run(stopped, tiny_run)


@pytest.fixture(scope="module")
def diverged(
    resdet: Command, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Finished]:
    """A learning rate that ruins the weights in the first step after the warm-up's zeroth."""
    run = tmp_path_factory.mktemp("diverged") / "run"
    settings = (
        "train.lr=1e30",
        "train.warmup_factor=0.0",
        "train.warmup_iterations=3",
        "train.iterations=20",
        "train.eval_every=1000",
        "train.max_nonfinite=3",
    )
    return run, resdet("train-det", "--cfg", tiny_config, "--out", run, *settings)


def test_divergence_ends_with_exit_code_4(diverged: tuple[Path, Finished], scenes: Path) -> None:
    run, done = diverged
    assert done.code == 4
    assert done.err.startswith("error: training diverged: 3 non-finite losses in a row")
    assert done.err.count("\n") == 1 and "train.lr" in done.err
    reports = sorted((run / "debug").iterdir())
    assert len(reports) == 3
    known = (scenes / "ImageSets" / "Main" / "train.txt").read_text().split()
    for path in reports:
        report = json.loads(path.read_text())
        assert len(report["image_ids"]) == 2 and set(report["image_ids"]) <= set(known)
        assert any(value in ("nan", "inf") for value in report["losses"].values())


def test_divergence_keeps_the_last_good_checkpoint(diverged: tuple[Path, Finished]) -> None:
    """The one named is from before the weights were ruined."""
    _, done = diverged
    named = Path(done.err.split("the last good checkpoint is ")[1].split(", of step")[0])
    state = load_checkpoint(named)
    assert state["skipped"] == 0
    for name, tensor in state["model"].items():
        assert tensor.isfinite().all() and tensor.abs().max() < 1e6, name


def test_the_command_in_the_message_of_divergence_runs(
    resdet: Command, diverged: tuple[Path, Finished]
) -> None:
    """From the last good checkpoint, at a tenth of the rate; here only the next settings help."""
    run, done = diverged
    _, command = done.err.strip().split("with: resdet ")
    words = shlex.split(command)
    assert {"train.lr=1e+29", "train.clip_norm=10", "train.start_optimizer=false"} < set(words)
    good = words[words.index("--from") + 1]
    assert f"the last good checkpoint is {good}, of step" in done.err
    again = resdet(*words, "train.lr=0.001", "train.iterations=2")
    assert again.code == 0, again.err
    assert f"weights: {good}" in again.out and "done: 2 steps" in again.out
    assert (run.parent / "run-2" / "weights" / "last.pt").is_file()


def image_batch(value: int) -> Batch:
    """One 4 x 4 image, nearly of one grey; white is white all over."""
    pixels = torch.full((4, 4, 3), value, dtype=torch.uint8)
    pixels[0] //= 2 if value != 255 else 1
    return Batch.collate([Sample(pixels, Annotation.empty(), Geometry((4, 4)), f"p{value}")])


def train_on(
    model: torch.nn.Module,
    values: list[int],
    folder: Path,
    make: Callable[[int], Batch] = image_batch,
) -> TrainingState:
    """The loop itself, a step for each value."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    state = TrainingState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False))
    settings = TrainConfig(
        iterations=len(values),
        accumulate=1,
        precision="fp32",
        clip_norm=None,
        log_every=1,
        eval_every=100,
        checkpoint_every=1,
        patience=None,
        max_nonfinite=2,
        lr=0.1,
        warmup_iterations=0,
    )
    train(
        state,
        map(make, values),
        settings=settings,
        outputs=Outputs(folder, RunLog(None), {"config": {}, "classes": []}),
        group=Group(0, 1, torch.device("cpu")),
        evaluate=lambda step: 0.0,
        stop=StopRequest(),
    )
    return state


class Poisoned(torch.nn.Module):
    """Its loss is NaN where the image is white."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        pixels = batch.images.float()
        if pixels.min() == 255:
            pixels = pixels * float("nan")
        return {"loss_cls": self.norm(pixels).square().mean()}


def test_a_skipped_step_changes_nothing(tmp_path: Path) -> None:
    """Poisoned steps in the middle; weights and batch statistics stay as they were."""
    clean = train_on(Poisoned(), [10, 20, 30], tmp_path / "clean")
    poisoned = train_on(Poisoned(), [10, 255, 20, 255, 30], tmp_path / "poisoned")
    expect_equal(poisoned.model.state_dict(), clean.model.state_dict())
    expect_equal(poisoned.optimizer.state_dict(), clean.optimizer.state_dict())
    assert poisoned.step == 5 and poisoned.skipped == 0
    assert len(list((tmp_path / "poisoned" / "debug").iterdir())) == 2


def test_a_full_disk_does_not_stop_training(
    resdet: Command, tiny_config: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """No file may grow over 100 kB: the checkpoints (over 1 MB) cannot be written, all else can.

    It ends with an error all the same, as its last steps are not on the disk.
    """
    run = tmp_path / "run"
    assert (tiny_run / "weights" / "last.pt").stat().st_size > 200_000
    first = resdet("train-det", "--cfg", tiny_config, "--out", run, "train.iterations=2")
    assert first.code == 0, first.err
    good = {path: path.read_bytes() for path in (run / "weights").iterdir()}
    words = ("train-det", "--resume", run, "train.iterations=4")
    done = resdet(*words, file_limit=100_000)
    assert done.code == 2 and "last.pt: step 4 could not be saved" in done.err, done.err
    assert f"WARNING: {run}/weights/last.pt not saved" in done.out
    assert {path: path.read_bytes() for path in (run / "weights").iterdir()} == good
    assert load_checkpoint(run / "weights" / "last.pt")["step"] == 2
