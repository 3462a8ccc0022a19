"""``--from``, and the messages that name it; runs that are trained longer or not so long."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from resdet.detection.config.base import TrainConfig
from resdet.detection.engine.forking import continued, fork_command, schedule_left
from resdet.detection.engine.optim import learning_rate

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

TINIEST = 1e-12


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "weights" / "last.pt", weights_only=True)


def command_in(message: str) -> list[str]:
    """The words of the command that a message ends with."""
    return shlex.split(re.search(r"resdet (train-\w+ --from .*)", message)[1])


def momentum(state: dict[str, Any]) -> list[torch.Tensor]:
    buffers = state["optimizer"]["state"]
    return [buffers[index]["momentum_buffer"] for index in sorted(buffers)]


def files(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("schedule", ["cosine", "step", "plateau"])
def test_what_is_left_of_a_schedule_has_its_rates(schedule: str) -> None:
    """Exactly for milestones and plateaus; a new cosine begins where the old one is."""
    milestones = (6, 12) if schedule == "step" else ()
    whole = TrainConfig(
        schedule=schedule, iterations=20, lr=0.5, milestones=milestones, warmup_iterations=2
    )
    for step in range(2, 20):
        words = schedule_left(whole.model_dump(), step)
        values = dict(word.split("=") for word in words)
        rest = whole.model_copy(
            update={
                "iterations": int(values["train.iterations"]),
                "milestones": tuple(
                    map(int, re.findall(r"\d+", values.get("train.milestones", "")))
                ),
                "lr": float(values.get("train.lr", whole.lr)),
                "warmup_iterations": int(values["train.warmup_iterations"]),
            }
        )
        assert rest.iterations == 20 - step
        later = range(step, step + 1 if schedule == "cosine" else 20)
        for each in later:
            assert learning_rate(each - step, rest) == pytest.approx(
                learning_rate(each, whole), rel=1e-5
            )
    assert schedule_left(whole.model_dump(), 20) == []


def test_settings_for_the_whole_run_become_those_of_the_rest() -> None:
    train = TrainConfig(iterations=20, milestones=(6, 12), warmup_iterations=2).model_dump()
    given = ["train.iterations=20", "train.batch_size=4", "train.lr=0.1"]
    assert continued(given, train, 8) == [
        *("train.batch_size=4", "train.lr=0.1", "train.iterations=12"),
        *("train.milestones=[4]", "train.warmup_iterations=0"),
    ]
    assert continued(given, train, 20) == given, "nothing left: the new run has the whole schedule"


def test_the_folder_in_the_command_is_free(tmp_path: Path) -> None:
    run = tmp_path / "a run"
    (tmp_path / "a run-2").mkdir()
    words = shlex.split(fork_command("resdet train-det", run, ["x.y=[a, b]"]))
    assert words[-4:] == [str(run), "--out", str(tmp_path / "a run-3"), "x.y=[a, b]"]


@pytest.mark.parametrize(
    "setting",
    [
        *("train.batch_size=4", "train.lr=0.001", "image.short_side_test=80"),
        *("train.seed=3", "train.schedule=cosine", "train.ema_decay=0.5"),
    ],
)
def test_the_refusal_of_resume_names_a_command_that_runs(
    resdet: Command, tiny_run: Path, tmp_path: Path, setting: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    before = files(run)
    refused = resdet("train-det", "--resume", run, "train.iterations=10", setting)
    assert refused.code == 2 and "cannot change" in refused.err and refused.err.count("\n") == 1
    words = command_in(refused.err)
    assert setting in words and "train.iterations=2" in words
    done = resdet(*words)
    assert done.code == 0, done.err
    assert "optimizer: momentum of " in done.out and "done: 2 steps" in done.out
    assert f"weights: {run / 'weights' / 'last.pt'}" in done.out
    key, value = setting.split("=")
    assert f"{key.split('.')[1]}: {value}" in (tmp_path / "run-2" / "config.yaml").read_text()
    assert files(run) == before, "the run it starts from is not changed"


def test_weights_and_momentum_are_those_of_the_run(
    resdet: Command, tiny_run: Path, tmp_path: Path
) -> None:
    """A step at a rate near zero changes no weight, and its momentum is that of the run, decayed,
    plus a gradient; from --weights it is the gradient alone."""
    found, plain_weights = {}, tmp_path / "plain.pt"
    torch.save({**last(tiny_run), "average": None}, plain_weights)
    for option, file in (("--from", tiny_run), ("--weights", plain_weights)):
        run = tmp_path / option.strip("-")
        done = resdet(
            *("train-det", "--cfg", tiny_run / "config.yaml", option, file, "--out", run),
            *("train.iterations=1", f"train.lr={TINIEST}", "train.warmup_iterations=0"),
            *("train.eval_every=9", "train.val_loss_batches=0"),
        )
        assert done.code == 0, done.err
        found[option] = last(run)
        assert found[option]["model"].keys() == last(tiny_run)["model"].keys()
        name = "roi_head.cls_logits.weight"
        assert torch.allclose(found[option]["model"][name], last(tiny_run)["model"][name])
    old, new = momentum(last(tiny_run)), momentum(found["--from"])
    for before, forked, plain in zip(old, new, momentum(found["--weights"]), strict=True):
        assert torch.allclose(forked, 0.9 * before + plain, rtol=1e-3, atol=1e-5)


def test_the_config_of_a_fork_runs_again_to_the_same_weights(
    resdet: Command, tiny_run: Path, tmp_path: Path
) -> None:
    words = ("train-det", "--from", tiny_run, "--out", tmp_path / "one", "train.iterations=2")
    assert resdet(*words).code == 0
    config = tmp_path / "one" / "config.yaml"
    assert "start_optimizer: true" in config.read_text()
    again = resdet("train-det", "--cfg", config, "--out", tmp_path / "two")
    assert again.code == 0, again.err
    one, two = (last(tmp_path / name)["model"] for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    resumed = resdet("train-det", "--resume", tmp_path / "one", "train.iterations=3")
    assert resumed.code == 0 and "done: 3 steps" in resumed.out, "a fork is resumed like any run"


def test_other_classes_and_weights_without_an_optimizer(
    resdet: Command, tiny_run: Path, tmp_path: Path
) -> None:
    """Class layers of other classes have no momentum; best.pt has none at all."""
    words = ("train-det", "--from", tiny_run, "--dry-run")
    same = re.search(r"momentum of (\d+) of (\d+)", resdet(*words).out)
    assert same[1] == same[2]
    names = "circle, cross, hexagon, ring, square, star, triangle"
    other = resdet(*words, f"data.classes=[{names}]")
    assert other.code == 0, other.err
    fewer = re.search(r"momentum of (\d+) of (\d+)", other.out)
    assert int(fewer[1]) == int(same[1]) - 4 and "class 'hexagon' is new" in other.out
    best = resdet("train-det", "--from", tiny_run / "weights" / "best.pt", "--dry-run")
    assert best.code == 0 and "has no optimizer state" in best.out


def test_what_does_not_go_with_from(resdet: Command, tiny_run: Path, tmp_path: Path) -> None:
    for more in (("--resume", tiny_run), ("--weights", tiny_run / "weights" / "best.pt")):
        refused = resdet("train-det", "--from", tiny_run, *more)
        assert refused.code == 2 and f"leave out {more[0]}" in refused.err
    missing = resdet("train-det", "--from", tmp_path / "none")
    assert missing.code == 3 and "none" in missing.err
    other = resdet("train-cls", "--from", tiny_run)
    assert other.code == 3 and "classifier" in other.err
    occupied = resdet("train-det", "--from", tiny_run, "--out", tiny_run)
    assert occupied.code == 2 and "not empty" in occupied.err


def test_a_finished_run_is_trained_longer(resdet: Command, tiny_run: Path, tmp_path: Path) -> None:
    """The change of the schedule is told, and milestones may be set."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    longer = ("train-det", "--resume", run, "train.iterations=10")
    done = resdet(*longer, "train.milestones=[9]")
    assert done.code == 0, done.err
    (told,) = (line for line in done.out.splitlines() if line.startswith("schedule step: "))
    assert "train.iterations 8 -> 10, train.milestones [] -> [9]" in told
    assert "the learning rate of step 9 is 0.02 (the run had ended)" in told
    assert "done: 10 steps" in done.out
    again = resdet("train-det", "--resume", run, "train.iterations=12")
    assert "schedule step: train.iterations 10 -> 12; " in again.out
    unchanged = resdet("train-det", "--resume", run, "--dry-run")
    assert unchanged.code == 0 and "schedule step" not in unchanged.out


def test_fewer_steps_than_done_are_refused(resdet: Command, tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    before = files(run)
    for more in ((), ("--dry-run",)):
        refused = resdet("train-det", "--resume", run, "train.iterations=4", *more)
        assert refused.code == 2 and refused.err.count("\n") == 1
        assert "train.iterations=4" in refused.err and "has done 8 steps" in refused.err
    assert files(run) == before
