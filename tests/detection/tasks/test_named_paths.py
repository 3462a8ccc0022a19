"""A checkpoint from someone else opens no path that only it names; one's own run needs nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import resdet as package
import torch
from PIL import Image
from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

OLD = Path(__file__).parent / "old_checkpoints"
COMMANDS = {
    "eval": ("eval", "--weights"),
    "ablate": ("ablate", "--steps", "baseline", "--resamples", "5", "--weights"),
}


@pytest.fixture
def stranger(tiny_run: Path, tmp_path: Path) -> Path:
    """The weights of a run without its folder."""
    return shutil.copy(tiny_run / "weights" / "best.pt", tmp_path / "stranger.pt")


def refused(done: Any, path: Path) -> None:
    assert done.code == 2, done.err
    assert f"error: {path}: the checkpoint alone names data." in done.err
    assert "--trust-paths" in done.err and len(done.err.splitlines()) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_alone_open_nothing(resdet: Command, stranger: Path, command: str) -> None:
    words = COMMANDS[command]
    refused(resdet(*words, stranger, "--dry-run"), stranger)
    done = resdet(*words, stranger, "--dry-run", "--trust-paths")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "words",
    [
        ("responses", "{}", "--out", "{}.responses"),
        ("freeze-bn", "{}", "--out", "{}.safetensors"),
        ("train-cls", "--from", "{}", "--dry-run"),
        ("eval", "--weights", "{}"),
    ],
    ids=" ".join,
)
def test_commands_of_classifiers(resdet: Command, tmp_path: Path, words: tuple[str, ...]) -> None:
    path = shutil.copy(OLD / "classifier.pt", tmp_path / "stranger.pt")
    done = resdet(*(word.format(path) for word in words))
    refused(done, path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "words",
    [
        ("train-det", "--from", "{}", "--dry-run"),
        ("benchmark", "--weights", "{}"),
    ],
    ids=" ".join,
)
def test_commands_of_detectors(resdet: Command, stranger: Path, words: tuple[str, ...]) -> None:
    refused(resdet(*(word.format(stranger) for word in words)), stranger)


@pytest.mark.parametrize("command", ["infer", "eval", "serve"])
def test_other_networks_are_not_opened_by_commands(
    resdet: Command, tmp_path: Path, command: str
) -> None:
    pipe = tmp_path / "classifier.pt"
    os.mkfifo(pipe)
    state = torch.load(OLD / "localizer.pt", weights_only=True)
    state["config"]["test"]["classifiers"] = [str(pipe)]
    path = tmp_path / "l.pt"
    torch.save(state, path)
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    words = {"infer": [tmp_path / "a.png", "--out", tmp_path / "o"], "serve": ["--port", 0]}.get(
        command, []
    )
    done = resdet(command, "--weights", path, *words)
    assert done.code == 2 and f"error: {path}: the checkpoint alone names " in done.err


def test_nothing_is_opened_not_even_a_pipe(
    resdet: Command, stranger: Path, tmp_path: Path, tiny_run: Path
) -> None:
    """Opening it would wait for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    state = torch.load(stranger, weights_only=True)
    state["config"]["data"]["val"] = [
        {"format": "coco", "images": str(tmp_path), "annotations": str(pipe)}
    ]
    torch.save(state, stranger)
    refused(resdet("eval", "--weights", stranger), stranger)
    (tmp_path / "weights").mkdir()
    inside = shutil.copy(stranger, tmp_path / "weights" / "best.pt")
    shutil.copy(tiny_run / "config.yaml", tmp_path)  # names other paths
    refused(resdet("eval", "--weights", inside), inside)


def test_the_users_own_paths_are_opened(
    resdet: Command, stranger: Path, tiny_config: Path, scenes: Path
) -> None:
    named = f"data.val=[{{format: voc, root: {scenes}, split: val}}]"
    train = f"data.train=[{{format: voc, root: {scenes}, split: train}}]"
    for words in (("--cfg", tiny_config), (named, train)):
        done = resdet("eval", "--weights", stranger, "--dry-run", *words)
        assert done.code == 0, done.err


def test_ones_own_run_needs_no_words(resdet: Command, tiny_run: Path) -> None:
    for name in ("best.pt", "last.pt"):
        done = resdet("eval", "--weights", tiny_run / "weights" / name, "--dry-run")
        assert done.code == 0, done.err


def test_resuming(resdet: Command, tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    words = ("train-det", "--resume", run, "--dry-run")
    assert resdet(*words).code == 0
    (run / "config.yaml").unlink()
    refused(resdet(*words), run / "weights" / "last.pt")
    assert resdet(*words, "--trust-paths").code == 0


def test_other_networks_of_a_localizer(tmp_path: Path) -> None:
    state = torch.load(OLD / "localizer.pt", weights_only=True)
    state["config"]["test"]["classifiers"] = [str(OLD / "classifier.pt")]
    torch.save(state, tmp_path / "l.pt")
    with pytest.raises(ConfigError, match=r"l\.pt: the checkpoint alone names test\.classifiers="):
        package.load(tmp_path / "l.pt", "cpu")
    assert package.load(tmp_path / "l.pt", "cpu", trust_paths=True).classes
    own = f"test.classifiers=[{OLD / 'classifier.pt'}]"
    assert package.load(tmp_path / "l.pt", "cpu", [own]).classes
