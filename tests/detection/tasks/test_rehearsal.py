"""A dry run refuses what the run would refuse: settings that it accepts train for two steps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.files import read_config
from resdet.detection.engine.log import RunLog
from resdet.detection.engine.signals import StopRequest
from resdet.detection.engine.step import forward_backward, update
from resdet.detection.errors import ConfigError, DivergedError, ResdetError
from resdet.detection.evaluation.prediction import evaluating
from resdet.detection.tasks.base import ALONE, Task
from resdet.detection.tasks.classifier import CLASSIFICATION
from resdet.detection.tasks.training import Training
from resdet.tools.cli import main

CONFIG = """
task: classification
data: {source: {format: image_folder, root: images}, workers: 0}
crop: {size: 16, kind: padded}
network: {family: resnet, depth: 18, width: 4, norm: group}
train: {iterations: 2, batch_size: 2, schedule: step}
test: {resize: 16, size: 16}
"""
#: Values of settings whose combinations matter to the first steps.
CHOICES = {
    "train.batch_size": range(1, 9),
    "train.accumulate": range(1, 5),
    "train.epochs": (None, 0.3, 4),
    "train.precision": ("fp32", "bf16", "auto"),
    "train.schedule": ("step", "cosine", "plateau"),
    "train.milestones": ([], [1], [1, 5]),
    "train.clip_norm": (None, 1.0),
    "train.ema_decay": (None, 0.0, 1.0),
    "train.warmup_iterations": (0, 1, 100),
    "train.momentum": (0.0, 1.0),
    "train.patience": (None, 1),
    "network.norm": ("batch", "group", "frozen"),
    "network.shortcut": ("A", "B", "C", "none"),
    "network.depth": (18, 20, 50),
    "network.width": (1, 4, 5),
    "crop.kind": ("paper", "resized", "padded"),
    "crop.size": (1, 16, 17, 33),
    "crop.short_sides": ([16, 16], [40, 20], [16, 50]),
    "crop.padding": (0, 40),
    "crop.scale": ([0.0, 0.0], [0.5, 0.2], [0.1, 1.0]),
    "data.val": (None, [], {"fraction": 0.5}),
    "data.max_pixels": (1, 10**6),
}


def overrides(choices: Mapping[str, Iterable[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Values of two to six of the settings."""
    pairs = [st.tuples(st.just(key), st.sampled_from(list(each))) for key, each in choices.items()]
    return st.lists(st.one_of(pairs), min_size=2, max_size=6, unique_by=lambda pair: pair[0]).map(
        dict
    )


def words_of(chosen: Mapping[str, Any]) -> list[str]:
    return [f"{key}={'null' if value is None else value}" for key, value in chosen.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rehearsal")
    for number in range(10):
        kind, part = ("train", "val")[number >= 7], f"class{number % 2}"
        path = folder / "images" / kind / part / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 24), (25 * number, 90, 200)).save(path)
    (folder / "a.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def shards(folder: Path) -> list[str]:
    assert main(["write-shards", str(folder / "images"), "--out", str(folder / "shards")]) == 0
    return ["data.source.format=shards", f"data.source.root={folder / 'shards'}"]


def trains(task: Task, config: Any, folder: Path) -> bool:
    """Whether a dry run accepts the config. If so, two steps of it and an evaluation must not fail,
    unless they diverge; if not, they must fail with the same words."""
    try:
        training = Training(task, config)
    except ResdetError:  # as in a run, which begins so too
        return False
    try:
        training.rehearse()
    except ResdetError as refused:
        with pytest.raises(type(refused), match=re.escape(str(refused))):
            two_steps(Training(task, config), folder)
        return False
    with suppress(DivergedError):
        two_steps(Training(task, config), folder)
    return True


def two_steps(training: Training, folder: Path) -> None:
    """What `Training.run` computes, without its files."""
    task, state, stop = training.task, training.initial_state(ALONE), StopRequest()
    config, model = training.loaded.config, training.loaded.model
    prepared = task.prepare(training, folder, ALONE, RunLog(None))
    model.train()
    batches = iter(task.train_batches(config, training.splits["train"], prepared, 0, ALONE))
    for _ in range(min(2, training.settings.iterations)):
        parts = list(islice(batches, training.settings.accumulate))
        _, finite, _ = forward_backward(model, parts, state, training.settings, ALONE, stop)
        assert len(parts) == training.settings.accumulate
        if finite:
            update(state, training.settings, 0.001)
        state.step += 1
    if split := training.splits.get("val"):
        tested = training.tested.config
        with evaluating(model):
            found = task.predict_split(training.pipeline, tested, split, ALONE)
            task.validate(training.loaded, split, ALONE)
        assert found is not None and len(found) == len(split.records)
        task.evaluate(found, split, tested, quick=True)


@settings(max_examples=25)
@given(overrides(CHOICES))
@example({"train.batch_size": 1, "network.norm": "batch", "crop.size": 16})
@example({"train.batch_size": 3, "train.accumulate": 2})
@example({"crop.kind": "resized", "crop.scale": [0.0, 0.0]})
def test_what_a_dry_run_accepts_trains(folder: Path, chosen: dict[str, object]) -> None:
    try:
        config = read_config(ClassifierConfig, folder / "a.yaml", words_of(chosen))
    except ConfigError:
        return
    trains(CLASSIFICATION, config, folder)


@pytest.mark.parametrize(
    ("batch", "lanes", "accepted"), [(8, 8, True), (4, 8, False), (4, 2, True), (2, 1, True)]
)
def test_a_stream_of_shards(
    batch: int, lanes: int, accepted: bool, folder: Path, shards: list[str]
) -> None:
    pytest.importorskip("webdataset")
    words = [*shards, f"train.batch_size={batch}", f"data.source.lanes={lanes}"]
    config = read_config(ClassifierConfig, folder / "a.yaml", words)
    assert trains(CLASSIFICATION, config, folder) is accepted


def test_lanes_that_a_batch_does_not_fill_are_named(
    folder: Path, shards: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("webdataset")
    words = ["train-cls", "--cfg", str(folder / "a.yaml"), *shards, "train.batch_size=4"]
    for way in (["--dry-run"], ["--out", str(folder / "run")]):
        assert main([*words, *way]) == 2
        said = capsys.readouterr().err
        assert "train.batch_size 4 cannot be divided among 8 lanes" in said
        assert "data.source.lanes" in said
    assert not (folder / "run" / "config.yaml").exists()
