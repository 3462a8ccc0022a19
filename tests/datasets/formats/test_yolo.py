"""YOLO text folders are read as written, and every fault becomes a finding."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resdet.datasets.formats.yolo_names import read_names
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.errors import DataError
from resdet.detection.tasks.detector_data import read_sources
from resdet.tests.datasets.formats.sources import inspect, read
from resdet.tools.cli import main

NAMES = "names: [cat, 'big dog']\n"


def _folder(
    root: Path, label: str | bytes | None = "", names: str = NAMES, layout: str = "{kind}/train"
) -> Path:
    """One image `a` of 100 x 50 (w, h) with this label file."""
    for kind in ("images", "labels"):
        (root / layout.format(kind=kind)).mkdir(parents=True)
    Image.new("RGB", (100, 50)).save(root / layout.format(kind="images") / "a.png")
    if label is not None:
        data = label.encode() if isinstance(label, str) else label
        (root / layout.format(kind="labels") / "a.txt").write_bytes(data)
    (root / "data.yaml").write_text(names)
    return root


def _error(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read("yolo", root, "train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layout", ["{kind}/train", "train/{kind}"])
def test_middle_and_size_become_corners(tmp_path: Path, layout: str) -> None:
    label = "1 0.5 0.5 0.2 0.4\r\n\n  0 0.25 0.5 5e-1 1\n"
    (image,) = read("yolo", _folder(tmp_path, label, layout=layout), "train")
    assert image.image_id == "a"
    assert image.size == (50, 100)
    assert image.source.name == "a.txt"
    assert [obj.name for obj in image.objects] == ["big dog", "cat"]
    assert [obj.box for obj in image.objects] == [(40, 15, 60, 35), (0, 0, 50, 50)]
    assert not any(obj.ignore for obj in image.objects)


def test_images_of_subfolders_without_objects(tmp_path: Path) -> None:
    root = _folder(tmp_path, "")
    (root / "images/train/sub").mkdir()
    Image.new("RGB", (20, 20)).save(root / "images/train/sub/a.JPG", "JPEG")
    (root / "labels/train/classes.txt").write_text("cat\n")  # from a labelling tool
    images, (finding,) = inspect("yolo", root, "train")
    assert [image.image_id for image in images] == ["a", "sub/a"]
    assert [image.objects for image in images] == [(), ()]
    assert (finding.kind, finding.severity) == ("unlabelled_image", "warning")
    assert "1 images without a label file: taken as without objects: sub/a" in str(finding)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.2", "4 columns, expected 5 (class cx cy w h)"),
        ("0 0.5 0.5 0.2 0.2 0.9", "6 columns, expected 5 (class cx cy w h): a prediction"),
        ("0 .1 .1 .2 .1 .2 x", "y is 'x', expected a number"),
        ("2 .1 .1 .2 .1 .2 .2", "class 2 is outside the 2 names"),
        ("0 .1 .1 .2 .1 .2 .2 2", "8 columns, expected 5 (class cx cy w h): keypoints"),
        ("2 0.5 0.5 0.2 0.2", "class 2 is outside the 2 names"),
        ("99999999999999999999 0.5 0.5 0.2 0.2", "is outside the 2 names"),
        ("-1 0.5 0.5 0.2 0.2", "class is '-1', expected a whole number"),
        ("0.5 0.5 0.5 0.2 0.2", "class is '0.5', expected a whole number"),
        ("² 0.5 0.5 0.2 0.2", "class is '²', expected a whole number"),
        ("cat 0.5 0.5 0.2 0.2", "class is 'cat'"),
        ("0 0.5 0.5 2.01 0.2", "w is 2.01, outside 0..1: in pixels?"),
        ("0 0.5 0.5 0.2 -30", "h is -30, outside 0..1"),
        ("0 1,500 0.5 0.2 0.1", "cx is '1,500', expected a number"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    root = _folder(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n")
    message = _error(root)
    assert f"{root / 'labels/train/a.txt'}: line 2: " in message
    assert said in message


def test_class_numbers_with_a_fraction_of_zeros(tmp_path: Path) -> None:
    """``1.0`` is 1, as in every other format; one note counts such numbers."""
    root = _folder(tmp_path, "0.0 0.5 0.5 0.1 0.1\n1.0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n")
    (image,), findings = inspect("yolo", root, "train")
    names = list(read_names(root)[0].values())
    assert [obj.name for obj in image.objects] == [names[0], names[1], names[1]]
    (note,) = findings
    assert (note.kind, note.severity) == ("unusual_value", "note")
    assert "`class` 2 (such as '0.0')" in note.reason
    (root / "labels/train/a.txt").write_text("0 0.5 0.5 1_0 0.1\n")  # Python would take ten
    assert "w is '1_0', expected a number" in _error(root)


def test_outlines_become_the_boxes_around_them(tmp_path: Path) -> None:
    """A polygon of three points, and the four corners of an oriented box."""
    root = _folder(tmp_path, "0 .1 .2 .3 .1 .2 .4\n1 .5 .2 .7 .4 .5 .6 .3 .4\n0 .5 .5 .2 .2\n")
    (image,), (note,) = inspect("yolo", root, "train")
    assert [obj.box for obj in image.objects] == [
        (10, 5, 30, 20),
        (30, 10, 70, 30),
        (40, 20, 60, 30),
    ]
    assert (note.kind, note.severity) == ("outline", "note")
    assert note.reason.startswith("2 objects are outlines")


def test_a_label_file_that_is_no_text(tmp_path: Path) -> None:
    assert "a.txt: cannot be read" in _error(_folder(tmp_path, b"\xff\xfe\x00"))


def test_labels_without_image_and_for_two_images(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    orphan = root / "labels/train/b.txt"
    orphan.write_text("")
    images, (finding,) = inspect("yolo", root, "train")
    assert [image.image_id for image in images] == ["a"]
    assert (finding.kind, finding.severity) == ("orphan_annotation", "warning")
    assert f"{orphan}: labels without an image in {root / 'images/train'}" in str(finding)
    orphan.unlink()
    Image.new("RGB", (20, 20)).save(root / "images/train/a.jpg")
    assert "(ambiguous_image 1)" in _error(root)
    assert "a.txt: a: several images: a.jpg, a.png" in _error(root)


def test_a_image_that_cannot_be_read(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    (root / "images/train/a.png").write_bytes(b"<html>")
    assert "'train': 1 error (unreadable_image 1): " in _error(root)


def test_missing_folders(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    with pytest.raises(DataError, match=r"no images of the split 'val': tried .*there are: train"):
        read("yolo", root, "val")
    (root / "images/val").mkdir()
    with pytest.raises(DataError, match="labels/val: no such folder"):
        read("yolo", root, "val")
    (root / "labels/val").mkdir()
    with pytest.raises(DataError, match="has no images"):
        read("yolo", root, "val")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [cat, dog]", ("cat", "dog")),
        ("names:\n  1: dog\n  0: cat\nnc: 2", ("cat", "dog")),
        ("names:\n- no\n- 010\n- 'two words'\n- 1e3", ("no", "010", "two words", "1e3")),
        ("names: []", ()),
        ("names: {}", ()),
        ("names: {0: cat}", ("cat",)),
        ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [cat]\nnc: *b", ("cat",)),
    ],
)
def test_names_are_the_text_as_written(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    (tmp_path / "data.yaml").write_text(text)
    assert read_names(tmp_path)[0] == dict(enumerate(names))


def test_names_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\nbig dog\n")
    assert read_names(tmp_path)[0] == {0: "cat", 1: "big dog"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nc: 2", "`names` is missing"),
        ("names: cat", "`names` is missing, or neither"),
        ("names: {one: cat}", "numbered names"),
        ("names: {-1: cat}", "numbered names"),
        ("names: [[cat]]", "`names` is missing, or neither"),
        ("names: [cat, cat]", "class 'cat' stands twice"),
        ("names: [cat, '']", "class 1 has no name"),
        ("names: [cat]\nnc: 2", "nc is '2', but there are 1 names"),
        ("names: [cat", "not readable as YAML"),
        ("[" * 600, "not readable as YAML"),
        ("names: *x", "not readable as YAML"),
        ("a: &a [x]\nb: &b [*a, *a]\nnames: *b", "`names` is missing, or neither"),
        ("", "`names` is missing"),
        ("names: &a [*a]", "not readable as YAML"),
    ],
)
def test_wrong_names(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError) as caught:
        read_names(tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path / "data.yaml") in str(caught.value)


def test_no_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no class names: expected a YAML file with `names`"):
        read_names(tmp_path)


# --------------------------------------------------------------------------- without names


PARTS = "train=0.8 val=0.2"


@pytest.fixture
def nameless(tmp_path: Path) -> Path:
    """Six images with an object of class 1, and no file of names."""
    root = tmp_path / "data"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 255, (50, 100, 3), np.uint8)
        Image.fromarray(noise).save(root / f"images/{number}.png")
        (root / f"labels/{number}.txt").write_text("1 0.5 0.5 0.2 0.4\n")
    return root


def test_without_names_the_way_on_is_told(nameless: Path) -> None:
    with pytest.raises(DataError, match=r"--classes A,B or data\.classes gives those of"):
        read("yolo", nameless, None)


def test_given_names_are_numbered(nameless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, classes = ["--workers", "0"], ["--classes", "cat,big dog"]
    assert main(["check-data", str(nameless), *words, *classes]) == 0
    told = capsys.readouterr().out
    assert "given_names" in told
    again = f"next: resdet check-data {nameless} --classes 'cat,big dog' --write-config mine.yaml\n"
    assert told.endswith(again)
    out = nameless.parent / "coco"
    assert main(["convert-data", str(nameless), "--to", "coco", "--out", str(out), *classes]) == 0
    content = json.loads((out / "annotations" / "instances_all.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["cat", "big dog"]
    assert {each["category_id"] for each in content["annotations"]} == {2}
    assert main(["split", str(nameless), *classes, "--parts", *PARTS.split()]) == 0
    assert "big dog" in capsys.readouterr().out


def test_training_takes_the_names_of_the_config(nameless: Path) -> None:
    source = {"format": "yolo", "root": str(nameless), "split": None}
    data = {"train": [source], "val": [source], "classes": ["cat", "big dog"]}
    config = DetectorConfig.model_validate_json(json.dumps({"data": data}))
    split = read_sources(config, config.data.train, None)
    assert [record.annotation.labels.tolist() for record in split.records] == [[1]] * 6
    only = DetectorConfig.model_validate_json(json.dumps({"data": data | {"classes": ["cat"]}}))
    with pytest.raises(DataError, match="class 1 is outside the 1 names"):
        read_sources(only, only.data.train, None)


def test_a_file_of_names_counts_before_given_ones(tmp_path: Path) -> None:
    assert read_names(_folder(tmp_path), ["x", "y"]) == ({0: "cat", 1: "big dog"}, [])


def test_classes_are_for_numbers_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert-data", str(tmp_path), "--from", "coco", "--to", "voc", "--classes", "a"]
    assert main([*words, "--out", str(tmp_path / "x")]) == 2
    assert "--classes: only for yolo, coco has names" in capsys.readouterr().err
