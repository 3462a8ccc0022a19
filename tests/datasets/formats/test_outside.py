"""Images outside of the data folder are read only where that is allowed, in every format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image
from resdet.datasets.formats import FORMATS, inspect
from resdet.datasets.formats.format import Inspected, Reading
from resdet.tools.cli import main

WIDTH, HEIGHT = 64, 48
BOX = (8.0, 12.0, 40.0, 36.0)


def _coco(root: Path, name: str) -> dict[str, object]:
    images = [{"id": 1, "file_name": name}]
    objects = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 12, 32, 24], "iscrowd": 0}]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "cat"}]}
    (root / "x.json").write_text(json.dumps(content))
    return {"images": root, "annotations": root / "x.json"}


def _voc(root: Path, name: str, tag: str = "filename") -> dict[str, object]:
    box = "<xmin>9</xmin><ymin>13</ymin><xmax>40</xmax><ymax>36</ymax>"
    body = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
    (root / "0.xml").write_text(f"<annotation><{tag}>{name}</{tag}>{body}</annotation>")
    return {"root": root, "split": None}


def _voc_list(root: Path, name: str) -> dict[str, object]:
    _voc(root, "")
    (root / "0.xml").rename(root / "a.xml")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text(f"{name}\n")
    return {"root": root, "split": "train"}


def _yolo(root: Path, name: str, labels: str = "../shots/a.txt") -> dict[str, object]:
    (root / labels).parent.mkdir(exist_ok=True)
    (root / labels).write_text("0 0.375 0.5 0.5 0.5\n")
    (root / "data.yaml").write_text("names: [cat]\n")
    (root / "train.txt").write_text(f"{name}\n")
    return {"root": root, "split": "train"}


def _labelme(root: Path, name: str) -> dict[str, object]:
    shape = {"label": "cat", "points": [BOX[:2], BOX[2:]], "shape_type": "rectangle"}
    (root / "0.json").write_text(json.dumps({"shapes": [shape], "imagePath": name}))
    return {"root": root, "split": None}


def _label_studio(root: Path, name: str) -> dict[str, object]:
    value = {"x": 12.5, "y": 25, "width": 50, "height": 50, "rectanglelabels": ["cat"]}
    task = {"data": {"image": name}, "annotations": [{"result": [{"value": value}]}]}
    (root / "x.json").write_text(json.dumps([task]))
    return {"images": root, "annotations": root / "x.json"}


def _cvat(root: Path, name: str) -> dict[str, object]:
    box = '<box label="cat" xtl="8" ytl="12" xbr="40" ybr="36"/>'
    image = f'<image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}">{box}</image>'
    (root / "x.xml").write_text(f"<annotations><version>1.1</version>{image}</annotations>")
    return {"images": root, "annotations": root / "x.xml"}


def _csv(root: Path, name: str) -> dict[str, object]:
    (root / "x.csv").write_text(f"image,class,x1,y1,x2,y2\n{name},cat,8,12,40,36\n")
    return {"images": root, "annotations": root / "x.csv"}


#: {case: (format, maker of a folder that names one image, which returns the source's fields)}.
CASES: dict[str, tuple[str, Callable[[Path, str], dict[str, object]]]] = {
    "coco": ("coco", _coco),
    "voc, <filename>": ("voc", _voc),
    "voc, <path>": ("voc", lambda root, name: _voc(root, name, "path")),
    "voc, list": ("voc", _voc_list),
    "yolo": ("yolo", _yolo),
    "yolo, labels in the folder": ("yolo", lambda root, name: _yolo(root, name, "labels/a.txt")),
    "labelme": ("labelme", _labelme),
    "label_studio": ("label_studio", _label_studio),
    "cvat": ("cvat", _cvat),
    "csv": ("csv", _csv),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder of the data; the image is beside it."""
    for name in ("data", "shots"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "shots/a.png")
    return tmp_path / "data"


def _read(format: str, fields: dict[str, object], *, allow: bool) -> Inspected:
    return inspect(FORMATS[format].source(**fields), Reading(allow_outside=allow))  # type: ignore[arg-type]


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_an_image_outside_is_read_where_that_is_allowed(
    data: Path, case: str, absolute: bool
) -> None:
    format, make = CASES[case]
    image = data.parent / "shots/a.png"
    fields = make(data, str(image) if absolute else "../shots/a.png")
    images, findings = _read(format, fields, allow=False)
    assert images == []
    assert {each.kind for each in findings if each.severity == "error"} >= {"image_outside"}
    assert f"is outside of {data}" in " ".join(map(str, findings))
    (found,), findings = _read(format, fields, allow=True)
    assert found.path == image
    assert [obj.box for obj in found.objects] == [BOX]
    (note,) = (each for each in findings if each.kind == "image_outside")
    assert note.severity == "note"
    assert [each for each in findings if each.severity == "error"] == []


def test_labels_are_in_the_folder_that_stands_for_that_of_the_images(data: Path) -> None:
    (data.parent / "shots").rename(data.parent / "images")
    fields = _yolo(data, "../images/a.png", "../labels/a.txt")
    (found,), _ = _read("yolo", fields, allow=True)
    assert [obj.box for obj in found.objects] == [BOX]
    assert found.source == data.parent / "labels/a.txt"


def test_an_image_outside_does_not_take_the_labels_of_one_inside(data: Path) -> None:
    (data / "images").mkdir()
    (data / "labels").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(data / "images/a.png")
    (data / "labels/a.txt").write_text("0 0.375 0.5 0.5 0.5\n")
    (data / "data.yaml").write_text("names: [cat]\n")
    (data / "train.txt").write_text("./images/a.png\n../shots/a.png\n")
    images, _ = _read("yolo", {"root": data, "split": "train"}, allow=True)
    assert {image.path: len(image.objects) for image in images} == {
        data / "images/a.png": 1,
        data.parent / "shots/a.png": 0,
    }


@pytest.mark.parametrize("name", ["..", "../shots", "/", "/dev/null", "../shots/b.png", "../\0"])
def test_what_is_no_image_outside_is_missing(data: Path, name: str) -> None:
    images, findings = _read("csv", _csv(data, name), allow=True)
    assert images == []
    assert {each.kind for each in findings} <= {"missing_image", "malformed_file"}


def test_commands_name_the_setting_and_take_it(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _coco(data, "../shots/a.png")
    root, out = str(data), data.parent / "out"
    assert main(["check-data", root, "--quick"]) == 3
    printed = capsys.readouterr().out
    assert "data.allow_outside=true settles all errors" in printed
    assert printed.endswith(f"next: resdet check-data {root} --quick --allow-outside\n")
    config = data.parent / "mine.yaml"
    words = ["--allow-outside", "--quick", "--write-config", str(config)]
    assert main(["check-data", root, *words]) == 0
    assert yaml.safe_load(config.read_text())["data"]["allow_outside"] is True
    convert = ["convert-data", root, "--to", "yolo", "--out", str(out)]
    capsys.readouterr()
    assert main(convert) == 3
    assert "--allow-outside reads such images" in capsys.readouterr().err
    assert main([*convert, "--allow-outside"]) == 0
    assert (out / "images/x/a.png").is_file()
    section = {"format": "coco", "images": root, "annotations": str(data / "x.json")}
    network = {"backbone": {"depth": 18, "width": 8}, "rpn": {"channels": 16}}
    config.write_text(json.dumps({"data": {"train": [section], "val": [section]}, **network}))
    dry = ["train-det", "--cfg", str(config), "--dry-run"]
    capsys.readouterr()
    assert main(dry) == 3
    assert "data.allow_outside=true reads such images" in capsys.readouterr().err
    assert main([*dry, "data.allow_outside=true"]) == 0
