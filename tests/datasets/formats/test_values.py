"""Numbers, flags and ids of any type whose meaning is certain."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from resdet.datasets.formats import inspect
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
    for wrong in ("a", "1,5", "1_0", True, [], {}, 10**400):
        with pytest.raises(ValueError, match=r"x is .*expected a number"):
            values.number("x", wrong)


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
