"""The convert-data command: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
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
    assert f"{coco} is complete (coco)" in printed
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
            "--annotations: only for coco",
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
