"""Validation images that are held out of the training images, and training without any."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from resdet.detection.config.files import read_config
from resdet.detection.tasks.banner import describe_splits
from resdet.detection.tasks.detector import DETECTION
from resdet.detection.tasks.held_out import read_splits

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

FAST = ("train.iterations=2", "train.eval_every=1", "train.val_loss_batches=0")
SHARE = "data.val={fraction: 0.25}"


def listed(run: Path) -> list[str]:
    return (run / "held_out.txt").read_text().splitlines()


def last(run: Path) -> dict:
    return torch.load(run / "weights" / "last.pt", weights_only=True)


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of three classes without a validation part; each pair of two is nearly one."""
    root = tmp_path_factory.mktemp("folders")
    for label in range(3):
        for index in range(8):
            noise = torch.Generator().manual_seed(100 * label + index // 2)
            grey = torch.rand(6, 6, generator=noise).mul(255).byte().numpy()
            image = Image.fromarray(grey).resize((48, 48)).convert("RGB")
            if index % 2:
                image = image.point(lambda value: min(255, value + 6))
            path = root / "train" / f"class{label}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    (root / "c.yaml").write_text(
        "task: classification\n"
        "data: {source: {format: image_folder, root: .}, workers: 0}\n"
        "crop: {size: 32, kind: padded}\n"
        "network: {family: cifar, depth: 20, width: 4}\n"
        "train: {iterations: 2, batch_size: 4, base_batch_size: 4, lr: 0.01, eval_every: 1,\n"
        "  schedule: step}\n"
        "test: {resize: 32, size: 32}\n"
    )
    return root


def test_a_detector_holds_out_a_share(resdet: Command, tiny_config: Path, tmp_path: Path) -> None:
    """The same share in every run, listed, told, evaluated by `resdet eval`, kept by --resume."""
    run = tmp_path / "run"
    words = ("train-det", "--cfg", tiny_config, SHARE, *FAST)
    done = resdet(*words, "--out", run)
    assert done.code == 0, done.err
    names = listed(run)
    count = len(names)
    assert 2 <= count <= 4 and last(run)["held_out"] == names
    assert f"data.val: {count} of 12 training images are held out (seed 0)" in done.out
    assert f"train: images: {12 - count} " in done.out and f"val: images: {count} " in done.out
    assert resdet(*words, "--out", tmp_path / "again", "train.seed=5").code == 0
    assert listed(tmp_path / "again") == names, "the seed of training has no influence"
    other = resdet(*words, "data.val.seed=1", "--out", tmp_path / "other")
    assert other.code == 0 and listed(tmp_path / "other") != names

    for part, images in (("val", count), ("train", 12 - count)):
        ev = resdet(
            *("eval", "--weights", run / "weights" / "last.pt", "--out", tmp_path / part),
            *("--no-coco", "--split", part),
        )
        assert ev.code == 0, ev.err
        assert json.loads((tmp_path / part / "metrics.json").read_text())["images"] == images
    resumed = resdet("train-det", "--resume", run, "train.iterations=3")
    assert resumed.code == 0 and last(run)["held_out"] == names


def test_images_that_are_added_later_are_not_held_out(
    resdet: Command, tiny_config: Path, scenes: Path, tmp_path: Path
) -> None:
    """A run keeps its choice; without one of those images it stops."""
    data = tmp_path / "scenes"
    shutil.copytree(scenes, data)
    config = tmp_path / "c.yaml"
    shutil.copy(tiny_config, config)
    run = tmp_path / "run"
    assert resdet("train-det", "--cfg", config, SHARE, *FAST, "--out", run).code == 0
    names, lists = listed(run), data / "ImageSets" / "Main"
    both = (lists / "train.txt").read_text() + (lists / "val.txt").read_text()
    (lists / "train.txt").write_text(both)
    done = resdet("train-det", "--resume", run, "train.iterations=3")
    assert done.code == 0 and f"data.val: {len(names)} of 18 training images" in done.out
    assert listed(run) == names
    (lists / "train.txt").write_text(both.replace(f"{names[0]}\n", ""))
    missing = resdet("train-det", "--resume", run, "train.iterations=4")
    assert missing.code == 3 and f"1 of {len(names)} images that the run held out" in missing.err
    assert names[0] in missing.err


def test_a_classifier_keeps_near_copies_on_one_side(
    resdet: Command, class_folders: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("train-cls", "--cfg", class_folders / "c.yaml")
    done = resdet(*words, "--out", run, SHARE)
    assert done.code == 0, done.err
    names = listed(run)
    assert "val_top1_error" in done.out and len(names) == 6
    pairs = {(Path(name).parent.name, int(Path(name).stem) // 2) for name in names}
    assert len(pairs) == 3 and {folder for folder, _ in pairs} == {"class0", "class1", "class2"}
    ev = resdet("eval", "--weights", run / "weights" / "best.pt", "--out", tmp_path / "ev")
    assert ev.code == 0, ev.err
    assert json.loads((tmp_path / "ev" / "metrics.json").read_text())["images"] == 6
    both = resdet(*words, "--dry-run", SHARE, "data.source.val_fraction=0.5")
    assert both.code == 2 and "give one" in both.err


@pytest.mark.parametrize("command", ["train-det", "train-cls"])
def test_without_validation(
    resdet: Command, tiny_config: Path, class_folders: Path, tmp_path: Path, command: str
) -> None:
    """Said once; best.pt has the last weights; what follows evaluations is refused."""
    config = tiny_config if command == "train-det" else class_folders / "c.yaml"
    run = tmp_path / "run"
    words = (command, "--cfg", config, "data.val=[]")
    done = resdet(*words, "--out", run, "train.iterations=3", "train.eval_every=2")
    assert done.code == 0, done.err
    assert done.out.count("no validation images") == 1 and "evaluation" not in "".join(
        line for line in done.out.splitlines() if line.startswith("evaluation")
    )
    assert "done: 3 steps, without validation: best.pt is last.pt" in done.out
    best = torch.load(run / "weights" / "best.pt", weights_only=True)
    assert best["step"] == 3
    weights = last(run)["average"] or last(run)["model"]
    assert all(torch.equal(best["model"][name], weights[name]) for name in weights)
    for setting in ("train.patience=3", "train.schedule=plateau"):
        refused = resdet(*words, "--dry-run", setting)
        assert refused.code == 2 and setting in refused.err and "data.val" in refused.err
    ev = resdet("eval", "--weights", run / "weights" / "best.pt")
    assert ev.code == 2 and "no validation images" in ev.err
    resumed = resdet(command, "--resume", run, "train.iterations=4")
    assert resumed.code == 0 and "done: 4 steps" in resumed.out


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("data.val={fraction: 1.5}", ("data.val.fraction", "less than 1")),
        ("data.val={share: 0.5}", ("data.val.share", "unknown key")),
        ("data.val=[{format: voc, root: x, splits: train}]", ("data.val.0", "split")),
        ("data.val=7", ("data.val", "7")),
    ],
)
def test_what_is_no_validation(
    resdet: Command, tiny_config: Path, setting: str, parts: tuple[str, ...]
) -> None:
    refused = resdet("train-det", "--cfg", tiny_config, "--dry-run", setting)
    assert refused.code in (2, 3)
    assert all(part in refused.err for part in parts) and "<" not in refused.err, refused.err


def test_the_check_of_the_data_sees_all_images(resdet: Command, tiny_config: Path) -> None:
    done = resdet("check-data", "--cfg", tiny_config, SHARE, "--quick")
    assert done.code == 0 and "12" in done.out, done.err


def test_what_was_found_is_told_of_one_part_only(
    tiny_config: Path, scenes: Path, tmp_path: Path
) -> None:
    """Both parts are read from the training sources, whose findings were counted twice."""
    shutil.copytree(scenes, tmp_path / "scenes")
    names = (scenes / "ImageSets/Main/train.txt").read_text().split()
    next((tmp_path / "scenes/JPEGImages").glob(f"{names[0]}.*")).unlink()
    xmls = [tmp_path / "scenes/Annotations" / f"{name}.xml" for name in names[1:]]
    xmls = [xml for xml in xmls if "<xmin>" in xml.read_text()]
    for xml in xmls:
        xml.write_text(re.sub("<xmin>.*?</xmin>", "<xmin>900</xmin>", xml.read_text(), count=1))
    words = [SHARE, f"data.root={tmp_path}", "data.on_bad_image=skip", "data.on_bad_box=drop"]
    config = read_config(DETECTION.schema, str(tiny_config), words)
    splits = read_splits(DETECTION, config)
    told = " ".join(describe_splits(splits))
    assert told.count("skipped 1)") == 1 and told.count("skipped 0)") == 1
    dropped = {name: [f for f in split.findings if f.box] for name, split in splits.items()}
    assert all(dropped.values())
    files = [finding.file for found in dropped.values() for finding in found]
    assert len(files) == len(set(files)) and set(files) <= set(xmls)
    for name, split in splits.items():
        assert {f.image for f in dropped[name]} <= {record.path for record in split.records}
