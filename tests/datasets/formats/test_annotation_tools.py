"""Files of labelme, Label Studio, CVAT, and CSV: read, written back, and their faults named."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from resdet.datasets.convert.convert import plan_conversion, write_plan
from resdet.datasets.convert.reading import read_splits
from resdet.datasets.formats import FORMATS, inspect, read_images, recognise
from resdet.datasets.formats.file_source import rotated_box
from resdet.datasets.formats.format import Inspected
from resdet.tools.cli import main

WIDTH, HEIGHT = 64, 48
TOOLS = ("labelme", "label_studio", "cvat", "csv")


def _read(root: Path) -> Inspected:
    recognition = recognise(root)
    (source,) = recognition.format.splits(root).values()
    return inspect(source)


def _folder(root: Path, name: str, content: object) -> Path:
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "a.png")
    text = content if isinstance(content, str) else json.dumps(content)
    (root / name).write_text(text, encoding="utf-8")
    return root


def _labelme(**shape: Any) -> dict[str, Any]:
    whole = {"label": "cat", "points": [[1, 2], [5, 6]], "shape_type": "rectangle", **shape}
    return {"shapes": [whole], "imagePath": "a.png", "imageHeight": HEIGHT, "imageWidth": WIDTH}


def _task(value: object, kind: str = "rectanglelabels", **more: object) -> list[dict[str, Any]]:
    shape = {"type": kind, "value": value, "original_width": WIDTH, "original_height": HEIGHT}
    return [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [shape | more]}]}]


def _cvat(shapes: str, name: str = "a.png") -> str:
    image = f'<image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
    return f"<annotations><version>1.1</version>{image}</annotations>"


# ---------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    ("name", "content", "box"),
    [
        (
            "a.json",
            _labelme(shape_type="polygon", points=[[4, 2], [9, 7.5], [1, 3]]),
            (1, 2, 9, 7.5),
        ),
        ("a.json", _labelme(shape_type="circle", points=[[10, 10], [13, 14]]), (5, 5, 15, 15)),
        (
            "x.json",
            _task({"points": [[0, 50], [50, 0], [25, 100]], "polygonlabels": ["cat"]}),
            (0, 0, 32, 48),
        ),
        (
            "x.json",
            _task(
                {"x": 50, "y": 25, "width": 12.5, "height": 25, "rotation": 90}
                | {"rectanglelabels": ["cat"]}
            ),
            (20, 12, 32, 20),
        ),
        ("x.xml", _cvat('<polygon label="cat" points="4,2;9,7.5;1,3"/>'), (1, 2, 9, 7.5)),
        (
            "x.xml",
            _cvat('<box label="cat" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90"/>'),
            (13, 7, 17, 17),
        ),
    ],
)
def test_outlines_become_the_boxes_around_them(
    tmp_path: Path, name: str, content: object, box: tuple[float, ...]
) -> None:
    (image,), findings = _read(_folder(tmp_path, name, content))
    assert image.objects[0].name == "cat"
    assert image.objects[0].box == pytest.approx(box)
    (note,) = (each for each in findings if each.kind == "outline")
    assert note.severity == "note"
    assert note.reason.startswith("1 objects are outlines or rotated")


def test_a_turned_box_by_hand() -> None:
    assert rotated_box((0, 0, 4, 2), 180, (0, 0)) == pytest.approx((-4, -2, 0, 0))
    assert rotated_box((0, 0, 4, 2), 0, (9, 9)) == pytest.approx((0, 0, 4, 2))


@pytest.mark.parametrize(
    ("name", "content", "kind", "said"),
    [
        ("a.json", _labelme(shape_type="line"), "malformed_object", "shape 1 (cat): a line has no"),
        ("a.json", _labelme(label=" "), "unnamed_object", "shape 1: has no label"),
        (
            "a.json",
            _labelme(points=[[1, "x"]]),
            "not_a_number",
            "points of a rectangle are missing",
        ),
        ("a.json", _labelme(points=[]), "not_a_number", "points of a rectangle are missing"),
        ("x.json", _task({"brushlabels": ["cat"]}), "malformed_object", "with brushlabels has no"),
        ("x.json", _task({"x": 1, "rectanglelabels": ["cat"]}), "not_a_number", "are missing"),
        ("x.json", _task({"rectanglelabels": []}), "unnamed_object", "shape 1: has no label"),
        (
            "x.json",
            _task({"rectanglelabels": ["cat"]}, original_width="wide"),
            "bad_image",
            "width 'wide' are not pixel counts",
        ),
        ("x.xml", _cvat('<points label="cat" points="1,2"/>'), "malformed_object", "points has no"),
        ("x.xml", _cvat('<box label="cat" xtl="1" ytl="?"/>'), "not_a_number", "image 0: shape 1"),
        ("x.xml", _cvat("<box/>"), "unnamed_object", "has no label"),
        ("x.xml", _cvat("", "b.png"), "missing_image", "'b.png': no such file below"),
        (
            "x.csv",
            "image,class,x1,y1,x2,y2\na.png,cat,1,2,x,4\n",
            "not_a_number",
            "line 2: xmax is",
        ),
        ("x.csv", "image,class,x1,y1,x2,y2\na.png,,1,2,3,4\n", "unnamed_object", "line 2: has no"),
        ("x.csv", "image,class,x1,y1,x2,y2\n,cat,1,2,3,4\n", "bad_image", "line 2: has no image"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, name: str, content: object, kind: str, said: str) -> None:
    _, findings = _read(_folder(tmp_path, name, content))
    (error,) = (each for each in findings if each.severity == "error")
    assert error.kind == kind
    assert said in str(error)
    assert str(tmp_path / name) in str(error)


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.json", _labelme(), "labelme"),
        ("a.xml", "<annotation><filename>a.png</filename></annotation>", "voc"),
    ],
)
def test_the_annotation_of_one_image_is_not_taken_for_that_of_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: object, format: str
) -> None:
    root = _folder(tmp_path, name, content)
    assert main(["check-data", str(root), "--annotations", str(root / name)]) == 2
    told = f"--annotations: not for {format}, whose annotations are not one file"
    assert told in capsys.readouterr().err


def test_a_missing_split_of_labelme_is_told_what_takes_all(tmp_path: Path) -> None:
    _folder(tmp_path, "a.json", _labelme())
    _, (error,) = inspect(FORMATS["labelme"].source(root=tmp_path, split="train"))  # type: ignore[call-arg]
    assert (error.kind, error.file) == ("missing_folder", tmp_path / "train")
    assert "`split: null` (without --split) takes all images" in error.reason


@pytest.mark.parametrize(
    ("format", "name", "text"),
    [
        ("csv", "x.csv", ""),
        ("csv", "x.csv", "filename,class\na.png,cat\n"),
        ("csv", "x.csv", "\0"),
        ("cvat", "x.xml", "<html/>"),
        ("cvat", "x.xml", '<!DOCTYPE x [<!ENTITY e "boom">]><annotations>&e;</annotations>'),
        ("label_studio", "x.json", "{}"),
        ("label_studio", "x.json", "[1]"),
        ("label_studio", "x.json", "[" * 100_000),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, format: str, name: str, text: str) -> None:
    root = _folder(tmp_path, name, text)
    source = FORMATS[format].source(images=root, annotations=root / name)  # type: ignore[call-arg]
    images, (error,) = inspect(source)
    assert images == []
    assert (error.severity, error.file) == ("error", root / name)


def test_images_without_objects_and_without_annotations(tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "b.png")
    root = _folder(tmp_path, "x.csv", "a.png,,,,,\n")
    (image,), findings = _read(root)
    assert (image.image_id, image.objects, findings) == ("a.png", (), [])
    (root / "x.csv").unlink()
    _folder(root, "a.json", _labelme())
    (image,), (finding,) = _read(root)
    assert (finding.kind, finding.severity) == ("unlisted_image", "warning")
    assert "such as b.png" in finding.reason


def test_labels_of_the_whole_image_are_not_taken_for_images_without_objects(
    tmp_path: Path,
) -> None:
    """labelme's flags, of which those that are not set say nothing."""
    for name, flags in (("a", {"cat": True, "dog": False}), ("b", {"cat": False}), ("c", {})):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"{name}.png")
        content = {"flags": flags, "shapes": [], "imagePath": f"{name}.png"}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    images, (warning,) = _read(tmp_path)
    assert [(image.image_id, image.objects) for image in images] == [("b", ()), ("c", ())]
    assert (warning.kind, warning.severity) == ("image_labels", "warning")
    assert "1 images have flags" in warning.reason
    assert "such as a.png (cat)" in warning.reason
    for name in "bc":
        (tmp_path / f"{name}.json").unlink()
        (tmp_path / f"{name}.png").unlink()
    images, findings = _read(tmp_path)
    assert images == []
    assert [(each.kind, each.severity) for each in findings] == [
        ("image_labels", "warning"),
        ("no_images", "error"),
    ]


def test_labels_that_are_no_classes_in_labelme(tmp_path: Path) -> None:
    content = _labelme()
    (cat,) = content["shapes"]
    content["shapes"] += [{**cat, "label": name} for name in ("__ignore__", "_background_")]
    (image,), (note,) = _read(_folder(tmp_path, "a.json", content))
    assert [obj.name for obj in image.objects] == ["cat"]
    assert (note.kind, note.severity) == ("no_class_label", "note")
    assert note.reason.endswith("'__ignore__' 1, '_background_' 1")


def test_what_a_cancelled_annotation_has_is_no_loss(tmp_path: Path) -> None:
    value = {"x": 10, "y": 10, "width": 50, "height": 50, "rectanglelabels": ["cat"]}
    choice = {"type": "choices", "value": {"choices": ["dark"]}}
    annotations = [
        {"was_cancelled": True, "result": None},
        {"was_cancelled": True, "result": [choice]},
        {"result": [{"value": value, "type": "rectanglelabels"}]},
    ]
    content = [{"data": {"image": "a.png"}, "annotations": annotations}]
    root = _folder(tmp_path, "tasks.json", content)
    (image,), _ = _read(root)
    assert [obj.name for obj in image.objects] == ["cat"]
    source = FORMATS["label_studio"].source(images=root, annotations=root / "tasks.json")
    assert FORMATS["label_studio"].contents(source, [image]).extras == {}


# ---------------------------------------------------------------------------------- round trips

_SIDE = st.integers(0, 20).map(lambda tenths: tenths / 2)
_OBJECT = st.tuples(st.sampled_from(["cat", "Hund & Co", "犬"]), _SIDE, _SIDE)


@settings(max_examples=15)
@given(objects=st.lists(st.lists(_OBJECT, max_size=3), min_size=1, max_size=3))
@pytest.mark.parametrize("tool", TOOLS)
def test_boxes_and_names_come_back(
    tool: str, objects: list[list[tuple[str, float, float]]]
) -> None:
    """COCO, written as the tool's format, read, and written as COCO again."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        coco = _coco(root / "first", objects)
        _convert(coco, tool, root / "tool")
        assert recognise(root / "tool").format.name == tool
        _convert(root / "tool", "coco", root / "second")
        assert _boxes(root / "second") == _boxes(coco)


def _coco(root: Path, objects: list[list[tuple[str, float, float]]]) -> Path:
    names = sorted({name for image in objects for name, _, _ in image}) or ["cat"]
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    annotations = []
    for number, image in enumerate(objects, 1):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "train" / f"{number}.png")
        for name, x, y in image:
            entry = {"image_id": number, "category_id": names.index(name), "bbox": [x, y, 11, 7.5]}
            annotations.append({"id": len(annotations) + 1, "iscrowd": 0, **entry})
    content = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(1, len(objects) + 1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    return root


def _convert(root: Path, target: str, out: Path) -> None:
    sources = recognise(root).format.splits(root)
    assert list(sources) == ["train"]
    plan = plan_conversion(read_splits(sources), target)
    assert plan.losses == ()
    write_plan(plan, out)


def _boxes(root: Path) -> list[tuple[str, list[tuple[Any, ...]]]]:
    (source,) = recognise(root).format.splits(root).values()
    return [
        (image.path.name, [(obj.name, *obj.box) for obj in image.objects])
        for image in sorted(read_images(source), key=lambda image: image.path.name)
    ]
