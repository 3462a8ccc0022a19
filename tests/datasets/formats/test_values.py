"""Numbers, flags and ids of any type whose meaning is certain."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from resdet.datasets.formats import FORMATS, inspect
from resdet.datasets.formats.coco import CocoSource
from resdet.datasets.formats.values import Values, key_of
from resdet.tools.cli import main


def test_numbers() -> None:
    values = Values()
    assert [values.number("x", each) for each in (3, 3.5, "3.5", " 4 ", None, "", "1e2")] == [
        3,
        3.5,
        3.5,
        4,
        None,
        None,
        100,
    ]
    assert math.isnan(values.number("x", "nan") or 0)
    assert values.unusual == {"x": ("3.5", 5)}
    for wrong in ("a", "1,500", "1,5,0", "1_0", True, [], {}, 10**400):
        with pytest.raises(ValueError, match=r"x is .*expected a number"):
            values.number("x", wrong)


def test_decimal_commas() -> None:
    values = Values(texts=True)
    written = ("12,5", "-0,125", "1234,125", "0,5", "7,12345", ",5")
    read = [values.number("x", each) for each in written]
    assert read == [12.5, -0.125, 1234.125, 0.5, 7.12345, 0.5]
    assert values.unusual == {"x": ("12,5", 6)}
    with pytest.raises(ValueError, match=r"x is '1,500', .* thousands, or decimals"):
        values.number("x", "1,500")


def test_sizes() -> None:
    values = Values()
    assert [values.size(*each) for each in ((48, 64.0), ("48", " 64 "), (None, 64), ("", 0))] == (
        [(48, 64)] * 2 + [None] * 2
    )
    assert values.unsized == 0
    assert values.size(0, "0.0") is None and values.unsized == 1
    for wrong in ((0, 64), (48, "0"), (48.5, 64), (-48, 64), ("48 px", 64), (True, 64)):
        with pytest.raises(ValueError, match=r"height .* and width .* are not pixel counts"):
            values.size(*wrong)


def test_flags() -> None:
    values = Values()
    yes = (1, 1.0, "1", "1.0", True, "true", "True")
    no = (0, 0.0, "0", False, "false", None, "")
    assert [values.flag("x", each) for each in (*yes, *no)] == [True] * 7 + [False] * 7
    for wrong in (2, "2", "yes", [0], -1, 0.5, math.nan):
        with pytest.raises(ValueError, match="x is"):
            values.flag("x", wrong)


def test_counts() -> None:
    values = Values()
    assert [values.count("x", each) for each in (64, 64.0, "64", "64.0", 0, "0", None, "")] == (
        [64] * 4 + [None] * 4
    )
    for wrong in (-1, 64.5, "64.5", math.inf, math.nan, True, 2.0**60):
        with pytest.raises(ValueError, match="x is"):
            values.count("x", wrong)


@given(st.integers(-(10**12), 10**12))
def test_ids_of_one_number_are_the_same(number: int) -> None:
    assert {key_of(each) for each in (number, float(number), str(number), f"{number}.0")} == {
        str(number)
    }


def test_ids() -> None:
    assert [key_of(each) for each in ("007", "7.5", "a", 7.5, None, "", True, [])] == [
        *("007", "7.5", "a"),
        *[None] * 5,
    ]
    values = Values()
    assert values.key("id", 7) == "7" and values.key("id", "abc") == "abc"
    assert values.notes(Path("x.json")) == []


# --------------------------------------------------------------------------- whole files


def content() -> dict[str, Any]:
    images = [{"id": n, "file_name": f"{n}.png", "width": 60, "height": 40} for n in range(2)]
    box = {"category_id": 0, "bbox": [5, 6, 20, 10], "iscrowd": 0, "area": 200}
    annotations = [{"id": n + 1, "image_id": n, **box} for n in range(2)]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }


VARIANTS: dict[str, tuple[str, str, Any]] = {
    "category_text": ("annotations", "category_id", str),
    "category_float": ("annotations", "category_id", float),
    "image_text": ("annotations", "image_id", str),
    "crowd_float": ("annotations", "iscrowd", float),
    "crowd_null": ("annotations", "iscrowd", lambda value: None),
    "crowd_text": ("annotations", "iscrowd", str),
    "crowd_empty": ("annotations", "iscrowd", lambda value: ""),
    "crowd_false": ("annotations", "iscrowd", bool),
    "box_text": ("annotations", "bbox", lambda box: list(map(str, box))),
    "area_text": ("annotations", "area", str),
    "width_float": ("images", "width", float),
    "width_text": ("images", "width", str),
}


def written(root: Path, data: dict[str, Any]) -> CocoSource:
    for image in data["images"]:
        Image.new("RGB", (60, 40)).save(root / image["file_name"])
    path = root / "x.json"
    path.write_text(json.dumps(data))
    return CocoSource(images=root, annotations=path)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_coco_file_of_other_types_reads_the_same(name: str, tmp_path: Path) -> None:
    plain, _ = inspect(written(tmp_path, content()))
    data = content()
    part, field, change = VARIANTS[name]
    for entry in data[part]:
        entry[field] = change(entry[field])
    images, findings = inspect(written(tmp_path, data))
    assert images == plain
    assert {finding.severity for finding in findings} <= {"note"}
    notes = [finding.reason for finding in findings if finding.kind == "unusual_value"]
    # As one note for all fields; null is not stated, and a size with decimals is ordinary.
    told = name not in ("crowd_null", "width_float")
    assert len(notes) == told and all(f"`{field}`" in note for note in notes)


def test_names_that_are_numbers(tmp_path: Path) -> None:
    data = content()
    data["categories"] = [{"id": 0, "name": 5}, {"id": 1, "name": "dog"}]
    images, findings = inspect(written(tmp_path, data))
    assert [obj.name for image in images for obj in image.objects] == ["5", "5"]
    assert [(f.kind, f.severity) for f in findings] == [("unusual_value", "note")]


@pytest.mark.parametrize("size", [0, None, "0", ""])
def test_sizes_that_are_not_stated_come_from_the_image(size: object, tmp_path: Path) -> None:
    data = content()
    for entry in data["images"]:
        entry["width"] = entry["height"] = size
    images, findings = inspect(written(tmp_path, data))
    assert [image.size for image in images] == [(40, 60)] * 2
    assert all(finding.severity == "note" for finding in findings)


def test_check_data_accepts_all_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = content()
    for part, field, change in VARIANTS.values():
        for entry in data[part]:
            if isinstance(entry[field], int | list):
                entry[field] = change(entry[field])
    written(tmp_path, data)
    assert main(["check-data", str(tmp_path), "--annotations", str(tmp_path / "x.json")]) == 0
    assert capsys.readouterr().out.count("unusual_value") == 1


# --------------------------------------------------------------------------- every format

#: The values of an image of 60x40 with a box, as (field: value).
PLAIN = {"height": 40, "width": 60, "x1": 5, "y1": 6.5, "x2": 25, "y2": 16}


def _voc(of: dict[str, Any]) -> tuple[str, str]:
    size = f"<size><width>{of['width']}</width><height>{of['height']}</height></size>"
    corners = {"xmin": of["x1"], "ymin": of["y1"], "xmax": of["x2"], "ymax": of["y2"]}
    sides = "".join(f"<{tag}>{side}</{tag}>" for tag, side in corners.items())
    obj = f"<object><name>cat</name><bndbox>{sides}</bndbox></object>"
    return "a.xml", f"<annotation>{size}{obj}</annotation>"


def _cvat(of: dict[str, Any]) -> tuple[str, str]:
    box = 'xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"'.format(**of)
    image = 'name="a.png" width="{width}" height="{height}"'.format(**of)
    shapes = f'<image id="0" {image}><box label="cat" {box}/></image>'
    return "x.xml", f"<annotations><version>1.1</version>{shapes}</annotations>"


def _csv(of: dict[str, Any]) -> tuple[str, str]:
    cells = [str(of[key]) for key in ("width", "height", "x1", "y1", "x2", "y2")]
    header = "filename;width;height;xmin;ymin;xmax;ymax;class"
    return "x.csv", f"{header}\n{';'.join(['a.png', *cells, 'cat'])}\n"


def _labelme(of: dict[str, Any]) -> tuple[str, str]:
    points = [[of["x1"], of["y1"]], [of["x2"], of["y2"]]]
    shape = {"label": "cat", "points": points, "shape_type": "rectangle"}
    stated = {"imageHeight": of["height"], "imageWidth": of["width"], "imagePath": "a.png"}
    return "a.json", json.dumps({"shapes": [shape], **stated})


def _label_studio(of: dict[str, Any]) -> tuple[str, str]:
    value = {"x": of["x1"], "y": of["y1"], "width": of["x2"], "height": of["y2"]}
    shape = {"original_width": of["width"], "original_height": of["height"], "value": value}
    shape["value"]["rectanglelabels"] = ["cat"]
    tasks = [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": [shape]}]}]
    return "x.json", json.dumps(tasks)


FILES = {
    "voc": _voc,
    "cvat": _cvat,
    "csv": _csv,
    "labelme": _labelme,
    "label_studio": _label_studio,
}


def _inspected(tool: str, of: dict[str, Any]) -> tuple[list[Any], list[tuple[str, str, str]]]:
    """(size and boxes of each image), and (severity, kind, reason) of the findings."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        Image.new("RGB", (60, 40)).save(root / "a.png")
        name, text = FILES[tool](of)
        (root / name).write_text(text)
        (source,) = FORMATS[tool].splits(root).values()
        images, findings = inspect(source)
    facts = [(image.size, [obj.box for obj in image.objects]) for image in images]
    return facts, [(each.severity, each.kind, each.reason) for each in findings]


_SPELLINGS = st.sampled_from(
    (str, " {} ".format, "{:.6f}".format, "{:e}".format, lambda n: f"{n:.2f}".replace(".", ","))
)


@settings(max_examples=8)
@given(spellings=st.lists(_SPELLINGS, min_size=6, max_size=6))
@pytest.mark.parametrize("tool", FILES)
def test_a_number_is_read_however_it_is_written(tool: str, spellings: list[Any]) -> None:
    plain, findings = _inspected(tool, PLAIN)
    assert len(plain) == 1 and findings == []
    written = {
        key: spell(value) for spell, (key, value) in zip(spellings, PLAIN.items(), strict=True)
    }
    facts, findings = _inspected(tool, written)
    assert facts == plain
    assert {each[:2] for each in findings} <= {("note", "unusual_value")} and len(findings) <= 1


@pytest.mark.parametrize("zero", [0, "0", "0.0"])
@pytest.mark.parametrize("tool", FILES)
def test_a_size_of_zero_is_the_image_s_and_told_once(tool: str, zero: object) -> None:
    facts, findings = _inspected(tool, PLAIN | {"height": zero, "width": zero})
    assert facts == _inspected(tool, PLAIN)[0]
    told = [each for each in findings if each[1] != "unusual_value"]
    assert told == [
        ("note", "unstated_size", "1 images are stated to be 0x0: the sizes of the files are used")
    ]


@pytest.mark.parametrize("tool", FILES)
def test_a_value_that_is_not_certain_is_one_error(tool: str) -> None:
    for field, kind in (("x1", "not_a_number"), ("width", "bad_image")):
        _, findings = _inspected(tool, PLAIN | {field: "1,500"})
        assert [each[:2] for each in findings] == [("error", kind)], field


@pytest.mark.parametrize("tool", ["labelme", "label_studio"])
def test_a_size_of_null_is_the_image_s(tool: str) -> None:
    facts, findings = _inspected(tool, PLAIN | {"height": None, "width": None})
    assert (facts, findings) == (_inspected(tool, PLAIN)[0], [])


def test_one_note_for_all_files_of_a_folder(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        Image.new("RGB", (60, 40)).save(tmp_path / f"{stem}.png")
        text = _voc(PLAIN | {"y1": "6,5", "height": 0, "width": 0})[1]
        (tmp_path / f"{stem}.xml").write_text(text)
    (source,) = FORMATS["voc"].splits(tmp_path).values()
    images, findings = inspect(source)
    assert len(images) == 2
    assert sorted(each.reason.partition(":")[0] for each in findings) == [
        "2 images are stated to be 0x0",
        "values of another type than usual, their meaning is certain",
    ]
