"""Images that cannot be used, from folder to number: ``data.on_bad_image`` in every task."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from resdet.datasets.catalog import DataSplit
from resdet.datasets.findings import Finding
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.detection.errors import DataError
from resdet.detection.structures import Record
from resdet.detection.tasks.skipped import describe_skipped, evaluate_read, skipped_images
from resdet.tools.cli import main

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

CONFIG = """
task: classification
data:
  source: {format: image_folder, root: colours}
  workers: 0
crop: {kind: resized, size: 32}
network: {depth: 18, width: 8}
train: {iterations: 4, batch_size: 4, base_batch_size: 4, log_every: 2, eval_every: 4}
test: {resize: 36, size: 32, batch_size: 3}
"""
SKIP = "data.on_bad_image=skip"
UNREAD = "data.source.headers=false"
Failing = Callable[..., str]


def draw(path: Path, height: int, width: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two classes of four training and two validation images, and the config beside them."""
    root = tmp_path / "colours"
    for name in ("blue", "red"):
        for number in range(6):
            split = "train" if number < 4 else "val"
            draw(root / split / name / f"{number}.jpg", 40, 48, number)
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Failing:
    """The one line of a command that ends with an error of the data."""

    def fail(*words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 3, words
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("error: "), said
        return said[-1]

    return fail


def train(config: Path, run: Path, *words: object) -> None:
    assert main(["train-cls", "--cfg", str(config), "--out", str(run), *map(str, words)]) == 0


def listed(run: Path) -> dict[str, str]:
    """{name: reason} of the images that a run skipped."""
    lines = (run / "skipped_images.txt").read_text().splitlines()
    found = [re.fullmatch(r"(.*?\.jpg): (.*)", line) for line in lines]
    return {Path(each[1]).name: each[2] for each in found if each}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "weights" / "last.pt")["model"]


# --------------------------------------------------------------------------- by hand


def test_what_an_evaluation_leaves_out(tmp_path: Path) -> None:
    draw(tmp_path / "good.jpg", 40, 40)
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    records = tuple(
        Record(name, tmp_path / f"{name}.jpg", (40, 40)) for name in ("good", "bad", "gone")
    )
    before = Finding("tiny_image", "warning", tmp_path / "t.jpg", "tiny", outcome="skipped")
    split = DataSplit(records, ("cat",), (before,))
    config = ClassifierConfig.model_validate({"data": {"on_bad_image": "skip"}})
    lines = skipped_images({"good": 1}, split, config)
    assert [line.split(":")[0] for line in lines] == [
        str(tmp_path / name) for name in ("t.jpg", "bad.jpg", "gone.jpg")
    ]
    assert "no such file" in lines[2]
    assert describe_skipped(lines, 1).startswith("3 of 4 images skipped and not in these numbers")
    assert describe_skipped([], 4) == ""


def test_a_readable_image_without_prediction_is_not_left_out(tmp_path: Path) -> None:
    """Else predictions of another tool would score better the more images they leave out."""
    records = tuple(Record(name, tmp_path / f"{name}.jpg", (40, 40)) for name in ("a", "b"))
    for record in records:
        draw(record.path, 40, 40)
    config = ClassifierConfig.model_validate({"data": {"on_bad_image": "skip"}})
    assert skipped_images({"a": 1}, DataSplit(records, ("cat",)), config) == []

    def evaluate(found: object, kept: tuple[Record, ...], classes: tuple[str, ...]) -> object:
        raise DataError(f"{len(kept)} images")

    with pytest.raises(DataError, match="2 images"):
        evaluate_read(evaluate, {"a": 1}, DataSplit(records, ("cat",)), config)


# --------------------------------------------------------------------------- classification


def test_a_classifier_trains_on_images_of_any_size(config: Path, tmp_path: Path) -> None:
    for name, size in {"narrow": (12, 40), "dot": (1, 1), "line": (1, 60)}.items():
        draw(config.parent / "colours" / "train" / "red" / f"{name}.jpg", *size)
        draw(config.parent / "colours" / "val" / "red" / f"{name}.jpg", *size)
    for number, kind in enumerate(("resized", "paper", "padded")):
        words = ["crop.short_sides=[32,40]"] if kind == "paper" else []
        words += ["train.batch_size=7", "train.iterations=1"]
        train(config, tmp_path / str(number), f"crop.kind={kind}", *words)
        assert not (tmp_path / str(number) / "skipped_images.txt").exists()
    out = tmp_path / "eval"
    best = tmp_path / "0" / "weights" / "best.pt"
    assert main(["eval", "--weights", str(best), "--out", str(out)]) == 0
    assert json.loads((out / "metrics.json").read_text())["images"] == 7


@pytest.mark.parametrize("words", [(), (UNREAD, "data.workers=2")])
def test_the_error_names_file_reason_and_setting(
    words: tuple[str, ...], config: Path, tmp_path: Path, failing: Failing
) -> None:
    bad = config.parent / "colours" / "train" / "red" / "9.jpg"
    draw(bad, 12, 40)
    error = failing(
        "train-cls", "--cfg", config, "--out", tmp_path / "run", "data.min_side=16", *words
    )
    assert f"{bad}: 40x12 has a side under 16 px" in error and SKIP in error
    long = failing("train-cls", "--cfg", config, "--out", tmp_path / "b", "data.max_aspect=3")
    assert f"{bad}: 40x12 is longer than 3:1" in long and SKIP in long


def damage(train_folder: Path) -> dict[str, str]:
    """Bad images of each kind, and what is said of them."""
    draw(train_folder / "tiny.jpg", 5, 40)
    draw(train_folder / "long.jpg", 10, 200)
    (train_folder / "page.jpg").write_bytes(b"<html>")
    whole = (train_folder / "0.jpg").read_bytes()
    (train_folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return {"tiny.jpg": "side under", "long.jpg": "longer", "page.jpg": "", "cut.jpg": "truncated"}


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("headers", ["true", "false"])
def test_skipped_images_are_counted_and_listed(
    headers: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = damage(config.parent / "colours" / "train" / "red")
    (config.parent / "colours" / "val" / "blue" / "4.jpg").write_bytes(b"")
    run = tmp_path / "run"
    words = (SKIP, "data.min_side=8", "data.max_aspect=10", f"data.source.headers={headers}")
    train(config, run, *words, "train.iterations=8", "train.eval_every=8")
    assert main(["eval", "--weights", str(run / "weights" / "last.pt")]) == 0
    found = listed(run)
    assert found.keys() == {*reasons, "4.jpg"}
    assert all(reasons[name] in found[name] for name in reasons)
    out = " ".join(capsys.readouterr().out.split())
    assert f"5 image(s) skipped, with reasons in {run / 'skipped_images.txt'}" in out
    assert out.count("1 of 4 images skipped and not in these numbers") == 2  # in training, in eval
    assert "4.jpg: " in out


def test_skipping_does_not_depend_on_workers_or_interruption(config: Path, tmp_path: Path) -> None:
    damage(config.parent / "colours" / "train" / "red")
    words = (SKIP, UNREAD, "data.min_side=8", "data.max_aspect=10", "train.checkpoint_every=2")
    train(config, tmp_path / "one", *words, "train.iterations=8")
    train(config, tmp_path / "workers", *words, "train.iterations=8", "data.workers=3")
    train(config, tmp_path / "resumed", *words)
    before = (tmp_path / "resumed" / "skipped_images.txt").read_text()
    resume = ["train-cls", "--resume", str(tmp_path / "resumed"), "train.iterations=8"]
    assert main(resume) == 0
    one = weights(tmp_path / "one")
    for other in ("workers", "resumed"):
        assert all(torch.equal(one[name], each) for name, each in weights(tmp_path / other).items())
        assert listed(tmp_path / other) == listed(tmp_path / "one")
    after = (tmp_path / "resumed" / "skipped_images.txt").read_text()
    assert after.startswith(before) and len(set(after.splitlines())) == after.count("\n")


def test_a_run_that_a_bad_image_ended_goes_on(
    config: Path, tmp_path: Path, failing: Failing
) -> None:
    run = tmp_path / "run"
    train(config, run, UNREAD, "train.iterations=2", "train.checkpoint_every=1")
    (config.parent / "colours" / "train" / "red" / "0.jpg").write_bytes(b"<html>")
    resume = ("train-cls", "--resume", run, "train.iterations=8")
    assert SKIP in failing(*resume)
    assert main([*map(str, resume), SKIP]) == 0
    assert listed(run).keys() == {"0.jpg"}


def test_two_processes_replace_the_same_images(
    resdet: Command, config: Path, tmp_path: Path
) -> None:
    damage(config.parent / "colours" / "train" / "red")
    words = (SKIP, UNREAD, "data.min_side=8", "data.max_aspect=10", "crop.size=64")
    words += ("train.iterations=2", "train.eval_every=2", "train.lr=0.02", "train.batch_size=8")
    train(config, tmp_path / "one", *words)
    two = ("resdet", "train-cls", "--cfg", config, "--out", tmp_path / "two", *words)
    done = resdet.torchrun(*two)
    assert done.returncode == 0, done.stderr
    assert listed(tmp_path / "two") == listed(tmp_path / "one")
    assert f"{len(listed(tmp_path / 'one'))} image(s) skipped" in done.stdout
    other = weights(tmp_path / "two")
    for name, tensor in weights(tmp_path / "one").items():
        assert (other[name] - tensor).abs().max() <= 1e-3 * tensor.abs().max(), name


def test_nothing_is_left(config: Path, tmp_path: Path, failing: Failing) -> None:
    for path in (config.parent / "colours" / "val").rglob("*.jpg"):
        path.write_bytes(b"")
    words = ("train-cls", "--cfg", config, SKIP, "--out")
    assert "no images in 'val': all 4 were skipped" in failing(*words, tmp_path / "a")
    with pytest.warns(UserWarning, match="left out"):
        assert "no image can be evaluated" in failing(*words, tmp_path / "b", UNREAD)


# --------------------------------------------------------------------------- detection


@pytest.fixture
def damaged(copied: Path) -> Path:
    """A data set in which one image is missing, one damaged and one of another size."""
    images = copied / "scenes" / "JPEGImages"
    (images / "train_00001.jpg").unlink()
    (images / "train_00002.jpg").write_bytes(b"<html>")
    draw(images / "train_00003.jpg", 50, 60)
    (images / "val_00001.jpg").unlink()
    return copied


@pytest.fixture
def copied(tiny_config: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_config.parent, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_detector_trains_without_its_bad_images(
    damaged: Path, tiny_config: Path, tmp_path: Path, failing: Failing
) -> None:
    words: tuple[Any, ...] = ("--cfg", damaged / tiny_config.name)
    error = failing("train-det", *words, "--out", tmp_path / "a")
    assert SKIP in error and "train_00001" in error
    said = failing("check-data", *words)
    assert "error" in said
    run = tmp_path / "run"
    done = main(["train-det", *map(str, words), SKIP, "train.iterations=2", "--out", str(run)])
    assert done == 0
    lines = (run / "skipped_images.txt").read_text()
    assert lines.count("\n") == 4
    for name in ("train_00001", "train_00002", "train_00003", "val_00001"):
        assert name in lines
    report = json.loads((run / "data_report.json").read_text())
    outcomes = [each for each in report["findings"] if each["severity"] == "warning"]
    assert {"missing_image", "unreadable_image", "size_mismatch"} <= {
        each["kind"] for each in outcomes
    }
    log = (run / "train.log").read_text()
    assert "train: images: 9 " in log and "skipped 3)" in log
    assert "1 of 6 images skipped and not in these numbers" in log


def test_check_data_names_the_setting(
    damaged: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["check-data", "--cfg", str(damaged / tiny_config.name)]
    assert main(words) == 3
    assert f"{SKIP} settles all errors" in capsys.readouterr().out
    assert main([*words, SKIP]) == 0
    assert "skipped" in capsys.readouterr().out
