"""The COCO metrics equal those of pycocotools on files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from resdet.datasets.catalog import assemble
from resdet.datasets.formats import read_images
from resdet.datasets.formats.coco import CocoSource
from resdet.detection.config.detector import EvalConfig
from resdet.detection.errors import ConfigError
from resdet.detection.evaluation.coco import COCO_METRICS, LIBRARIES, coco_scores
from resdet.detection.evaluation.columns import gather
from resdet.detection.evaluation.definitions import COCO_SIZES
from resdet.detection.extras import EXTRAS
from resdet.detection.structures import Annotation, Detections, Record

K = 3
SIZES = ("small", "medium", "large")


def random_image(generator: torch.Generator) -> tuple[Annotation, Detections]:
    """Objects of all three sizes, some ignored, and detections from shaken copies of them."""
    count = int(torch.randint(0, 6, (1,), generator=generator))
    corner = torch.rand(count, 2, generator=generator) * 200
    side = torch.rand(count, 2, generator=generator) ** 2 * 200 + 4
    boxes = torch.cat([corner, corner + side], dim=1)
    labels = torch.randint(K - 1, (count,), generator=generator)  # the last class has no objects
    ignore = torch.rand(count, generator=generator) < 0.2
    shaken = boxes.repeat(3, 1) + torch.randn(3 * count, 4, generator=generator) * 5
    shaken[:, 2:] = torch.maximum(shaken[:, 2:], shaken[:, :2] + 1)
    scores = torch.rand(3 * count, generator=generator).mul(8).round() / 8  # ties
    guess = torch.randint(K, (3 * count,), generator=generator)
    keep = torch.rand(3 * count, generator=generator) < 0.7
    found = torch.where(keep, labels.repeat(3), guess)
    return Annotation(boxes, labels, ignore), Detections(shaken, scores, found)


def random_set(seed: int, images: int) -> tuple[list[Record], dict[str, Detections]]:
    generator = torch.Generator().manual_seed(seed)
    records, detections = [], {}
    for number in range(images):
        annotation, found = random_image(generator)
        image_id = f"{number:04d}"
        records.append(Record(image_id, Path(image_id), (400, 400), annotation))
        detections[image_id] = found
    return records, detections


def xywh(box: list[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def reference(
    folder: Path, records: list[Record], detections: dict[str, Detections]
) -> tuple[list[float], COCOeval]:
    """pycocotools on JSON files, as anyone would run it."""
    annotations: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for number, record in enumerate(records, start=1):
        truth, found = record.annotation, detections[record.image_id]
        for box, label, crowd in zip(truth.boxes, truth.labels, truth.ignore, strict=True):
            bbox = xywh(box.tolist())
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": int(crowd),
                }
            )
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            results.append(
                {
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": xywh(box.tolist()),
                    "score": float(score),
                }
            )
    dataset = {
        "info": {},
        "images": [{"id": number} for number in range(1, len(records) + 1)],
        "categories": [{"id": label + 1, "name": str(label)} for label in range(K)],
        "annotations": annotations,
    }
    (folder / "truth.json").write_text(json.dumps(dataset))
    (folder / "results.json").write_text(json.dumps(results))
    truth_index = COCO(str(folder / "truth.json"))
    evaluator = COCOeval(truth_index, truth_index.loadRes(str(folder / "results.json")), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return list(evaluator.stats), evaluator


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_on_files(seed: int, tmp_path: Path) -> None:
    records, detections = random_set(seed, images=30)
    stats, evaluator = reference(tmp_path, records, detections)
    scores = coco_scores(gather(detections, records, K))
    assert list(scores.metrics) == list(COCO_METRICS)
    assert 0.05 < stats[0] < 0.95  # the case says something
    np.testing.assert_allclose(list(scores.metrics.values()), stats, rtol=0, atol=1e-12)
    assert math.isnan(scores.class_ap[K - 1])
    for label in range(K - 1):
        evaluator.params.catIds = [label + 1]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        assert scores.class_ap[label] == pytest.approx(evaluator.stats[0], abs=1e-12)


@pytest.mark.parametrize("sizes", [COCO_SIZES, (16.0, 64.0)])
def test_hotcoco_gives_the_same_numbers(
    sizes: tuple[float, float], capsys: pytest.CaptureFixture[str]
) -> None:
    """To the last bit: with ties, crowds, a class without objects, other sizes."""
    pytest.importorskip("hotcoco", reason="the extra hotcoco is not installed")
    for seed in range(6):
        records, detections = random_set(seed, images=30)
        columns = gather(detections, records, K)
        ours, theirs = (coco_scores(columns, sizes, library) for library in LIBRARIES)
        np.testing.assert_array_equal(list(theirs.metrics.values()), list(ours.metrics.values()))
        np.testing.assert_array_equal(theirs.class_ap, ours.class_ap)
    none = gather(dict.fromkeys(detections, Detections.empty()), records, K)
    assert coco_scores(none, sizes, "hotcoco").metrics == pytest.approx(
        coco_scores(none, sizes).metrics, nan_ok=True
    )
    empty = gather({}, [], 0)
    assert all(map(math.isnan, coco_scores(empty, sizes, "hotcoco").metrics.values()))
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "hotcoco", ("no_such_package",))
    with pytest.raises(ConfigError, match=r"pip install 'resdet\[hotcoco\]'"):
        coco_scores(gather({}, [], K), library="hotcoco")


def test_the_libraries_are_the_values_of_the_setting() -> None:
    assert list(LIBRARIES) == list(get_args(EvalConfig.model_fields["coco_library"].annotation))


def test_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    records, detections = random_set(0, images=3)
    coco_scores(gather(detections, records, K))
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_the_order_of_images_changes_nothing() -> None:
    records, detections = random_set(5, images=20)
    straight = coco_scores(gather(detections, records, K))
    mixed = dict(sorted(detections.items(), key=lambda item: item[0][::-1]))
    turned = coco_scores(gather(mixed, records[::-1], K))
    np.testing.assert_array_equal(straight.class_ap, turned.class_ap)
    assert straight.metrics == turned.metrics


def test_no_detections_is_zero() -> None:
    records, detections = random_set(0, images=5)
    none = dict.fromkeys(detections, Detections.empty())
    scores = coco_scores(gather(none, records, K))
    assert scores.metrics["coco_ap"] == 0.0
    assert scores.metrics["coco_ar100"] == 0.0


@pytest.mark.parametrize(("images", "classes"), [(0, 0), (0, 2), (3, 0), (3, 2)])
def test_no_objects_is_undefined(images: int, classes: int) -> None:
    records = [Record(str(i), Path(str(i)), (10, 10)) for i in range(images)]
    count = 1 if classes else 0
    found = Detections(torch.ones(count, 4), torch.ones(count), torch.zeros(count).long())
    scores = coco_scores(gather(dict.fromkeys(map(str, range(images)), found), records, classes))
    assert all(math.isnan(value) for value in scores.metrics.values())
    assert len(scores.class_ap) == classes
    assert all(math.isnan(value) for value in scores.class_ap)


def test_a_perfect_result_is_one() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 100, 100], [100, 100, 300, 300]])
    labels = torch.tensor([0, 1, 1])
    record = Record(
        "a", Path("a"), (400, 400), Annotation(boxes, labels, torch.zeros(3, dtype=torch.bool))
    )
    scores = coco_scores(gather({"a": Detections(boxes, torch.ones(3), labels)}, [record], 2))
    assert scores.class_ap == pytest.approx((1.0, 1.0))
    ar1 = scores.metrics.pop("coco_ar1")
    assert ar1 == pytest.approx((1 + 1 / 2) / 2)  # one detection for the two objects of class 1
    assert list(scores.metrics.values()) == pytest.approx([1.0] * 11)


@pytest.mark.parametrize("seed", range(3))
def test_areas_of_masks_decide_about_sizes(seed: int, tmp_path: Path) -> None:
    """Areas from a quarter to all of the box: across 32 x 32 and 96 x 96, against pycocotools on
    the COCO file that they are read from."""
    records, detections = random_set(seed, images=30)
    reference(tmp_path, records, detections)
    path = tmp_path / "truth.json"
    content = json.loads(path.read_text())
    generator = torch.Generator().manual_seed(seed)
    for image in content["images"]:
        image |= {"file_name": f"{image['id']}.png", "width": 400, "height": 400}
        Image.new("RGB", (400, 400)).save(tmp_path / image["file_name"])
    for entry in content["annotations"]:
        entry["area"] *= 0.25 + 0.75 * float(torch.rand(1, generator=generator))
    del content["annotations"][0]["area"]  # the box's
    content["annotations"][1]["area"] = 1024  # a whole number on the limit: small and medium
    path.write_text(json.dumps(content))
    images = read_images(CocoSource(images=tmp_path, annotations=path))
    split = assemble(images, classes=[str(label) for label in range(K)], on_bad_box="clip")
    found = {str(number): detections[f"{number - 1:04d}"] for number in range(1, 31)}
    ours = coco_scores(gather(found, split.records, K)).metrics

    for entry in content["annotations"]:  # clipped as ours
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x, y, min(x + w, 400) - x, min(y + h, 400) - y]
    first = content["annotations"][0]
    first["area"] = first["bbox"][2] * first["bbox"][3]
    path.write_text(json.dumps(content))
    index = COCO(str(path))
    evaluator = COCOeval(index, index.loadRes(str(tmp_path / "results.json")), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    np.testing.assert_allclose(list(ours.values()), evaluator.stats, rtol=0, atol=1e-12)
    boxes = [
        replace(each, annotation=replace(each.annotation, areas=None)) for each in split.records
    ]
    without = coco_scores(gather(found, boxes, K)).metrics
    changed = {name for name in ours if abs(ours[name] - without[name]) > 1e-3}
    sized = {f"coco_{kind}_{size}" for kind in ("ap", "ar") for size in SIZES}
    assert len(changed) >= 4 and changed <= sized
