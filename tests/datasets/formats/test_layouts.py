"""Folders as annotation tools export them are recognised, and read without renaming."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import yaml
from PIL import Image
from resdet.datasets.formats import FORMATS, inspect, inspect_folders, read_images, recognise
from resdet.datasets.formats.format import Reading
from resdet.datasets.listing import listed_once
from resdet.detection.errors import ConfigError, DataError
from resdet.tests.datasets.formats.hidden_files import add_hidden_files
from resdet.tests.datasets.formats.ilsvrc_tree import write_ilsvrc
from resdet.tests.datasets.formats.sources import read
from resdet.tools.cli import main

SIZE = (64, 48)
#: (x1, y1, x2, y2), 0-based, of the one object of each image.
BOX = (8.0, 12.0, 40.0, 36.0)
CLASSES = ["cat", "dog"]


def _image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, hash(path.name) % 2**24).save(path)
    return path


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _xml(path: Path, name: str, filename: str = "") -> None:
    x1, y1, x2, y2 = (int(side) for side in BOX)
    box = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    tag = f"<filename>{filename}</filename>" if filename else ""
    body = f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
    _text(path, f"<annotation>{tag}{body}</annotation>")


def _yolo(path: Path, number: str) -> None:
    (x1, y1, x2, y2), (width, height) = BOX, SIZE
    sides = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    _text(path, f"{number} {' '.join(map(str, sides))}\n")


def _coco(path: Path, names: list[str]) -> None:
    x1, y1, x2, y2 = BOX
    content = {
        "info": {"description": "exported"},
        "images": [
            {"id": n, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
            for n, name in enumerate(names, 1)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": n % 2 + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for n in range(1, len(names) + 1)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)],
    }
    _text(path, json.dumps(content, indent=1))


# ---------------------------------------------------------------------------------- layouts


def _voc_beside(root: Path) -> None:
    for split in ("train", "valid"):
        for n in range(2):
            stem = root / split / f"{split}{n}.v1.hello"
            _image(stem.with_name(stem.name + ".jpg"))
            _xml(stem.with_name(stem.name + ".xml"), CLASSES[n])
    _text(root / "README.roboflow.txt", "exported")


def _voc_folders(images: str, xmls: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for n in range(2):
            _image(root / images / f"{n}.JPG")
            _xml(root / xmls / f"{n}.xml", CLASSES[n])

    return make


def _voc_splits_below(root: Path) -> None:
    for split in ("train", "val"):
        _image(root / "images" / split / f"{split}.png")
        _xml(root / "annotations" / split / f"{split}.xml", "cat")


def _voc_by_filename(root: Path) -> None:
    _image(root / "images" / "street 1.jpg")
    _xml(root / "xml" / "000.xml", "cat", "C:\\photos\\street 1.jpg")


def _voc_devkit(root: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        for split in ("train", "val"):
            _image(root / year / "JPEGImages" / f"{year}{split}.jpg")
            _xml(root / year / "Annotations" / f"{year}{split}.xml", "cat")
            _text(root / year / "ImageSets" / "Main" / f"{split}.txt", f"{year}{split}\n")


def _voc_nested(root: Path) -> None:
    for folder in ("a", "b"):
        _image(root / "JPEGImages" / folder / "1.jpg")
        _xml(root / "Annotations" / folder / "1.xml", "cat")
    _text(root / "ImageSets" / "Main" / "default.txt", "a/1\nb/1\n")


def _coco_in_splits(root: Path) -> None:
    for split in ("train", "valid", "test"):
        _image(root / split / f"{split}.jpg")
        _coco(root / split / "_annotations.coco.json", [f"{split}.jpg"])


def _coco_files(file: str, images: str, names: str = "") -> Callable[[Path], None]:
    def make(root: Path) -> None:
        _image(root / images / "1.jpg")
        _image(root / images / "2.jpg")
        _coco(root / file, [f"{names}1.jpg", f"{names}2.jpg"])

    return make


def _yolo_dialect(names: str, number: str = "0", layout: str = "{s}/{k}") -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for split in ("train", "valid"):
            place = layout.format(s=split, k="{k}")
            _image(root / place.format(k="images") / f"{split}.jpg")
            _yolo(root / place.format(k="labels") / f"{split}.txt", number)
        _text(root / "roboflow.yaml", names)

    return make


def _yolo_stated(root: Path) -> None:
    """``data.yaml`` names folders inside ``data``, and the folders of labels have longer names."""
    for folder in ("train", "valid"):
        _image(root / "data" / "images" / folder / f"{folder}.jpg")
        _yolo(root / "data" / "labels" / f"{folder}-labels" / f"{folder}.txt", "0")
    paths = "train: ../data/images/train\nval: ../data/images/valid\n"
    _text(root / "data.yaml", f"{paths}names: [cat, dog]\n")


def _yolo_flat(folder: str, names: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for n in range(2):
            _image(root / folder / f"{n}.jpg")
            _yolo(root / folder / f"{n}.txt", str(n))
        _text(root / names, "cat\ndog\n")

    return make


def _yolo_cvat(root: Path) -> None:
    _yolo_flat("obj_train_data", "obj.names")(root)
    _image(root / "obj_val_data" / "2.jpg")
    _yolo(root / "obj_val_data" / "2.txt", "0")
    _text(root / "val.txt", "data/obj_val_data/2.jpg\n")
    _text(root / "obj.data", "classes = 2\nnames = data/obj.names\ntrain = data/train.txt\n")
    _text(root / "train.txt", "data/obj_train_data/0.jpg\ndata/obj_train_data/1.jpg\n")


def _yolo_mark(folder: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        data = root / folder
        for n in range(2):
            _image(data / "img" / f"{n}.jpg")
            _yolo(data / "img" / f"{n}.txt", str(n))
        _text(data / "obj.names", "cat\ndog\n")
        _text(data / "obj.data", "train = data/train.txt\nvalid = data/train.txt\n")
        _text(data / "train.txt", "data/img/0.jpg\ndata/img/1.jpg\n")
        _text(root / "yolo-obj.cfg", "[net]\n")

    return make


def _yolo_label_studio(root: Path) -> None:
    _image(root / "images" / "8f3a0c1d-a b.jpg")
    _yolo(root / "labels" / "8f3a0c1d-a%20b.txt", "1")
    _text(root / "classes.txt", "cat\ndog\n")
    _text(root / "notes.json", '{"categories": [{"id": 0, "name": "cat"}]}')


def _labelme(root: Path) -> None:
    for split in ("train", "val"):
        _image(root / split / f"{split}.jpg")
        points = [[BOX[2], BOX[1]], [BOX[0], BOX[3]]]  # drawn from the upper right
        shape = {"label": "cat", "points": points, "shape_type": "rectangle", "flags": {}}
        content = {"version": "5.4.1", "shapes": [shape], "imagePath": f"..\\x\\{split}.jpg"}
        size = {"imageHeight": SIZE[1], "imageWidth": SIZE[0], "imageData": None}
        _text(root / split / f"{split}.json", json.dumps(content | size))


def _label_studio(shapes: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        _image(root / "images" / "0a1b2c3d-a b.jpg")
        x1, y1, x2, y2 = (100 * side / SIZE[n % 2] for n, side in enumerate(BOX))
        value = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
        value["rectanglelabels"] = ["cat"]
        size = {"original_width": SIZE[0], "original_height": SIZE[1]}
        name = "/data/upload/4/0a1b2c3d-a%20b.jpg"
        if shapes == "annotations":
            old = {"was_cancelled": True, "result": [{"value": value | {"x": 0}, **size}]}
            choice = {"type": "choices", "value": {"choices": ["good"]}}
            kept = {"result": [choice, {"type": "rectanglelabels", "value": value, **size}]}
            task = {"id": 7, "data": {"text": "t", "image": name}, "annotations": [old, kept]}
        else:
            task = {"id": 7, "image": name, "label": [value | size], "annotator": 1}
        _text(root / "project-1.json", json.dumps([task], indent=2))

    return make


def _cvat(root: Path) -> None:
    _image(root / "images" / "a" / "1.jpg")
    sides = zip(("xtl", "ytl", "xbr", "ybr"), BOX, strict=True)
    box = " ".join(f'{name}="{side:.2f}"' for name, side in sides)
    image = f'<image id="0" name="a/1.jpg" width="{SIZE[0]}" height="{SIZE[1]}">'
    labels = "<labels><label><name>cat</name></label></labels>"
    _text(
        root / "annotations.xml",
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
        f'  <meta><job>{labels}</job></meta>{image}<box label="cat" source="manual" '
        f'occluded="0" {box} z_order="0"></box></image>\n</annotations>\n',
    )


def _csv(*lines: str, name: str = "_annotations.csv") -> Callable[[Path], None]:
    def make(root: Path) -> None:
        _image(root / "train" / "1.jpg")
        _text(root / "train" / name, "\n".join(lines) + "\n")

    return make


def _open_images(root: Path) -> None:
    _image(root / "train" / "0a1b.jpg")
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf"
    row = f"0a1b,xclick,/m/01,1,{8 / 64},{40 / 64},{12 / 48},{36 / 48},-1,-1"
    _text(root / "train-annotations-bbox.csv", f"{header}\n{row}\n")
    _text(root / "class-descriptions-boxable.csv", "/m/01,cat\n/m/02,dog\n")


#: {layout: (its maker, format, {split: number of images})}.
LAYOUTS: Mapping[str, tuple[Callable[[Path], None], str, dict[str, int]]] = {
    "XML beside images": (_voc_beside, "voc", {"train": 2, "valid": 2}),
    "images, annotations": (_voc_folders("images", "annotations"), "voc", {"all": 2}),
    "images, annots": (_voc_folders("images", "annots"), "voc", {"all": 2}),
    "JPEGImages alone": (_voc_folders("JPEGImages", "Annotations"), "voc", {"all": 2}),
    "splits below": (_voc_splits_below, "voc", {"train": 1, "val": 1}),
    "<filename>": (_voc_by_filename, "voc", {"all": 1}),
    "VOCdevkit": (
        _voc_devkit,
        "voc",
        {f"{year}_{split}": 1 for year in ("VOC2007", "VOC2012") for split in ("train", "val")},
    ),
    "VOC of CVAT": (_voc_nested, "voc", {"default": 2}),
    "COCO of Roboflow": (_coco_in_splits, "coco", {"train": 1, "valid": 1, "test": 1}),
    "annotations/train.json": (
        _coco_files("annotations/train.json", "train"),
        "coco",
        {"train": 2},
    ),
    "result.json": (_coco_files("result.json", "images", "images\\"), "coco", {"result": 2}),
    "instances_default.json": (
        _coco_files("annotations/instances_default.json", "images"),
        "coco",
        {"default": 2},
    ),
    "images/val": (_coco_files("annotations/instances_val.json", "images/val"), "coco", {"val": 2}),
    "YOLO of Roboflow": (
        _yolo_dialect("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cat, dog]\n"),
        "yolo",
        {"train": 1, "valid": 1},
    ),
    "names from 1": (
        _yolo_dialect("names: {1: cat, 2: dog}\n", "1"),
        "yolo",
        {"train": 1, "valid": 1},
    ),
    "split folders of both": (
        _yolo_dialect("names: [cat, dog]\n", layout="{s}"),
        "yolo",
        {"train": 1, "valid": 1},
    ),
    "paths in YAML": (
        _yolo_dialect(
            "path: /home/other/set\ntrain: a/train/images\nval: [/home/other/set/a/valid/images]\n"
            "names: [cat, dog]\n",
            layout="a/{s}/{k}",
        ),
        "yolo",
        {"train": 1, "val": 1},
    ),
    "darknet": (_yolo_flat("obj", "obj/classes.txt"), "yolo", {"all": 2}),
    "side by side": (_yolo_flat("", "obj.names"), "yolo", {"all": 2}),
    "YOLO of CVAT": (_yolo_cvat, "yolo", {"train": 2, "val": 1}),
    "Yolo_mark": (_yolo_mark("data"), "yolo", {"train": 2}),
    "Yolo_mark, its repository": (_yolo_mark("x64/Release/data"), "yolo", {"train": 2}),
    "YOLO of Label Studio": (_yolo_label_studio, "yolo", {"all": 1}),
    "labelme": (_labelme, "labelme", {"train": 1, "val": 1}),
    "Label Studio JSON": (_label_studio("annotations"), "label_studio", {"project-1": 1}),
    "Label Studio JSON-MIN": (_label_studio("min"), "label_studio", {"project-1": 1}),
    "CVAT for images": (_cvat, "cvat", {"annotations": 1}),
    "CSV of TensorFlow": (
        _csv("filename,width,height,class,xmin,ymin,xmax,ymax", "1.jpg,64,48,cat,8,12,40,36"),
        "csv",
        {"train": 1},
    ),
    "CSV of RetinaNet": (_csv("train/1.jpg,8,12,40,36,cat", name="train.csv"), "csv", {"train": 1}),
    "CSV with semicolons": (
        _csv("image;label;x_min;y_min;x_max;y_max", "1.jpg;cat;8;12;40;36"),
        "csv",
        {"train": 1},
    ),
    "YOLO with other names of folders": (_yolo_stated, "yolo", {"train": 1, "val": 1}),
    "Open Images": (_open_images, "csv", {"train-annotations-bbox": 1}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_read(tmp_path: Path, name: str) -> None:
    make, format, counts = LAYOUTS[name]
    make(tmp_path)
    beside = inspect_folders(list(recognise(tmp_path).format.splits(tmp_path).values()))
    add_hidden_files(tmp_path)
    recognition = recognise(tmp_path)
    assert recognition.format.name == format
    assert recognition.reason
    assert recognition.others == ()
    sources = recognition.format.splits(tmp_path)
    assert list(sources) == list(counts)
    for split, source in sources.items():
        images, findings = inspect(source)
        assert [f for f in findings if f.severity != "note"] == []
        assert len(images) == counts[split]
        for image in images:
            (obj,) = image.objects
            assert obj.box == BOX
            assert obj.name in CLASSES
    assert inspect_folders(list(sources.values())) == beside


def _class_folders(root: Path) -> None:
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        _image(root / name / "0.jpg")


@pytest.mark.parametrize("format", ["image_folder", "ilsvrc"])
def test_hidden_files_are_left_out_among_classes(tmp_path: Path, format: str) -> None:
    make = _class_folders if format == "image_folder" else write_ilsvrc
    make(tmp_path)
    sources = FORMATS[format].splits(tmp_path)
    read = [partial(inspect, sources[part], Reading(part=part)) for part in ("train", "val")]
    before = [found() for found in read]
    add_hidden_files(tmp_path)
    assert [found() for found in read] == before
    assert FORMATS[format].splits(tmp_path) == sources


def test_recognition_lists_each_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _class_folders(tmp_path)
    listed, scandir = Counter[str](), os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.update([path]) or scandir(path))
    with listed_once():
        assert recognise(tmp_path).format.name == "image_folder"
        assert list(FORMATS["image_folder"].splits(tmp_path)) == ["train", "val"]
    assert set(listed.values()) == {1} and len(listed) == 7


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_checked_converted_and_trained_on(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, format, counts = LAYOUTS[name]
    root, out = tmp_path / "in", tmp_path / "out"
    make(root)
    assert main(["check-data", str(root), "--quick"]) == 0
    assert f"format: {format}, because " in capsys.readouterr().out
    target = "voc" if format == "yolo" else "yolo"
    assert main(["convert-data", str(root), "--to", target, "--out", str(out)]) == 0
    written = recognise(out).format.splits(out)
    assert {split: len(read_images(source)) for split, source in written.items()} == counts
    source = next(iter(recognise(root).format.splits(root).values()))
    section = source.model_dump(mode="json")
    config = tmp_path / "c.yaml"
    network = {"backbone": {"depth": 18, "width": 8}, "rpn": {"channels": 16}}
    config.write_text(json.dumps({"data": {"train": [section], "val": [section]}, **network}))
    assert main(["train-det", "--cfg", str(config), "--dry-run"]) == 0


def test_splits_of_a_yaml_file_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``images`` is the end of both paths, but neither of the splits."""
    for n in range(2):
        _image(tmp_path / "images" / f"{n}.jpg")
        _yolo(tmp_path / "labels" / f"{n}.txt", "0")
    _text(tmp_path / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [cat]\n")
    sources = recognise(tmp_path).format.splits(tmp_path)
    assert list(sources) == ["all"]
    images, findings = inspect(sources["all"])
    assert len(images) == 2
    assert [(f.kind, f.severity) for f in findings] == [("missing_split", "warning")]
    assert "train: ../train/images, val: ../valid/images" in findings[0].reason
    assert main(["check-data", str(tmp_path), "--quick"]) == 0
    assert "missing_split" in capsys.readouterr().out


def test_the_splits_of_several_years_are_named_as_the_check_names_them(tmp_path: Path) -> None:
    _voc_devkit(tmp_path)
    for name, source in recognise(tmp_path).format.splits(tmp_path).items():
        above = source.model_copy(update={"root": tmp_path, "split": name})
        assert inspect(above) == inspect(source)
        assert inspect_folders([above]) == inspect_folders([source])


def test_of_two_darknet_folders_none_is_guessed(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        _yolo_mark(f"{folder}/data")(tmp_path)
    with pytest.raises(ConfigError, match="there are 2 data sets in it"):
        recognise(tmp_path, "boxes")
    assert recognise(tmp_path / "one").format.name == "yolo"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("COCO of Roboflow", "YOLO of Roboflow"),
        ("XML beside images", "labelme"),
        ("YOLO of Roboflow", "names from 1"),
    ],
)
def test_a_folder_of_several_data_sets_lists_them(
    tmp_path: Path, first: str, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the source of each split, which a config takes; never one or all of them silently."""
    for folder, name in (("a", first), ("b", second)):
        LAYOUTS[name][0](tmp_path / folder)
    assert main(["check-data", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}: there are 2 data sets in it; name the folder of one of them" in error
    found = re.findall(r"(?:train|valid|val|test) (\{[^}]*\})", error)
    assert len(found) == len(LAYOUTS[first][2]) + len(LAYOUTS[second][2])
    config = tmp_path / "config.json"
    sources = [yaml.safe_load(each) for each in found]
    data = {"train": sources, "val": sources, "classes": ["cat", "dog"]}
    config.write_text(json.dumps({"data": data}))
    assert main(["train-det", "--cfg", str(config), "--dry-run"]) == 0
    for command in (["convert-data", "--to", "coco"], ["crop-objects"]):
        words = [command[0], str(tmp_path), *command[1:], "--out", str(tmp_path / "out")]
        assert main(words) == 2
        assert "there are 2 data sets in it" in capsys.readouterr().err


def test_a_data_set_one_level_down_is_named(tmp_path: Path) -> None:
    LAYOUTS["YOLO of Roboflow"][0](tmp_path / "a")
    with pytest.raises(ConfigError, match=f"no known layout.*; the folder {tmp_path}/a is a data"):
        recognise(tmp_path)


def test_annotations_are_never_class_folders(tmp_path: Path) -> None:
    _voc_beside(tmp_path)
    assert recognise(tmp_path).format.name == "voc"
    with pytest.raises(ConfigError, match="no known layout"):
        recognise(tmp_path, "class")


def test_texts_of_another_format_are_no_class_folders(tmp_path: Path) -> None:
    """KITTI has image_2 and label_2, whose rows begin with a class name."""
    _image(tmp_path / "train" / "image_2" / "0.png")
    _text(tmp_path / "train" / "label_2" / "0.txt", "Car 0.00 0 -1.57 8 12 40 36 1 1 1 0 0 0 0\n")
    with pytest.raises(ConfigError, match="no known layout"):
        recognise(tmp_path)


def test_a_folder_of_two_formats_names_both(tmp_path: Path) -> None:
    _voc_folders("images", "annotations")(tmp_path)
    _coco(tmp_path / "train.json", ["images/0.JPG"])
    assert str(recognise(tmp_path)) == (
        "format: voc, because annotations/0.xml is a VOC annotation (--format coco would fit too)"
    )


def test_the_message_of_a_missing_list_says_what_makes_one(tmp_path: Path) -> None:
    _voc_folders("JPEGImages", "Annotations")(tmp_path)
    with pytest.raises(DataError) as caught:
        read("voc", tmp_path, "train")
    assert f"`resdet split {tmp_path} --from voc --parts train=0.8 val=0.2`" in str(caught.value)
    assert main(["split", str(tmp_path), "--from", "voc", "--parts", "train=0.5", "val=0.5"]) == 0
    assert [len(read("voc", tmp_path, split)) for split in ("train", "val")] == [1, 1]


@pytest.mark.parametrize(
    ("line", "encoding"),
    [
        ("{}", "utf-8"),
        ("{}", "utf-8-sig"),
        ("{}", "utf-16"),
        ("{}.jpg", "utf-8"),
        ("JPEGImages/{}.jpg", "utf-8"),
        ("C:\\data\\VOC\\JPEGImages\\{}.jpg", "utf-8"),
        ("/home/other/JPEGImages/{}.jpg", "utf-8"),
        ("JPEGImages/{0}.jpg Annotations/{0}.xml", "utf-8"),
        ("{} 1", "utf-8"),
        ("{}", "gbk"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_lines_of_lists(tmp_path: Path, line: str, encoding: str, end: str) -> None:
    names = ["Compound Leaves (1)", "a,b;c", "hello.world", "牛犬 1"]
    for name in names:
        _image(tmp_path / "JPEGImages" / f"{name}.jpg")
        _xml(tmp_path / "Annotations" / f"{name}.xml", "cat")
    path = tmp_path / "ImageSets" / "Main" / "train.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes("".join(line.format(name) + end for name in names).encode(encoding))
    assert [image.image_id for image in read("voc", tmp_path, "train")] == names


def test_names_of_another_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Tür") for form in ("NFC", "NFD"))
    _image(tmp_path / "images" / f"{decomposed}.jpg")
    _xml(tmp_path / "annotations" / f"{composed}.xml", "cat")
    (image,) = read("voc", tmp_path, None)
    assert image.path.stem == decomposed
