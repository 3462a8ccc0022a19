"""Boxes of images that were resized after they were annotated, and images that are skipped."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from resdet.datasets.findings import Finding
from resdet.datasets.formats import inspect
from resdet.datasets.formats.coco import CocoSource
from resdet.datasets.formats.format import Reading, Source
from resdet.datasets.formats.voc import VocSource
from resdet.datasets.formats.yolo import YoloSource
from resdet.datasets.image import ImageRules
from resdet.datasets.records import RawImage

SKIPPING = ImageRules(on_bad_image="skip")


def draw(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))


def voc(root: Path, sizes: dict[str, tuple[int, int]]) -> Source:
    """Images of 40 x 60 (h, w) whose XML says ``sizes`` (h, w), with the box (10, 20, 30, 40)."""
    for name, (height, width) in sizes.items():
        draw(root / "JPEGImages" / f"{name}.jpg", 40, 60)
        sides = "<xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax>"
        xml = root / "Annotations" / f"{name}.xml"
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_text(
            f"<annotation><size><width>{width}</width><height>{height}</height></size>"
            f"<object><name>cat</name><bndbox>{sides}</bndbox></object></annotation>"
        )
    return VocSource(root=root, split=None)


def coco(root: Path, sizes: dict[str, tuple[int, int]]) -> Source:
    images, annotations = [], []
    for number, (name, (height, width)) in enumerate(sizes.items(), 1):
        draw(root / f"{name}.jpg", 40, 60)
        entry = {"id": number, "file_name": f"{name}.jpg", "height": height, "width": width}
        images.append(entry)
        box = {"bbox": [10, 20, 20, 20], "iscrowd": 0, "category_id": 1, "area": 300}
        annotations.append({"id": number, "image_id": number, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    path = root / "x.json"
    path.write_text(json.dumps(content))
    return CocoSource(images=root, annotations=path)


def read(source: Source, **options: object) -> tuple[list[RawImage], list[Finding]]:
    return inspect(source, Reading(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [voc, coco])
def test_boxes_are_scaled_by_the_stated_size(make: object, tmp_path: Path) -> None:
    source = make(tmp_path, {"same": (40, 60), "half": (20, 30), "third": (121, 180)})  # type: ignore[operator]
    images, findings = read(source)
    assert [image.path.stem for image in images] == ["same"]
    assert {finding.kind for finding in findings} == {"size_mismatch"}
    assert all("data.on_size_mismatch=scale" in finding.reason for finding in findings)
    images, findings = read(source, on_size_mismatch="scale")
    boxes = {image.path.stem: image.objects[0].box for image in images}
    assert boxes["same"] == (10, 20, 30, 40)
    assert boxes["half"] == (20, 40, 60, 80)
    assert boxes["third"] == pytest.approx((10 / 3, 20 * 40 / 121, 10, 40 * 40 / 121))
    assert {image.size for image in images} == {(40, 60)}
    areas = {image.path.stem: image.objects[0].area for image in images}
    assert make is voc or areas == pytest.approx(
        {"same": 300, "half": 1200, "third": 300 / 9}, rel=0.01
    )
    assert [(each.severity, each.outcome) for each in findings] == [("warning", "scaled")] * 2


@pytest.mark.parametrize("make", [voc, coco])
def test_another_shape_is_another_image(make: object, tmp_path: Path) -> None:
    source = make(tmp_path, {"same": (40, 60), "square": (40, 40)})  # type: ignore[operator]
    images, [finding] = read(source, on_size_mismatch="scale")
    assert len(images) == 1 and finding.severity == "error"
    assert "on_size_mismatch" not in finding.reason
    images, [finding] = read(source, on_size_mismatch="scale", rules=SKIPPING)
    assert len(images) == 1
    assert (finding.severity, finding.outcome) == ("warning", "skipped")


def test_images_in_a_list_that_are_missing_are_skipped(tmp_path: Path) -> None:
    voc(tmp_path, {"a": (40, 60)})
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\nc\n")
    source = VocSource(root=tmp_path, split="train")
    # The XML of b is there, that of c is missing with its image: one cause, one finding.
    (tmp_path / "Annotations" / "b.xml").write_text("<annotation/>")
    images, findings = read(source)
    assert [(each.kind, each.object, each.severity) for each in findings] == [
        ("missing_image", "b", "error"),
        ("missing_image", "c", "error"),
    ]
    images, findings = read(source, rules=SKIPPING)
    assert [image.image_id for image in images] == ["a"]
    assert [each.outcome for each in findings] == ["skipped"] * 2


def test_yolo_skips_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw(tmp_path / "images" / "train" / f"{name}.jpg", 40, 60)
        label = tmp_path / "labels" / "train" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "images" / "train" / "b.jpg").write_bytes(b"")
    source = YoloSource(root=tmp_path, split="train")
    assert [each.severity for each in read(source)[1]] == ["error"]
    images, [finding] = read(source, rules=SKIPPING)
    assert len(images) == 1 and finding.outcome == "skipped"


@pytest.mark.parametrize("size", [("0", "48"), ("-64", "-96"), ("inf", "48"), ("inf", "0")])
def test_a_stated_size_that_is_none_scales_nothing(tmp_path: Path, size: tuple[str, str]) -> None:
    source = voc(tmp_path, {"a": (1, 1)})
    xml = tmp_path / "Annotations" / "a.xml"
    width, height = size
    text = xml.read_text().replace("<width>1<", f"<width>{width}<")
    xml.write_text(text.replace("<height>1<", f"<height>{height}<"))
    _, findings = read(source, on_size_mismatch="scale")
    assert [finding.severity for finding in findings] == ["error"]
