"""Conversion between VOC, COCO and YOLO keeps a data set, and losses are reported."""

from __future__ import annotations

import json
import re
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from defusedxml.ElementTree import parse
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from resdet.datasets.convert.convert import (
    ConversionPlan,
    expect_lossless,
    plan_conversion,
    write_plan,
)
from resdet.datasets.convert.reading import read_splits
from resdet.datasets.formats import FORMATS, named_source
from resdet.detection.config.base import OnBadBox
from resdet.detection.errors import ConfigError, DataError
from resdet.tests.datasets.formats.sources import read

WIDTH, HEIGHT = 64, 48
#: name, corners as in the file, difficult
VocObject = tuple[str, tuple[float, float, float, float], int]
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def _voc(root: Path, images: dict[str, Sequence[VocObject]], split: str = "train") -> Path:
    for image_id, objects in images.items():
        _image(root / "JPEGImages" / f"{image_id}.jpg")
        tree = ET.Element("annotation")
        for name, corners, difficult in objects:
            node = ET.SubElement(tree, "object")
            ET.SubElement(node, "name").text = name
            ET.SubElement(node, "difficult").text = str(difficult)
            box = ET.SubElement(node, "bndbox")
            for tag, value in zip(CORNERS, corners, strict=True):
                ET.SubElement(box, tag).text = repr(value)
        path = root / "Annotations" / f"{image_id}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ET.tostring(tree, "utf-8"))
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{image_id}\n" for image_id in images))
    return root


def _written_voc(root: Path, image_id: str) -> list[VocObject]:
    """What the XML says, to the letter."""
    found = []
    for node in parse(root / "Annotations" / f"{image_id}.xml").findall("object"):
        corners = tuple(float(node.findtext(f"bndbox/{tag}") or "") for tag in CORNERS)
        found.append((node.findtext("name") or "", corners, int(node.findtext("difficult") or "")))
    return found


def _coco(root: Path, content: dict[str, Any]) -> Path:
    for image in content["images"]:
        _image(root / "train" / image["file_name"], (image["width"], image["height"]))
    path = root / "annotations" / "instances_train.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return root


def _content(boxes: Sequence[Sequence[float]], **extra: object) -> dict[str, Any]:
    """One image `a.jpg` with boxes of one class."""
    return {
        "images": [{"id": 5, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": 5, "category_id": 3, "bbox": list(box), **extra}
            for n, box in enumerate(boxes)
        ],
    }


def _plan(root: Path, source: str, target: str, *splits: str) -> ConversionPlan:
    sources = {split: named_source(FORMATS[source], root, split) for split in splits or ("train",)}
    return plan_conversion(read_splits(sources), target)


def _convert(root: Path, source: str, target: str, out: Path, *splits: str) -> ConversionPlan:
    plan = _plan(root, source, target, *splits)
    expect_lossless(plan)
    write_plan(plan, out, link=True)
    return plan


def _boxes(path: Path) -> list[list[float]]:
    return [entry["bbox"] for entry in json.loads(path.read_bytes())["annotations"]]


# ---------------------------------------------------------------------------------- round trips

_portable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@st.composite
def _pixel_spans(draw: st.DrawFn, side: int) -> tuple[int, int]:
    first = draw(st.integers(1, side))
    return first, draw(st.integers(first, side))


@st.composite
def _voc_objects(draw: st.DrawFn, difficult: bool) -> list[VocObject]:
    found = []
    for name in draw(st.lists(_portable, max_size=4)):
        (x1, x2), (y1, y2) = draw(_pixel_spans(WIDTH)), draw(_pixel_spans(HEIGHT))
        found.append((name, (x1, y1, x2, y2), draw(st.integers(0, int(difficult)))))
    return found


@settings(max_examples=25)
@given(objects=_voc_objects(difficult=False))
def test_voc_through_coco_and_yolo_is_voc(objects: list[VocObject]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        voc = _voc(root / "voc", {"a": objects, "b": []})
        _convert(voc, "voc", "coco", root / "coco")
        _convert(root / "coco", "coco", "yolo", root / "yolo")
        _convert(root / "yolo", "yolo", "voc", root / "back")
        assert _written_voc(root / "back", "a") == objects
        assert _written_voc(root / "back", "b") == []
        assert (root / "back/ImageSets/Main/train.txt").read_text() == "a\nb\n"
        assert (root / "back/JPEGImages/a.jpg").samefile(voc / "JPEGImages/a.jpg")


@settings(max_examples=15)
@given(objects=_voc_objects(difficult=True))
def test_difficult_comes_back_from_coco(objects: list[VocObject]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _convert(_voc(root / "voc", {"a": objects}), "voc", "coco", root / "coco")
        _convert(root / "coco", "coco", "voc", root / "back")
        assert _written_voc(root / "back", "a") == objects


def _parts(least: int, most: int, unit: int) -> st.SearchStrategy[float]:
    """Numbers with as many decimals as ``unit`` has zeros."""
    return st.integers(least * unit, most * unit).map(lambda value: value / unit)


_decimals = st.tuples(
    _parts(-9, 60, 1000), _parts(-9, 40, 1000), _parts(1, 70, 1000), _parts(1, 70, 1000)
)


@settings(max_examples=25)
@given(boxes=st.lists(_decimals, max_size=5))
def test_decimals_come_back_from_voc_to_the_letter(boxes: list[tuple[float, ...]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _convert(_coco(root / "coco", _content(boxes)), "coco", "voc", root / "voc")
        _convert(root / "voc", "voc", "coco", root / "back")
        assert _boxes(root / "back/annotations/instances_train.json") == [*map(list, boxes)]


@settings(max_examples=25)
@given(x=st.floats(0, 60), y=st.floats(0, 40), width=st.floats(1e-3, 4), height=st.floats(1e-3, 8))
def test_any_box_comes_back_from_yolo(x: float, y: float, width: float, height: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _convert(_coco(root / "c", _content([(x, y, width, height)])), "coco", "yolo", root / "y")
        _convert(root / "y", "yolo", "coco", root / "back")
        (box,) = _boxes(root / "back/annotations/instances_train.json")
        assert box == pytest.approx([x, y, width, height], abs=3e-6)


def test_a_yolo_box_of_six_decimals_that_fills_the_image(tmp_path: Path) -> None:
    """Rounded up, it reaches beyond the edge by less than anyone drew."""
    _image(tmp_path / "y/images/train/a.jpg", (3000, 3000))
    label = tmp_path / "y/labels/train/a.txt"
    label.parent.mkdir(parents=True)
    label.write_text("0 0.333334 0.5 0.666668 1\n")
    (tmp_path / "y/data.yaml").write_text("names: [cat]\n")
    _convert(tmp_path / "y", "yolo", "voc", tmp_path / "voc")
    _convert(tmp_path / "voc", "voc", "yolo", tmp_path / "back")
    numbers = (tmp_path / "back/labels/train/a.txt").read_text().split()
    assert list(map(float, numbers)) == pytest.approx([0, 0.333334, 0.5, 0.666668, 1], abs=1e-9)


def test_real_data_comes_back(shared_data: Path, tmp_path: Path) -> None:
    """Two boxes of blood cells are one pixel large."""
    bccd = shared_data / "bccd"
    _convert(bccd, "voc", "coco", tmp_path / "coco", "train", "val")
    _convert(tmp_path / "coco", "coco", "yolo", tmp_path / "yolo", "train", "val")
    _convert(tmp_path / "yolo", "yolo", "voc", tmp_path / "voc", "train", "val")
    count = 0
    for split in ("train", "val"):
        ids = (bccd / f"ImageSets/Main/{split}.txt").read_text().split()
        assert (tmp_path / f"voc/ImageSets/Main/{split}.txt").read_text().split() == sorted(ids)
        for image_id in ids:
            assert _written_voc(tmp_path / "voc", image_id) == _written_voc(bccd, image_id)
            count += len(_written_voc(bccd, image_id))
    assert count == 3943


# ---------------------------------------------------------------------------------- by hand


def test_coco_as_pycocotools_reads_it(tmp_path: Path) -> None:
    objects = [("dog", (2, 3, 11, 22), 0), ("cat", (1, 1, 64, 48), 1), ("dog", (5, 5, 5, 5), 0)]
    _convert(_voc(tmp_path / "voc", {"a": objects, "b": []}), "voc", "coco", tmp_path / "coco")
    truth = COCO(str(tmp_path / "coco/annotations/instances_train.json"))
    assert [entry["name"] for entry in truth.loadCats(truth.getCatIds())] == ["cat", "dog"]
    assert truth.getImgIds() == [1, 2]
    assert truth.loadImgs(1)[0] == {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}
    entries = truth.loadAnns(truth.getAnnIds(imgIds=[1]))
    assert [entry["id"] for entry in entries] == [1, 2, 3]
    assert [entry["bbox"] for entry in entries] == [[1, 2, 10, 20], [0, 0, 64, 48], [4, 4, 1, 1]]
    assert [entry["area"] for entry in entries] == [200, 3072, 1]
    assert [entry["iscrowd"] for entry in entries] == [0, 1, 0]
    found = [
        {"image_id": 1, "category_id": entry["category_id"], "bbox": entry["bbox"], "score": 0.9}
        for entry in entries
        if not entry["iscrowd"]
    ]
    scores = COCOeval(truth, truth.loadRes(found), "bbox")
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    assert scores.stats[0] == 1


def test_yolo_as_written(tmp_path: Path) -> None:
    images = {"a": [("no", (17, 13, 32, 36), 0)], "b": []}
    _convert(_voc(tmp_path / "voc", images), "voc", "yolo", tmp_path / "yolo")
    assert (tmp_path / "yolo/labels/train/a.txt").read_text() == "0 0.375 0.5 0.25 0.5\n"
    assert (tmp_path / "yolo/labels/train/b.txt").read_text() == ""
    assert (tmp_path / "yolo/images/train/b.jpg").is_file()
    assert (tmp_path / "yolo/data.yaml").read_text() == (
        'train: "images/train"\nnames:\n  0: "no"\n'
    )


def test_class_order_is_that_of_the_file(tmp_path: Path) -> None:
    content = _content([(1, 1, 5, 5)])
    content["categories"] += [{"id": 90, "name": "unused"}, {"id": 1, "name": "zebra"}]
    plan = _convert(_coco(tmp_path / "c", content), "coco", "yolo", tmp_path / "y")
    assert plan.classes == ("cat", "unused", "zebra")
    assert (tmp_path / "y/labels/train/a.txt").read_text().startswith("0 ")
    plan = _plan(tmp_path / "c", "coco", "voc")
    assert plan.notes == (
        "VOC has no class list, so that classes without objects vanish: unused, zebra",
    )


def test_names_are_data(tmp_path: Path) -> None:
    name = "<b> & \"x\" 'y': #1 \U0001f408"
    content = _content([(1, 1, 5, 5)])
    content["categories"][0]["name"] = name
    _convert(_coco(tmp_path / "c", content), "coco", "yolo", tmp_path / "y")
    _convert(tmp_path / "y", "yolo", "voc", tmp_path / "v")
    assert _written_voc(tmp_path / "v", "a") == [(name, (2, 2, 6, 6), 0)]


# ---------------------------------------------------------------------------------- losses


def test_difficult_is_lost_in_yolo(tmp_path: Path) -> None:
    objects = [("dog", (2, 3, 11, 22), 1), ("dog", (1, 1, 4, 4), 0)]
    plan = _plan(_voc(tmp_path / "voc", {"a": objects}), "voc", "yolo")
    (loss,) = plan.losses
    assert loss.startswith("difficult and crowd objects are left out: 1 (")
    assert "a.xml: object 1 (dog)" in loss
    with pytest.raises(DataError, match=r"yolo cannot hold all of it: difficult .*--allow-loss"):
        expect_lossless(plan)
    write_plan(plan, tmp_path / "out")
    assert (tmp_path / "out/labels/train/a.txt").read_text().count("\n") == 1
    assert (tmp_path / "out/conversion.txt").read_text() == f"lost: {loss}\n"


@pytest.mark.parametrize(
    ("box", "target", "loss", "kept"),
    [
        ((10, 10, 0.5, 9), "voc", "objects narrower than one pixel are left out", None),
        ((10, 10, 9, 0.999), "voc", "objects narrower than one pixel are left out", None),
        ((10, 10, 0, 9), "voc", "objects whose box is empty or has swapped corners", None),
        ((10, 10, 9, -9), "yolo", "objects whose box is empty or has swapped corners", None),
        ((10, 10, 9, 1e-9), "yolo", "objects whose box is empty or has swapped corners", None),
        ((10, None, 9, 9), "voc", "objects without a finite box are left out", None),
        ((70, 10, 9, 9), "yolo", "objects outside the image are left out", None),
        ((60, -6, 16, 54.5), "yolo", "boxes that reach over the edge of", (60, 0, 64, 48)),
        ((-3, 10, 13, 9), "yolo", "boxes that reach over the edge of", (0, 10, 10, 19)),
        ((60, -6, 16, 54.5), "voc", "", (60, -6, 76, 48.5)),
        ((10.25, 10, 1, 1), "voc", "", (10.25, 10, 11.25, 11)),
    ],
)
def test_boxes_a_format_cannot_hold(
    tmp_path: Path, box: Any, target: str, loss: str, kept: tuple[float, ...] | None
) -> None:
    plan = _plan(_coco(tmp_path, _content([box])), "coco", target)
    assert [line.partition(": ")[0].startswith(loss) for line in plan.losses] == [True] * bool(loss)
    objects = plan.splits["train"][0].objects
    assert [obj.box for obj in objects] == ([kept] if kept else [])


def test_changed_meanings_are_reported(tmp_path: Path) -> None:
    voc = _voc(tmp_path / "voc", {"a": [("dog", (2, 3, 11, 22), 1)]})
    (note,) = _plan(voc, "voc", "coco").notes
    assert re.match(r"difficult objects become crowds .*: 1$", note)
    (note,) = _plan(_coco(tmp_path / "c", _content([(1, 1, 5, 5)], iscrowd=1)), "coco", "voc").notes
    assert re.match(r"crowds become difficult objects.*: 1$", note)


def test_what_only_one_format_has_is_counted(tmp_path: Path) -> None:
    extra = {"segmentation": [[1, 1, 6, 1, 6, 6]], "area": 12.5, "keypoints": []}
    content = _content([(1, 1, 5, 5), (2, 2, 5, 5)], **extra)
    plan = _plan(_coco(tmp_path / "c", content), "coco", "voc")
    assert plan.notes == ("not converted: segmentation 2, area (of a mask) 2",)
    voc = _voc(tmp_path / "voc", {"a": [("dog", (2, 3, 11, 22), 0)]})
    xml = voc / "Annotations/a.xml"
    more = "<pose>Left</pose><truncated>0</truncated><part><name>head</name></part></object>"
    xml.write_text(xml.read_text().replace("</object>", more))
    assert _plan(voc, "voc", "coco").notes == ("not converted: <pose> 1, <part> 1",)


def test_a_box_too_wide_for_a_number(tmp_path: Path) -> None:
    voc = _voc(tmp_path / "voc", {"a": [("dog", (-1.7e308, 3, 1.7e308, 22), 0)]})
    (loss,) = _plan(voc, "voc", "coco").losses
    assert loss.startswith("objects without a finite box are left out: 1")


# ---------------------------------------------------------------------------------- image names


def _two_images(first: str, second: str) -> dict[str, Any]:
    size = {"width": WIDTH, "height": HEIGHT}
    files = [{"id": 1, "file_name": first, **size}, {"id": 2, "file_name": second, **size}]
    return {"images": files, "categories": [], "annotations": []}


def test_subfolders(tmp_path: Path) -> None:
    root = _coco(tmp_path / "c", _two_images("x/a.jpg", "y/a.jpg"))
    plan = _convert(root, "coco", "voc", tmp_path / "v")
    assert sorted(path.name for path in (tmp_path / "v/JPEGImages").iterdir()) == [
        "x_a.jpg",
        "y_a.jpg",
    ]
    assert plan.notes[0].startswith("images renamed, for VOC has no subfolders: 2 (")
    _convert(root, "coco", "yolo", tmp_path / "y")
    assert (tmp_path / "y/labels/train/x/a.txt").is_file()
    assert [image.image_id for image in read("yolo", tmp_path / "y", "train")]


@pytest.mark.parametrize(
    ("first", "second", "target"),
    [
        ("x/a.jpg", "x_a.jpg", "voc"),
        ("a.jpg", "a.png", "voc"),
        ("a.jpg", "a.png", "yolo"),
        ("x/a.jpg", "x/a.png", "yolo"),
    ],
)
def test_names_that_collide(tmp_path: Path, first: str, second: str, target: str) -> None:
    root = _coco(tmp_path, _two_images(first, second))
    with pytest.raises(DataError, match="cannot tell 1 pairs of images apart by name") as caught:
        _plan(root, "coco", target)
    assert first in str(caught.value) and second in str(caught.value)


def test_images_of_several_splits(tmp_path: Path) -> None:
    """An image of two image sets becomes two files, which VOC cannot tell apart."""
    voc = _voc(tmp_path / "voc", {"a": [("dog", (1, 1, 5, 5), 0)], "b": []})
    (voc / "ImageSets/Main/val.txt").write_text("b\n")
    _convert(voc, "voc", "yolo", tmp_path / "y", "train", "val")
    with pytest.raises(DataError, match="voc cannot tell 1 pairs"):
        _plan(tmp_path / "y", "yolo", "voc", "train", "val")


def test_one_image_in_two_coco_files(tmp_path: Path) -> None:
    """VOC has one annotation an image, so both files must say the same of it."""
    root = _coco(tmp_path / "c", _content([(1, 1, 5, 5)]))
    same, other = root / "same.json", root / "other.json"
    same.write_text(json.dumps(_content([(1, 1, 5, 5)], id=77)))
    other.write_text(json.dumps(_content([(2, 1, 5, 5)])))
    first = named_source(FORMATS["coco"], root, "train")
    second = named_source(FORMATS["coco"], root / "train", "val", same)
    write_plan(plan_conversion(read_splits({"train": first, "val": second}), "voc"), tmp_path / "v")
    assert [path.name for path in (tmp_path / "v/Annotations").iterdir()] == ["a.xml"]
    assert (tmp_path / "v/ImageSets/Main/val.txt").read_text() == "a\n"
    second = named_source(FORMATS["coco"], root / "train", "val", other)
    with pytest.raises(DataError, match="or they are one image annotated differently"):
        plan_conversion(read_splits({"train": first, "val": second}), "voc")


def test_names_no_format_should_hold(tmp_path: Path) -> None:
    outside = _content([])
    outside["images"][0]["file_name"] = "../a.jpg"
    with pytest.raises(DataError, match="is outside of"):
        _plan(_coco(tmp_path / "1", outside), "coco", "voc")
    blank = _content([])
    blank["categories"][0]["name"] = "cat "
    with pytest.raises(DataError, match="class 'cat ': has blanks around it"):
        _plan(_coco(tmp_path / "2", blank), "coco", "yolo")
    for name in ("a\x0bb", "a\u2028b", "\ud800", "a\uffffb"):
        control = _content([])
        control["categories"][0]["name"] = name
        with pytest.raises(DataError, match="characters that not every format can hold"):
            _plan(_coco(tmp_path / "3", control), "coco", "yolo")
    with pytest.raises(DataError, match=r"image .*: has blanks around it"):
        _plan(_coco(tmp_path / "4", _two_images("b.jpg", "a .jpg")), "coco", "voc")


@settings(max_examples=40)
@given(name=st.text(min_size=1, max_size=6))
def test_any_class_name_comes_back_or_is_refused(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        content = _content([(1, 1, 5, 5)])
        content["categories"][0]["name"] = name
        try:
            _convert(_coco(root / "c", content), "coco", "yolo", root / "y")
        except DataError:
            assert not (root / "y").exists()
            return
        _convert(root / "y", "yolo", "voc", root / "v")
        assert _written_voc(root / "v", "a") == [(name, (2, 2, 6, 6), 0)]


# ---------------------------------------------------------------------------------- writing


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path: Path) -> None:
    voc = _voc(tmp_path / "voc", {"a": [], "b": []})
    plan = _plan(voc, "voc", "coco")
    (voc / "JPEGImages/b.jpg").unlink()
    with pytest.raises(DataError, match=r"JPEGImages/b.jpg: No such file"):
        write_plan(plan, tmp_path / "new" / "out")
    assert list((tmp_path / "new").iterdir()) == []


def test_output_folders(tmp_path: Path) -> None:
    plan = _plan(_voc(tmp_path / "voc", {"a": []}), "voc", "yolo")
    (tmp_path / "empty").mkdir()
    write_plan(plan, tmp_path / "empty")
    assert (tmp_path / "empty/data.yaml").read_text().endswith("names: {}\n")
    with pytest.raises(DataError, match="empty: is not empty"):
        write_plan(plan, tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: is there and is not a folder"):
        write_plan(plan, tmp_path / "file")
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_copies_and_links(tmp_path: Path) -> None:
    voc = _voc(tmp_path / "voc", {"a": []})
    original = voc / "JPEGImages/a.jpg"
    plan = _plan(voc, "voc", "coco")
    done: list[int] = []
    write_plan(plan, tmp_path / "copy", report=lambda: done.append(1))
    write_plan(plan, tmp_path / "link", link=True)
    assert done == [1]
    copy, link = (tmp_path / kind / "train/a.jpg" for kind in ("copy", "link"))
    assert copy.read_bytes() == original.read_bytes() and not copy.samefile(original)
    assert link.samefile(original)


def test_links_do_not_cross_file_systems(tmp_path: Path) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - only a folder in it, of a random name, is used
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    with tempfile.TemporaryDirectory(dir=memory) as other:
        plan = _plan(_voc(Path(other), {"a": []}), "voc", "coco")
        with pytest.raises(DataError, match=r"a.jpg: cannot be linked .*; copy instead of linking"):
            write_plan(plan, tmp_path / "out", link=True)
    assert list(tmp_path.iterdir()) == []


def test_the_same_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the data set is voc already"):
        _plan(_voc(tmp_path, {"a": []}), "voc", "voc")


@pytest.mark.parametrize("policy", [None, "error", "drop", "clip", "fix"])
def test_a_box_that_leaves_the_image_by_rounding_is_noted(
    tmp_path: Path, policy: OnBadBox | None
) -> None:
    """Training clips it without a word but a note, and so does a format that has to."""
    root = _coco(tmp_path, _content([(-0.5, 10, 10.5, 9), (5, 5, 9, 9)]))
    sources = {"train": named_source(FORMATS["coco"], root, "train")}
    parts = read_splits(sources, on_bad_box=policy)
    plan = plan_conversion(parts, "yolo")
    assert plan.losses == ()
    assert [obj.box for obj in plan.splits["train"][0].objects] == [(0, 10, 10, 19), (5, 5, 14, 14)]
    (note,) = (note for note in plan.notes if "leave" in note)
    assert "annotation 0 (cat)" in note
    kept = plan_conversion(parts, "voc").splits["train"][0].objects[0].box
    assert kept == ((-0.5, 10, 10, 19) if policy in (None, "error") else (0, 10, 10, 19))
