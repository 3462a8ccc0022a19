"""``resdet eval --predictions`` of the sample files of other projects gives their numbers."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from resdet.detection.evaluation.coco import COCO_METRICS
from resdet.tests.conftest import SHARED

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

#: The two persons of COCO's image 139 and the three detections of detectron2's test of its
#: evaluation; masks and links left out.
TRUTH: dict[str, Any] = {
    "categories": [{"id": 1, "name": "person"}, {"id": 65, "name": "bed"}],
    "images": [
        {"id": 285, "file_name": "000000000285.jpg", "height": 640, "width": 586},
        {"id": 139, "file_name": "000000000139.jpg", "height": 426, "width": 640},
    ],
    "annotations": [
        {"id": 230831, "bbox": [412.8, 157.61, 53.05, 138.01], "area": 2913.1103999999987},
        {"id": 233201, "bbox": [384.43, 172.21, 15.12, 35.74], "area": 435.1449499999997},
    ],
}
for _entry in TRUTH["annotations"]:
    _entry |= {"image_id": 139, "category_id": 1, "iscrowd": 0}
BOXES = (
    ([417.3332824707031, 159.27003479003906, 47.66064453125, 143.00193786621094], 0.99498218297958),
    ([383.5909118652344, 172.0777587890625, 17.959075927734375, 36.94813537597656], 0.76854217052),
    ([457.8359069824219, 158.88027954101562, 9.89764404296875, 8.771820068359375], 0.07092753797),
)
RESULTS = [{"image_id": 139, "category_id": 1, "bbox": box, "score": s} for box, s in BOXES]

#: Printed in the demonstration of COCO's API for its 100 images (bbox).
PRINTED = (0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564)


def theirs(truth: Path, results: Path) -> dict[str, float | None]:
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO(str(truth))
        evaluator = COCOeval(index, index.loadRes(str(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    stats = (None if value < 0 else float(value) for value in evaluator.stats)
    return dict(zip(COCO_METRICS, stats, strict=True))


def ours(resdet: Command, truth: Path, results: Path, out: Path) -> dict[str, float | None]:
    words = ("--predictions", results, "--annotations", truth, "--out", out)
    done = resdet("eval", *words, "--resamples", "0")
    assert done.code == 0, done.err
    metrics = json.loads((out / "metrics.json").read_text())["metrics"]
    return {name: metrics[name] for name in COCO_METRICS}


def without(name: str) -> dict[str, Any]:
    changed = copy.deepcopy(TRUTH)
    for entry in changed["annotations"]:
        entry.pop(name, None)
    return changed


def test_sample_of_detectron2(resdet: Command, tmp_path: Path) -> None:
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(TRUTH))
    results.write_text(json.dumps(RESULTS))
    expected = theirs(truth, results)
    assert expected["coco_ap50"] == pytest.approx(1.0) and expected["coco_ap"] < 1
    found = ours(resdet, truth, results, tmp_path / "out")
    assert found == {n: v if v is None else pytest.approx(v, abs=1e-9) for n, v in expected.items()}


def test_variations_of_the_sample(resdet: Command, tmp_path: Path) -> None:
    """As in detectron2's test: nothing found, nothing to find, fields left out."""
    truth, results, out = tmp_path / "truth.json", tmp_path / "results.json", tmp_path / "out"
    results.write_text("[]")
    truth.write_text(json.dumps(TRUTH))
    assert ours(resdet, truth, results, out)["coco_ap"] == 0
    results.write_text(json.dumps(RESULTS))
    truth.write_text(json.dumps(TRUTH | {"annotations": []}))
    assert set(ours(resdet, truth, results, out).values()) == {None}
    for name in ("iscrowd", "id", "area"):
        truth.write_text(json.dumps(without(name)))
        assert ours(resdet, truth, results, out)["coco_ap50"] == pytest.approx(1.0), name
    truth.write_text(json.dumps(TRUTH))
    for name in ("image_id", "category_id", "bbox", "score"):
        results.write_text(json.dumps([{k: v for k, v in e.items() if k != name} for e in RESULTS]))
        done = resdet("eval", "--predictions", results, "--annotations", truth, "--out", out)
        assert done.code == 3 and f"result 1: '{name}' is missing" in done.err


def test_sample_of_coco(resdet: Command, tmp_path: Path) -> None:
    """The results for the first 100 images of val2014, as COCO's demonstration scores them."""
    folder = Path(os.environ.get("RESDET_COCO", SHARED / "coco"))
    results = folder / "results" / "instances_val2014_fakebbox100_results.json"
    annotations = folder / "annotations" / "instances_val2014.json"
    missing = [str(path) for path in (results, annotations) if not path.is_file()]
    if missing:
        pytest.skip(f"sample files of COCO not found: {', '.join(missing)} (set RESDET_COCO)")
    content = json.loads(annotations.read_text())
    chosen = set(sorted(image["id"] for image in content["images"])[:100])
    for name, key in (("images", "id"), ("annotations", "image_id")):
        content[name] = [entry for entry in content[name] if entry[key] in chosen]
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(content))
    found = ours(resdet, truth, results, tmp_path / "out")
    assert [*found.values()] == pytest.approx(PRINTED, abs=5.1e-4)
