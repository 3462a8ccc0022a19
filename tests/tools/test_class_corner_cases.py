"""Training where classes have no objects in one of the splits, through the real commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

FAST = ("train.iterations=2", "train.eval_every=1", "train.val_loss_batches=0")


@pytest.fixture
def without(scenes: Path, tiny_config: Path, tmp_path: Path) -> Path:
    """The config of the tiny detector on data whose validation images have no objects, and which
    has one class more than them."""
    folder = tmp_path / "scenes"
    for path in scenes.rglob("*"):
        if path.is_file():
            copy = folder / path.relative_to(scenes)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    for name in (folder / "ImageSets" / "Main" / "val.txt").read_text().split():
        file = folder / "Annotations" / f"{name}.xml"
        head, _, _ = file.read_text().partition("<object>")
        file.write_text(f"{head.removesuffix('</annotation>')}</annotation>")
    config = tmp_path / "config.yaml"
    config.write_text(tiny_config.read_text().replace("square, star,", "square, star, hexagon,"))
    return config


def test_nothing_to_find_gives_no_best(resdet: Command, without: Path, tmp_path: Path) -> None:
    """The numbers of both commands are "-", and best.pt has the last weights."""
    run = tmp_path / "run"
    done = resdet("train-det", "--cfg", without, "--out", run, *FAST)
    assert done.code == 0, done.err
    assert "voc_ap50 -" in done.out and "nan" not in done.out and "0.0000" not in done.out
    assert "\ndone: 2 steps, no best: data.val" in done.out
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["voc_ap50"] for row in rows if row["kind"] == "eval"} == {None}
    evaluated = resdet("eval", "--weights", run / "weights" / "best.pt", "--out", tmp_path / "ev")
    assert evaluated.code == 0, evaluated.err
    metrics = json.loads((tmp_path / "ev" / "metrics.json").read_text())["metrics"]
    assert metrics["voc_ap50"] is None and metrics["coco_ap"] is None


def test_classes_without_objects_are_told_before_the_first_step(
    resdet: Command, without: Path
) -> None:
    done = resdet("train-det", "--cfg", without, "--dry-run")
    assert done.code == 0
    (warning,) = (line for line in done.out.splitlines() if line.startswith("WARNING: data.train"))
    assert "1 of 7 classes" in warning and "hexagon" in warning and "cannot learn" in warning
    (note,) = (line for line in done.out.splitlines() if line.startswith("data.val: "))
    assert "7 of 7 classes" in note and "undefined (-)" in note


def test_a_set_with_objects_of_all_classes_is_not_warned_of(
    resdet: Command, tiny_config: Path
) -> None:
    done = resdet("train-det", "--cfg", tiny_config, "--dry-run")
    assert done.code == 0 and "cannot learn" not in done.out


def test_what_is_wrong_with_class_folders_is_told_before_the_first_step(
    resdet: Command, tmp_path: Path
) -> None:
    """An image in two classes and a class without validation images are warnings; a class that only
    validation has, and one without images, are errors that name the folder."""
    noise = np.random.default_rng(0)
    for name in ("train/cat/0", "train/cat/1", "train/dog/0", "train/dog/1", "val/cat/0"):
        path = tmp_path / "in" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    shutil.copy(tmp_path / "in/train/cat/0.png", tmp_path / "in/train/dog/copy.png")
    config = tmp_path / "config.yaml"
    config.write_text(
        "task: classification\n"
        "data: {source: {format: image_folder, root: in}, workers: 0}\n"
        "crop: {kind: resized, size: 32}\n"
        "network: {depth: 18, width: 8}\n"
        "train: {iterations: 2, batch_size: 2, base_batch_size: 2}\n"
        "test: {resize: 36, size: 32}\n"
    )

    done = resdet("train-cls", "--cfg", config, "--dry-run")
    assert done.code == 0, done.err
    told = [line for line in done.out.splitlines() if line.startswith("WARNING: data.")]
    assert len(told) == 2
    assert told[0].startswith("WARNING: data.train: ") and "train/dog/copy.png" in told[0]
    assert "is 'dog' and has the same bytes as" in told[0] and "train/cat/0.png" in told[0]
    assert "WARNING: data.val: " in told[1] and "no images of 1 classes: dog" in told[1]

    (tmp_path / "in/val/dog").mkdir()
    done = resdet("train-cls", "--cfg", config, "--dry-run")
    assert done.code == 3 and "val/dog: dog: the class folder has no images" in done.err
    (tmp_path / "in/val/dog").rename(tmp_path / "in/val/fox")
    shutil.copy(tmp_path / "in/val/cat/0.png", tmp_path / "in/val/fox/0.png")
    done = resdet("train-cls", "--cfg", config, "--dry-run")
    assert done.code == 3
    assert "val/fox: fox: 1 image of a class that training lacks (first 0.png)" in done.err
