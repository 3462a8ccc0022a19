"""The boxes of polygons and run-length encoded masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask
from resdet.datasets.catalog import all_dropped, label_images
from resdet.datasets.formats import inspect
from resdet.datasets.formats.coco import CocoSource
from resdet.datasets.formats.coco_masks import box_of
from resdet.tools.cli import main


def test_polygons() -> None:
    assert box_of([[10, 20, 30, 20, 30, 40.5]]) == (10, 20, 30, 40.5)
    assert box_of([[10, 20, 30, 20], [5, 90, 6, 91]]) == (5, 20, 30, 91)
    assert box_of([10, 20, 30, 25]) == (10, 20, 30, 25)


def test_runs() -> None:
    # Columns of 3: pixels 4 and 5 are the lower two of the second column.
    assert box_of({"size": [3, 4], "counts": [4, 2, 6]}) == (1, 1, 2, 3)
    # Over the end of a column: from the last row of the first to the first row of the second.
    assert box_of({"size": [3, 4], "counts": [2, 2, 8]}) == (0, 0, 2, 3)
    assert box_of({"size": [3, 4], "counts": [12]}) is None


@pytest.mark.parametrize("empty", [None, [], {}, [[]]])
def test_nothing(empty: object) -> None:
    assert box_of(empty) is None


@pytest.mark.parametrize(
    "wrong",
    [
        "text",
        3,
        [[1, 2, 3]],
        [["a", 1]],
        [[1, float("nan")]],
        [[True, 1]],
        {"size": [3, 4]},
        {"size": [3], "counts": [3]},
        {"size": [3, 4], "counts": [5]},
        {"size": [3, 4], "counts": [-1, 13]},
        {"size": [3, 4], "counts": "é"},
        {"size": [3, 4], "counts": "P"},
    ],
)
def test_what_is_no_segmentation(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"RLE|segmentation"):
        box_of(wrong)


sides = st.integers(1, 40)


@given(arrays(np.uint8, st.tuples(sides, sides), elements=st.integers(0, 1)))
def test_runs_as_pycocotools_writes_them(mask: np.ndarray) -> None:
    encoded = coco_mask.encode(np.asfortranarray(mask))
    box = box_of({"size": encoded["size"], "counts": encoded["counts"].decode()})
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]]))).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    assert box_of({"size": list(mask.shape), "counts": counts}) == box
    if not mask.any():
        assert box is None
        return
    x, y, width, height = coco_mask.toBbox(encoded).tolist()
    assert box == (x, y, x + width, y + height)


# --------------------------------------------------------------------------- whole files


def written(root: Path, annotation: dict[str, Any]) -> CocoSource:
    Image.new("RGB", (60, 40)).save(root / "a.png")
    path = root / "x.json"
    image = {"id": 1, "file_name": "a.png", "width": 60, "height": 40}
    entry = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, **annotation}
    categories = [{"id": 1, "name": "cat"}]
    content = {"images": [image], "annotations": [entry], "categories": categories}
    path.write_text(json.dumps(content))
    return CocoSource(images=root, annotations=path)


@pytest.mark.parametrize("bbox", [{}, {"bbox": []}, {"bbox": None}])
def test_objects_without_box_have_that_of_their_mask(bbox: dict[str, Any], tmp_path: Path) -> None:
    polygon = {"segmentation": [[5, 6, 25, 6, 25, 30]]}
    [image], findings = inspect(written(tmp_path, {**bbox, **polygon}))
    assert image.objects[0].box == (5, 6, 25, 30)
    [note] = [finding for finding in findings if finding.kind == "box_from_mask"]
    assert note.reason.startswith("1 objects without `bbox`") and note.severity == "note"
    # A box that is there is taken as it is.
    [image], _ = inspect(written(tmp_path, {"bbox": [1, 2, 3, 4], **polygon}))
    assert image.objects[0].box == (1, 2, 4, 6)


def test_neither_box_nor_segmentation(tmp_path: Path) -> None:
    source = written(tmp_path, {"bbox": [], "segmentation": [], "area": 0})
    images, _ = inspect(source)
    [finding] = label_images(images, classes=["cat"]).findings
    assert "has neither box nor segmentation" in finding.reason and finding.severity == "error"


def test_all_boxes_dropped_is_an_error(
    tmp_path: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, {"bbox": [], "segmentation": []})
    source = "{format: coco, images: ., annotations: x.json}"
    config = tmp_path / "c.yaml"
    text = tiny_config.read_text()
    head = f"data: {{train: [{source}], val: [{source}], classes: [cat], workers: 0}}\n"
    config.write_text(head + text[text.index("image:") :])
    words = ["train-det", "--cfg", str(config), "--dry-run", "data.on_bad_box=drop"]
    assert main(words) == 3
    assert "all 1 boxes were dropped" in capsys.readouterr().err
    words = ["check-data", str(tmp_path), "--annotations", str(tmp_path / "x.json"), "--quick"]
    assert main(words) == 3
    printed = capsys.readouterr().out  # says of no setting that it settles this
    assert "all 1 boxes are bad, so that dropping them leaves none" in printed
    assert "settle" not in printed and printed.rstrip().endswith("--out checked")
    images, _ = inspect(CocoSource(images=tmp_path, annotations=tmp_path / "x.json"))
    [finding] = all_dropped(label_images(images, classes=["cat"], on_bad_box="drop"))
    assert (finding.kind, finding.severity) == ("no_objects", "error")
