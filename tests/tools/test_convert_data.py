"""The convert-data command: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from resdet.tests.datasets.formats.sources import read
from resdet.tools.cli import main


def _run(*words: object) -> int:
    return main(["convert-data", *map(str, words)])


def test_there_and_back(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Drawn scenes have difficult objects, which COCO keeps."""
    coco, back = tmp_path / "coco", tmp_path / "back"
    splits = ("--split", "train", "--split", "val")
    assert _run(scenes, "--from", "voc", "--to", "coco", *splits, "--out", coco) == 0
    printed = capsys.readouterr().out
    assert "train: 12 images (1 empty), 34 objects" in printed
    assert "val: 6 images" in printed
    assert f"{coco} is complete (coco)\nnext: resdet check-data {coco}\n" in printed
    assert _run(coco, "--from", "coco", "--to", "voc", *splits, "--out", back, "--link") == 0
    for split in ("train", "val"):
        for old, new in zip(read("voc", scenes, split), read("voc", back, split), strict=True):
            assert (new.image_id, new.size, new.objects) == (old.image_id, old.size, old.objects)
            assert new.path.read_bytes() == old.path.read_bytes()


def test_a_json_with_its_own_folder_of_images(scenes: Path, tmp_path: Path) -> None:
    coco, yolo = tmp_path / "coco", tmp_path / "yolo"
    assert _run(scenes, "--from", "voc", "--to", "coco", "--split", "val", "--out", coco) == 0
    json = coco / "annotations/instances_val.json"
    words = (coco / "val", "--from", "coco", "--annotations", json, "--split", "test")
    assert _run(*words, "--to", "yolo", "--out", yolo, "--allow-loss") == 0
    assert len(list((yolo / "labels/test").iterdir())) == 6


def test_loss_is_refused_or_counted(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "yolo"
    words = (scenes, "--from", "voc", "--to", "yolo", "--split", "train", "--out", out)
    difficult = sum(obj.ignore for image in read("voc", scenes, "train") for obj in image.objects)
    assert difficult > 0
    assert _run(*words) == 3
    said = f"difficult and crowd objects are left out: {difficult}"
    assert said in capsys.readouterr().err
    assert not out.exists()
    assert _run(*words, "--allow-loss") == 0
    assert f"lost: {said}" in capsys.readouterr().out
    assert said in (out / "conversion.txt").read_text()


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (("--from", "voc", "--to", "voc", "--split", "train"), "is voc already", 2),
        (("--from", "voc", "--to", "coco", "--split", "../x"), "--split: '../x' is not a name", 2),
        (("--from", "voc", "--to", "coco", "--split", ".."), "--split: '..' is not a name", 2),
        (("--from", "voc", "--to", "coco", *("--split", "train") * 2), "one is given twice", 2),
        (
            ("--from", "voc", "--to", "coco", "--split", "train", "--annotations", "x"),
            "--annotations: not for voc",
            2,
        ),
        (
            ("--from", "coco", "--to", "voc", "--split", "a", *("--annotations", "x") * 2),
            "1 --split, but 2 --annotations",
            2,
        ),
        (("--from", "voc", "--to", "coco", "--split", "nope"), "no such image set", 3),
        (("--from", "coco", "--to", "voc", "--split", "train"), "instances_train.json", 3),
        (("--from", "yolo", "--to", "voc", "--split", "train"), "no class names", 3),
    ],
)
def test_refusals(
    scenes: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(scenes, *words, "--out", tmp_path / "out") == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_reported_before_reading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("")
    words = ("nowhere", "--from", "voc", "--to", "coco", "--split", "train", "--out", tmp_path)
    assert _run(*words) == 3
    assert "is not empty; choose a new folder" in capsys.readouterr().err


# ------------------------------------------------------------------------------ policies


@pytest.fixture
def out_of_range(tmp_path: Path) -> Path:
    """YOLO boxes that leave their image by rounding, by a lot, and not at all."""
    lines = ["0 0.304 0.5003 0.608 1.0004374453193348", "1 0.5 0.5 0.2 0.2", "1 -0.01 0.5 0.2 0.2"]
    for number, line in enumerate(lines):
        image = tmp_path / "yolo" / "images" / "train" / f"{number}.jpg"
        label = tmp_path / "yolo" / "labels" / "train" / f"{number}.txt"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 120)).save(image)
        label.write_text(f"{line}\n")
    (tmp_path / "yolo" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path / "yolo"


def test_boxes_outside_follow_the_policy(
    out_of_range: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (out_of_range, "--from", "yolo", "--split", "train", "--to", "voc", "--out")
    assert _run(*words, tmp_path / "refused") == 3
    error = capsys.readouterr().err
    assert "2.txt: 2.jpg: line 1 (dog): box" in error and "--on-bad-box drop" in error
    assert not (tmp_path / "refused").exists()
    assert _run(*words, tmp_path / "dropped", "--on-bad-box", "drop") == 0
    printed = capsys.readouterr().out
    assert "train: 3 images (1 empty), 2 objects" in printed
    assert "note: boxes dropped: 1" in printed
    assert "2.jpg: line 1 (dog): box" in (tmp_path / "dropped" / "conversion.txt").read_text()
    whole, *_ = read("voc", tmp_path / "dropped", "train")
    assert whole.objects[0].box[1] >= 0 and whole.objects[0].box[3] == 120
    assert _run(*words, tmp_path / "clipped", "--on-bad-box", "clip") == 0
    *_, last = read("voc", tmp_path / "clipped", "train")
    assert last.objects[0].box == pytest.approx((0, 48, 14.4, 72))
    assert _run(*words, tmp_path / "kept", "--on-bad-box", "keep") == 0
    *_, last = read("voc", tmp_path / "kept", "train")
    assert last.objects[0].box == pytest.approx((-17.6, 48, 14.4, 72))


def test_bad_images_follow_the_policy(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    (root / "JPEGImages" / "val_00002.jpg").unlink()
    (root / "JPEGImages" / "val_00003.jpg").write_bytes(b"<html>")
    words = (root, "--from", "voc", "--split", "val", "--to", "coco", "--out")
    assert _run(*words, tmp_path / "a") == 3
    assert "--on-bad-image skip leaves such images out" in capsys.readouterr().err
    assert _run(*words, tmp_path / "b", "--on-bad-image", "skip") == 0
    assert "note: images skipped: 2" in capsys.readouterr().out
    lines = (tmp_path / "b" / "conversion.txt").read_text().splitlines()
    assert sum(line.endswith(": skipped") for line in lines) == 2
    assert len(list((tmp_path / "b" / "val").iterdir())) == 4


def test_nothing_left_is_an_error(
    out_of_range: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in (out_of_range / "labels" / "train").iterdir():
        label.write_text("0 1.5 1.5 0.1 0.1\n")
    words = (out_of_range, "--from", "yolo", "--split", "train", "--to", "voc", "--out")
    assert _run(*words, tmp_path / "a", "--on-bad-box", "drop") == 3
    assert "no object is left: outside_image 3" in capsys.readouterr().err
    for image in (out_of_range / "images" / "train").iterdir():
        image.write_bytes(b"")
    assert _run(*words, tmp_path / "b", "--on-bad-image", "skip") == 3
    assert "no image is left" in capsys.readouterr().err
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
