"""``train.epochs``: a run whose length is given in passes over its images, in every task."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import dump_config, load_config, override
from resdet.detection.errors import ConfigError
from resdet.detection.tasks.epochs import with_iterations

if TYPE_CHECKING:
    from resdet.tests.conftest import Command


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "weights" / "last.pt", weights_only=True)


@pytest.mark.parametrize(
    ("epochs", "images", "batch", "steps"),
    [
        (12, 12, 2, 72),
        (0.5, 12, 2, 3),
        (2.5, 5, 2, 8),  # 7.5 steps
        (1.1, 10, 1, 11),  # 11.000000000000002 as floats
        (1e-06, 3, 16, 1),
        (3, 5, 16, 3),  # fewer images than a batch
    ],
)
def test_iterations_follow_from_epochs(epochs: float, images: int, batch: int, steps: int) -> None:
    settings = [f"train.epochs={epochs:.8f}", f"train.batch_size={batch}"]
    config = override(ClassifierConfig(), settings)
    assert with_iterations(config, images).train.iterations == steps
    assert override(ClassifierConfig(), ["train.iterations=7"]) == with_iterations(
        override(ClassifierConfig(), ["train.iterations=7"]), images
    )


@given(st.integers(1, 400), st.integers(1, 5000), st.integers(1, 300))
def test_whole_epochs_have_every_image_as_often(epochs: int, images: int, batch: int) -> None:
    config = override(ClassifierConfig(), [f"train.epochs={epochs}", f"train.batch_size={batch}"])
    steps = with_iterations(config, images).train.iterations
    assert steps % epochs == 0 and 0 <= steps // epochs * batch - images < batch


def test_too_many_steps_are_refused() -> None:
    config = override(ClassifierConfig(), ["train.epochs=1e6", "train.batch_size=1"])
    with pytest.raises(ConfigError, match=r"train\.epochs=1e.06: 1281167000000 steps of 1 images"):
        with_iterations(config, 1_281_167)


def test_the_upper_layer_says_how_long(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower.yaml", tmp_path / "upper.yaml"
    lower.write_text("train: {iterations: 7, lr: 0.5}\n")
    upper.write_text("base: lower.yaml\ntrain:\n  epochs: 3\n")
    config = load_config(upper)
    assert (config.train.epochs, config.train.lr) == (3, 0.5)
    assert load_config(upper, ["train.iterations=9"]).train.epochs is None
    assert load_config(lower, ["train.epochs=2.5"]).train.epochs == 2.5
    assert load_config(upper, ["train.epochs=null"]).train.epochs is None
    stored = override(with_iterations(config, 100), ["train.iterations=9"])
    assert (stored.train.iterations, stored.train.epochs) == (9, None)


def test_two_lengths_in_one_place_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("train:\n  iterations: 7\n  epochs: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == (
        f"{path}:2: train.iterations and {path}:3: train.epochs: each says how long training is; "
        "give one of them"
    )
    both = ["train.epochs=2", "train.iterations=4"]
    for refuse in (lambda: override(DetectorConfig(), both), lambda: load_config("voc_r101", both)):
        with pytest.raises(
            ConfigError, match=r"override train.iterations=4: .* override train.epo"
        ):
            refuse()


@pytest.mark.parametrize("value", ["0", "-1", "two", "1e7", ".nan"])
def test_epochs_are_a_positive_number(value: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        override(DetectorConfig(), [f"train.epochs={value}"])


def test_a_saved_config_has_what_counts(tmp_path: Path) -> None:
    for setting, unused in (("epochs", "iterations"), ("iterations", "epochs")):
        config = override(ClassifierConfig(), [f"train.{setting}=3"])
        text = dump_config(config)
        assert f"  {setting}: 3" in text and f"  {unused}:" not in text
        (tmp_path / "a.yaml").write_text(dump_config(load_config("voc_r101")))
        assert load_config(tmp_path / "a.yaml") == load_config("voc_r101")


SHORT = ("train.eval_every=99", "train.checkpoint_every=99", "train.val_loss_batches=0")


@pytest.fixture(scope="module")
def half(resdet: Command, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half an epoch of twelve images in pairs."""
    out = tmp_path_factory.mktemp("runs") / "half"
    words = ("--cfg", tiny_config, "--out", out, "train.epochs=0.5", "train.log_every=1", *SHORT)
    done = resdet("train-det", *words)
    assert done.code == 0, done.err
    assert "steps: 3, 0.5 epochs of 6" in done.out and "done: 3 steps" in done.out
    assert re.findall(r"epoch (\S+)", done.out) == ["0.2/0.5", "0.3/0.5", "0.5/0.5"]
    assert "epochs: 0.5" in (out / "config.yaml").read_text()
    return out


def test_a_run_of_epochs_is_resumed_for_more(resdet: Command, half: Path) -> None:
    dry = resdet("train-det", "--resume", half, "--dry-run", "train.epochs=1")
    assert dry.code == 0 and "steps: 6, 1 epochs of 6" in dry.out, dry.err
    assert "train.iterations 3 -> 6" in dry.out
    dry = resdet("train-det", "--resume", half, "--dry-run", "train.iterations=4")
    assert dry.code == 0 and "steps: 4, 0.7 epochs of 6" in dry.out, dry.err
    fewer = resdet("train-det", "--resume", half, "train.epochs=0.3")
    assert fewer.code == 2 and "train.epochs=0.3, 2 steps: " in fewer.err


def test_the_command_for_the_rest_counts_steps(resdet: Command, half: Path) -> None:
    refused = resdet("train-det", "--resume", half, "train.epochs=1", "train.lr=0.5")
    assert refused.code == 2 and "train.iterations=3" in refused.err
    assert " train.epochs=" not in refused.err.partition("--from")[2]


def test_a_fork_has_the_epochs_of_its_run(resdet: Command, half: Path, tmp_path: Path) -> None:
    words = ("train-det", "--from", half, "--dry-run", "train.batch_size=3")
    assert "steps: 2, 0.5 epochs of 4" in resdet(*words).out
    assert "steps: 7, 1.8 epochs of 4" in resdet(*words, "train.iterations=7").out


def test_epochs_of_a_classifier(resdet: Command, tmp_path: Path) -> None:
    """A fraction of an epoch is rounded up to whole steps."""
    for label in range(2):
        for index in range(3):
            path = tmp_path / "data" / "train" / f"class{label}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (90 * label, 60 * index, 50)).save(path)
    (tmp_path / "c.yaml").write_text(
        "task: classification\n"
        "data: {source: {format: image_folder, root: data}, val: [], workers: 0}\n"
        "crop: {size: 32, kind: padded}\n"
        "network: {family: resnet, depth: 18, width: 4, norm: group}\n"
        "train: {epochs: 1.5, batch_size: 4, schedule: step, log_every: 1}\n"
        "test: {resize: 32, size: 32}\n"
    )
    done = resdet("train-cls", "--cfg", tmp_path / "c.yaml", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "epoch 1.5/1.5" in done.out and last(tmp_path / "run")["step"] == 3
