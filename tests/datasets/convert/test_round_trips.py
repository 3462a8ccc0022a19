"""Every format that is written, from and to every other one: lossless, or the loss is told."""

from __future__ import annotations

import json
import tempfile
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from resdet.datasets.convert.convert import plan_conversion, write_plan
from resdet.datasets.convert.reading import read_splits
from resdet.datasets.formats import FORMATS, read_images, recognise

WIDTH, HEIGHT = 64, 48
WRITTEN = [name for name, format in FORMATS.items() if format.writer is not None]
#: Formats that mark difficult objects or crowds.
WITH_IGNORED = {"voc", "coco", "labelme", "cvat"}

#: {format: [(class, difficult, corners)]} of an image.
Objects = list[tuple[str, bool, tuple[float, ...]]]


def test_the_formats_that_are_written() -> None:
    assert set(WRITTEN) == {"voc", "coco", "yolo", "labelme", "label_studio", "cvat", "csv"}


@st.composite
def _object(draw: st.DrawFn) -> tuple[str, bool, tuple[float, ...]]:
    """A box of one pixel or more inside the image, in tenths of a pixel."""
    corners: dict[str, tuple[int, int]] = {}
    for axis, side in (("x", WIDTH), ("y", HEIGHT)):
        first = draw(st.integers(0, 10 * side - 10))
        corners[axis] = first, draw(st.integers(first + 10, 10 * side))
    (x1, x2), (y1, y2) = corners["x"], corners["y"]
    name = draw(st.sampled_from(["cat", "Hund & Co", "犬"]))
    return name, draw(st.booleans()), (x1 / 10, y1 / 10, x2 / 10, y2 / 10)


@settings(max_examples=3)
@given(images=st.lists(st.lists(_object(), max_size=3), min_size=1, max_size=2))
def test_any_format_to_any_other(images: list[Objects]) -> None:
    """Objects that count come back the same; the others where both formats mark them."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_coco(root / "coco", images)
        for name in WRITTEN:
            if name != "coco":
                _convert(root / "coco", name, root / name)
        ignored = any(difficult for objects in images for _, difficult, _ in objects)
        for source, target in permutations(WRITTEN, 2):
            out = root / f"{source}-{target}"
            losses = _convert(root / source, target, out)
            kept = source in WITH_IGNORED and target in WITH_IGNORED
            told = ignored and source in WITH_IGNORED and target not in WITH_IGNORED
            assert bool(losses) == told, (source, target, losses)
            want = [[obj for obj in objects if kept or not obj[1]] for objects in images]
            assert _read(out) == want, (source, target)


def _write_coco(root: Path, images: list[Objects]) -> None:
    names = sorted({name for objects in images for name, _, _ in objects}) or ["cat"]
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    annotations: list[dict[str, Any]] = []
    for number, objects in enumerate(images, 1):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "train" / f"{number}.png")
        for name, difficult, (x1, y1, x2, y2) in objects:
            box = [x1, y1, x2 - x1, y2 - y1]
            entry = {"image_id": number, "category_id": names.index(name), "bbox": box}
            annotations.append(entry | {"id": len(annotations) + 1, "iscrowd": int(difficult)})
    content = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(1, len(images) + 1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    (root / "annotations/instances_train.json").write_text(json.dumps(content))


def _convert(root: Path, target: str, out: Path) -> tuple[str, ...]:
    sources = recognise(root).format.splits(root)
    plan = plan_conversion(read_splits(sources), target)
    write_plan(plan, out, link=True)
    return plan.losses


def _read(root: Path) -> list[Objects]:
    (source,) = recognise(root).format.splits(root).values()
    return [
        [(obj.name, obj.ignore, tuple(round(side, 6) for side in obj.box)) for obj in image.objects]
        for image in sorted(read_images(source), key=lambda image: image.path.name)
    ]


# ---------------------------------------------------------------------------------- what is lost


def _labelme(root: Path) -> None:
    shape = {"label": "cat", "points": [[1, 2], [9, 2], [5, 8]], "shape_type": "polygon"}
    more = {"group_id": 3, "description": "grey", "flags": {"young": True, "old": False}}
    content = {"flags": {"night": True}, "shapes": [shape | more], "imagePath": "a.png"}
    (root / "a.json").write_text(json.dumps(content))


def _cvat(root: Path) -> None:
    corners = 'xtl="1" ytl="2" xbr="9" ybr="8"'
    attributes = '<attribute name="age">3</attribute><attribute name="difficult">true</attribute>'
    shapes = (
        f'<box label="cat" {corners} occluded="1" rotation="0.0">{attributes}</box>'
        '<polygon label="cat" points="1,2;9,2;5,8" occluded="0"/><tag label="night"/>'
    )
    image = f'<image id="0" name="a.png" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
    (root / "x.xml").write_text(f"<annotations><version>1.1</version>{image}</annotations>")


def _label_studio(root: Path) -> None:
    corners = {"x": 10, "y": 10, "width": 50, "height": 50}
    box = {"type": "rectanglelabels", "value": corners | {"rectanglelabels": ["cat", "pet"]}}
    turned = {"value": corners | {"rectanglelabels": ["cat"], "rotation": 5}}
    results = [box, {"type": "rectanglelabels", **turned}, {"type": "choices", "value": {}}]
    task = {"data": {"image": "a.png"}, "annotations": [{"result": results}]}
    (root / "x.json").write_text(json.dumps([task]))


def _csv(root: Path) -> None:
    (root / "x.csv").write_text("image,class,x1,y1,x2,y2,score,note\na.png,cat,1,2,9,8,0.5,\n")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            _labelme,
            "flag night 1, shape polygon 1, group_id 1, description 1, flag young 1",
        ),
        (_cvat, "occluded 1, attribute age 1, <polygon> 1, <tag> 1"),
        (_label_studio, "further labels 1, rotation 1, choices 1"),
        (_csv, "column score 1"),
    ],
)
def test_what_a_tool_has_and_others_have_not_is_counted(
    tmp_path: Path, make: Any, told: str
) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    make(tmp_path)
    parts = read_splits(recognise(tmp_path).format.splits(tmp_path))
    notes = plan_conversion(parts, "coco").notes
    assert f"not converted: {told}" in notes
