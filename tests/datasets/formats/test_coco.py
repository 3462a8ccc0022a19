"""COCO JSON files are read as written, and every fault becomes a finding."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from PIL import Image
from resdet.datasets import headers
from resdet.datasets.catalog import assemble
from resdet.datasets.formats import FORMATS, coco_json, inspect, read_images
from resdet.datasets.formats.coco import CocoSource
from resdet.datasets.formats.coco_ids import CocoIds, coco_ids, joined_ids
from resdet.datasets.formats.coco_json import category_names, load_json
from resdet.datasets.formats.coco_writing import instances
from resdet.datasets.formats.format import Reading
from resdet.datasets.formats.values import Values
from resdet.datasets.formats.writing import Outgoing
from resdet.datasets.records import RawImage, RawObject
from resdet.detection.errors import DataError

CONTENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48},
        {"id": "x9", "file_name": "sub/b.png"},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    "annotations": [
        {"id": 0, "image_id": 7, "category_id": 18, "bbox": [1, 2, 30.5, 40], "iscrowd": 0},
        {"id": 0, "image_id": "7", "category_id": 1, "bbox": ["1", "2", "3", "4"], "iscrowd": 1},
    ],
}


def read_coco(images: Path, annotations: Path) -> list[RawImage]:
    return read_images(CocoSource(images=images, annotations=annotations))


def _write(root: Path, content: object, encoding: str = "utf-8") -> Path:
    (root / "sub").mkdir(exist_ok=True)
    Image.new("RGB", (64, 48)).save(root / "a.jpg")
    Image.new("RGB", (20, 30)).save(root / "sub" / "b.png")
    path = root / "instances.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding)
    return path


def _changed(**paths: object) -> dict[str, Any]:
    """The content with e.g. annotations__1__bbox=None in place of what is there."""
    content = copy.deepcopy(CONTENT)
    for path, value in paths.items():
        *outer, last = path.split("__")
        place: Any = content
        for key in outer:
            place = place[int(key) if key.isdigit() else key]
        place[int(last) if last.isdigit() else last] = value
    return content


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_boxes_crowds_names_and_empty_images(tmp_path: Path, encoding: str) -> None:
    path = _write(tmp_path, CONTENT, encoding)
    first, second = read_coco(tmp_path, path)
    assert (first.image_id, first.size, first.path) == ("7", (48, 64), tmp_path / "a.jpg")
    assert [(obj.name, obj.box, obj.ignore) for obj in first.objects] == [
        ("dog", (1, 2, 31.5, 42), False),
        ("person", (1, 2, 4, 6), True),
    ]
    assert (second.image_id, second.size, second.objects) == ("x9", (30, 20), ())
    assert second.source == path


@pytest.mark.parametrize("bbox", [None, [], [1, None, 3, 4], [1, 2, math.nan, 4]])
def test_absent_boxes_are_left_to_the_catalog(tmp_path: Path, bbox: object) -> None:
    path = _write(tmp_path, _changed(annotations__0__bbox=bbox))
    assert not all(map(math.isfinite, read_coco(tmp_path, path)[0].objects[0].box))


def test_a_negative_width_stays_swapped(tmp_path: Path) -> None:
    path = _write(tmp_path, _changed(annotations__0__bbox=[10, 2, -4, 5]))
    assert read_coco(tmp_path, path)[0].objects[0].box == (10, 2, 6, 7)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "instances.json: line 1 column 1: "),
        ('{"images": [\n  {"id": 1,}]}', "instances.json: line 2 column "),
        ([], "a list"),
        ({"images": [], "annotations": []}, "`categories` is missing"),
        (_changed(images=[1]), "`images` is missing or not a list of objects"),
        (_changed(images__1__id="7"), "image 7: the id is used twice"),
        (_changed(images__1__id=None), "needs an id"),
        (_changed(categories__1__id=18), "category 18: the id is used by 'dog' and 'person'"),
        (_changed(categories__1__name="dog"), "name 'dog' has several ids"),
        (_changed(categories__1__name=None), "needs an id and a name"),
        (_changed(annotations__1__image_id=8), "annotation 0: image_id 8"),
        (_changed(annotations__1__category_id=2), "category_id 2 is not in `categories`"),
        (_changed(annotations__1__iscrowd=2), "iscrowd is 2"),
        (_changed(annotations__1__bbox=[1, 2, 3]), "bbox is [1, 2, 3]"),
        (_changed(annotations__1__bbox=["1,500", 2, 3, 4]), "bbox is '1,500', expected a number"),
        (_changed(annotations__1__bbox="1 2 3 4"), "expected [x, y, width, height]"),
        (_changed(images__0__file_name="gone.jpg"), "'gone.jpg': no such file below"),
        (_changed(images__0__file_name=None), "image 7: has no file_name"),
        (_changed(images__0__width=0), "not pixel counts"),
        (_changed(images__0__width="64 px"), "not pixel counts"),
        (_changed(images__0__width=64.5), "not pixel counts"),
        (_changed(images__0__height=math.inf), "not pixel counts"),
        (_changed(images__0__width=True), "not pixel counts"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: object, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read_coco(tmp_path, _write(tmp_path, content))
    assert reason in str(caught.value)
    assert "instances.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_outlines_are_kept_of_objects_without_a_box_alone(tmp_path: Path) -> None:
    """They take most of the memory of a large file."""
    outline = {"segmentation": [[1, 2, 31, 2, 31, 42]]}
    boxed, bare = CONTENT["annotations"][0] | outline, CONTENT["annotations"][1] | outline
    del bare["bbox"]
    path = _write(tmp_path, _changed(annotations=[boxed, bare]))
    assert load_json(path)["annotations"] == [boxed, bare]
    assert load_json(path, outlines=False)["annotations"] == [CONTENT["annotations"][0], bare]
    first, second = read_coco(tmp_path, path)[0].objects
    assert (first.box, second.box) == ((1, 2, 31.5, 42), (1, 2, 31, 42))


def test_the_classes_of_a_file_that_was_read_need_no_further_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CocoSource(images=tmp_path, annotations=_write(tmp_path, CONTENT))
    inspect(source)
    with monkeypatch.context() as patched:
        patched.setattr(coco_json, "load_json", None)
        assert FORMATS["coco"].classes(source) == ("dog", "person")
    _write(tmp_path, _changed(categories__0__name="cat"))
    assert FORMATS["coco"].classes(source) == ("cat", "person")


@pytest.mark.parametrize("scale", [False, True])
def test_headers_read_by_several_processes_give_the_same_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: bool
) -> None:
    images, sizes = [], [(64, 48), (64, 48), (640, 480), (10, 480), (64, 48), (64, 48)]
    for number, (width, height) in enumerate(sizes):
        name = f"{number}.png"
        Image.new("RGB", (64, 48)).save(tmp_path / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "4.png").unlink()
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 30, 40]} for n in range(6)]
    path = _write(tmp_path, {**CONTENT, "images": images, "annotations": boxes})
    source = CocoSource(images=tmp_path, annotations=path)
    reading = Reading(on_size_mismatch="scale" if scale else "error")
    alone = inspect(source, reading)
    monkeypatch.setattr(headers, "WORTH_SHARING", 2)
    assert inspect(source, replace(reading, workers=2)) == alone
    kinds = {finding.kind for finding in alone[1]}
    assert kinds >= {"missing_image", "unreadable_image", "size_mismatch"}
    assert [image.image_id for image in alone[0]] == ["0", *(["2"] if scale else []), "5"]


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.json: no such file"):
        read_coco(tmp_path, tmp_path / "gone.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"b.json: cannot be read"):
        read_coco(tmp_path, tmp_path / "b.json")


def test_many_errors_are_counted_and_a_few_shown(tmp_path: Path) -> None:
    wrong = [{"id": n, "image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1]} for n in range(8)]
    with pytest.raises(DataError) as caught:
        read_coco(tmp_path, _write(tmp_path, _changed(annotations=wrong)))
    assert "8 errors (unknown_image 8): " in str(caught.value)
    assert "annotation 0:" in str(caught.value)
    assert "annotation 4:" in str(caught.value)
    assert "annotation 5:" not in str(caught.value)
    assert "and 3 more" in str(caught.value)


def test_whole_numbers_may_be_written_as_decimals(tmp_path: Path) -> None:
    path = _write(tmp_path, _changed(images__0__width=64.0))
    assert read_coco(tmp_path, path)[0].size == (48, 64)


def test_very_many_categories_take_linear_time(tmp_path: Path) -> None:
    """Compared pair by pair, 60,000 names took minutes."""
    _write(tmp_path, {"images": [], "annotations": [], "categories": [
        {"id": number, "name": f"class {number % 59_999}"} for number in range(60_000)
    ]})  # fmt: skip
    start, findings = time.process_time(), []
    path = tmp_path / "instances.json"
    names = category_names(load_json(path)["categories"], path, findings, Values())
    assert len(names) == 59_999 and [each.kind for each in findings] == ["category_name_twice"]
    assert time.process_time() - start < 10


def test_empty_lists_give_no_images(tmp_path: Path) -> None:
    empty: dict[str, list[object]] = {"images": [], "annotations": [], "categories": []}
    assert read_coco(tmp_path, _write(tmp_path, empty)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"annotations__0__image_id": "é\n\x1b[2J"}, r"image_id é\n\x1b[2J is not in `images`"),
        ({"images__0__width": 10**400}, "are not pixel counts"),
        ({"images__0__height": "a" * 9000}, "are not pixel counts"),
    ],
    ids=["control characters", "beyond floats", "long"],
)
def test_strange_values_make_one_short_line(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        read_coco(tmp_path, _write(tmp_path, _changed(**changes)))
    assert said in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("area", "kept"), [(12, 12.0), (0.5, 0.5), (0, 0.0), (None, None), ("x", None), (-1, None)]
)
def test_the_area_of_a_mask_is_kept(tmp_path: Path, area: object, kept: float | None) -> None:
    path = _write(tmp_path, _changed(annotations__0__area=area))
    source = CocoSource(images=tmp_path, annotations=path)
    images, findings = inspect(source)
    assert [obj.area for obj in images[0].objects] == [kept, None]
    wrong = [finding for finding in findings if finding.kind == "bad_area"]
    assert len(wrong) == (area is not None and kept is None)
    split = assemble(read_coco(tmp_path, path), classes=["dog", "person"])
    areas = split.records[0].annotation.areas
    assert (areas is None) == (kept is None)
    assert areas is None or areas[:1].tolist() == [kept]


def test_a_written_file_has_the_area_of_the_mask() -> None:
    box = (0.0, 0.0, 4.0, 5.0)
    objects = (RawObject("dog", box, area=7.25), RawObject("dog", box))
    image = Outgoing(Path("a.jpg"), PurePosixPath("a.jpg"), (48, 64), objects)
    written = instances([image], ["dog"])["annotations"]
    assert [entry["area"] for entry in written] == [7.25, 20.0]


def test_images_without_annotations(tmp_path: Path) -> None:
    """The annotations of such a file are not read, whatever they are."""
    for content in (_changed(annotations=None), _changed(annotations__0__bbox="?")):
        path = _write(tmp_path, content)
        source = CocoSource(images=tmp_path, annotations=path, annotated=False)
        images = read_images(source)
        assert [image.image_id for image in images] == ["7", "x9"]
        assert not any(image.objects for image in images)


def test_ids_as_the_file_has_them(tmp_path: Path) -> None:
    content = _changed()
    content["images"].append({"id": 8, "file_name": "sub/c.png"})
    content["images"].append({"id": 9, "file_name": "other/c.png"})
    ids = coco_ids(_write(tmp_path, content))
    assert ids.images == {"7": 7, "x9": "x9", "8": 8, "9": 9}
    assert ids.categories == {"dog": 18, "person": 1}
    assert (ids.of_file("a.jpg"), ids.of_file("sub/b.png"), ids.of_file("b.png")) == (7, "x9", "x9")
    assert (ids.of_file("sub/c.png"), ids.of_file("c.png"), ids.of_file("d.png")) == (8, None, None)
    other = CocoIds({"1": 1}, {}, {"dog": 18, "cat": 2})
    joined = joined_ids([ids, other])
    assert joined is not None
    assert joined.categories == {"dog": 18, "person": 1, "cat": 2}
    assert joined_ids([ids, CocoIds({}, {}, {"dog": 17})]) is None  # another id
    assert joined_ids([ids, CocoIds({}, {}, {"cat": 18})]) is None  # another name
