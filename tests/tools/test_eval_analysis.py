"""``resdet eval``: one evaluation for models and for results of any tool, subsets of classes and
splits, sizes and thresholds, what went wrong in each image; ``resdet compare`` of two of them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from resdet.detection.evaluation.detection import evaluate_columns
from resdet.detection.evaluation.image_records import read_images
from resdet.tests.detection.evaluation.test_error_types import overlap

if TYPE_CHECKING:
    from resdet.tests.conftest import Command


@pytest.fixture(scope="module")
def evaluated(resdet: Command, learned_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation of a model with its results as files."""
    out = tmp_path_factory.mktemp("evaluated") / "eval"
    weights = learned_run / "weights" / "last.pt"
    done = resdet("eval", "--weights", weights, "--out", out, "--save-json", "--conf", "0.3")
    assert done.code == 0, done.err
    assert "classification" in done.out and "dAP" in done.out and "95%" in done.out
    assert "counted from score 0.3 on" in done.out
    return out


def content(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def score(resdet: Command, evaluated: Path, out: Path, *words: object) -> str:
    files = evaluated / "detections.json", evaluated / "ground_truth.json"
    paths = ("--predictions", files[0], "--annotations", files[1])
    done = resdet("eval", *paths, "--out", out, *words)
    assert done.code == 0, done.err
    return done.out


def test_results_have_all_that_a_model_has(
    resdet: Command, evaluated: Path, tmp_path: Path
) -> None:
    score(resdet, evaluated, tmp_path, "--conf", "0.3")
    own, other = content(evaluated), content(tmp_path)
    assert own["metrics"]["voc_ap50"] > 0
    assert set(own) == set(other)
    assert own["intervals"]["voc_ap50"]["low"] < own["metrics"]["voc_ap50"]
    for name in ("intervals", "errors", "operating_points", "confusion"):
        assert other[name] == own[name], name
    for name, value in own["metrics"].items():
        assert other["metrics"][name] == (value if value is None else pytest.approx(value))
    written = sorted(path.name for path in tmp_path.iterdir())
    names = "confusion_matrix.png images.json metrics.json per_class.csv pr_curve.png"
    assert written == names.split()
    # The same images by other ids, which are numbers here and names there.
    pairs = [
        sorted(read_images(folder).images, key=lambda each: Path(each["file"]).name)
        for folder in (evaluated, tmp_path)
    ]
    for one, two in zip(*pairs, strict=True):
        assert one["errors"] == two["errors"] and one["detections"] == two["detections"]


def test_each_image_says_what_went_wrong(evaluated: Path) -> None:
    """Counts, kinds and indices agree with each other, with the totals and with the boxes."""
    records = read_images(evaluated)
    totals = dict.fromkeys(content(evaluated)["errors"]["counts"], 0)
    for image in records.images:
        objects, found = image["objects"], image["detections"]
        assert sum(objects["missed"]) == image["errors"]["missed"]
        kept = [k for k, s in zip(found["kinds"], found["scores"], strict=True) if s >= 0.3]
        for name in totals:
            assert name == "missed" or kept.count(name) == image["errors"][name]
            totals[name] += image["errors"][name]
        assert image["wrong"] == sum(image["errors"].values())
        for place, row in enumerate(objects["found_by"]):
            assert row is None or found["objects"][row] == place
        for row, kind in enumerate(found["kinds"]):
            target = found["objects"][row]
            assert (target is None) == (kind in ("background", "ignored"))
            if kind in ("right", "duplicate", "localization"):
                assert objects["labels"][target] == found["labels"][row]
            elif target is not None:
                assert objects["labels"][target] != found["labels"][row]
        assert Path(image["file"]).is_file()
    assert totals == content(evaluated)["errors"]["counts"] and sum(totals.values()) > 0
    wrong = [image["wrong"] for image in records.images]
    assert wrong == sorted(wrong, reverse=True)
    again = evaluate_columns(records.columns(), records.classes)
    expected = content(evaluated)["metrics"]
    assert {name: again.metrics[name] for name in expected if expected[name] is not None} == {
        name: value for name, value in expected.items() if value is not None
    }


@pytest.mark.parametrize("by_model", [True, False])
def test_classes_sizes_and_thresholds(
    resdet: Command, learned_run: Path, evaluated: Path, tmp_path: Path, by_model: bool
) -> None:
    words = ("--classes", "star, ring", "--sizes", "24,40", "--thresholds", "0.5,0.25")
    if by_model:
        weights = learned_run / "weights" / "last.pt"
        done = resdet("eval", "--weights", weights, "--out", tmp_path, *words)
        assert done.code == 0, done.err
    else:
        score(resdet, evaluated, tmp_path, *words)
    report = content(tmp_path)
    assert report["classes"] == ["ring", "star"]
    whole = {row["name"]: row for row in content(evaluated)["per_class"]}
    for row in report["per_class"]:
        assert row == whole[row["name"]]
    assert "from 24 x 24 to 40 x 40 px" in report["definitions"]["coco_ap_medium"]
    assert [point["score"] for point in report["operating_points"]["all"]] == [0.25, 0.5]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(evaluated / "ground_truth.json"))
        evaluator = COCOeval(truth, truth.loadRes(str(evaluated / "detections.json")), "bbox")
        evaluator.params.catIds = truth.getCatIds(["ring", "star"])
        evaluator.params.areaRng = [[0, 1e10], [0, 576], [576, 1600], [1600, 1e10]]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    for name, value in zip(("", "50", "75", "_small", "_medium", "_large"), evaluator.stats):  # noqa: B905
        ours = report["metrics"][f"coco_ap{name}"]
        assert (-1 if ours is None else ours) == pytest.approx(value, abs=1e-9), name
    assert (evaluator.stats[3:6] >= 0).sum() >= 2


def counted(image: Mapping[str, Any], least: float) -> int:
    """The detections of a score of at least ``least`` that no ignored object of their class takes
    by VOC's rules: the one that they overlap most."""
    objects, found, count = image["objects"], image["detections"], 0
    for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
        rivals = [place for place, own in enumerate(objects["labels"]) if own == label]
        ious = [overlap(box, objects["boxes"][place]) for place in rivals]
        best = max(range(len(rivals)), key=ious.__getitem__, default=-1)
        on_ignored = best >= 0 and ious[best] >= 0.5 and objects["ignore"][rivals[best]]
        count += score >= least and not on_ignored
    return count


def test_operating_points_by_counting(evaluated: Path) -> None:
    records = read_images(evaluated)
    for point in content(evaluated)["operating_points"]["all"]:
        taken = sum(counted(image, point["score"]) for image in records.images)
        assert point["detections"] == taken
        objects = sum(image["objects"]["ignore"].count(False) for image in records.images)
        assert point["recall"] == pytest.approx(point["right"] / objects)
        assert point["precision"] == (None if taken == 0 else point["right"] / taken)
    best = content(evaluated)["operating_points"]["best_f1"]
    every = content(evaluated)["operating_points"]["all"]
    assert best["f1"] >= max(point["f1"] for point in every) > 0


def test_a_split_by_its_name(
    resdet: Command, learned_run: Path, scenes: Path, tmp_path: Path
) -> None:
    """Two images of the folder as an image set of another name."""
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    sets = root / "ImageSets" / "Main"
    names = (sets / "val.txt").read_text().split()[:2]
    (sets / "two.txt").write_text("\n".join(names) + "\n")
    weights = ("eval", "--weights", learned_run / "weights" / "last.pt")
    weights += (f"data.val=[{{format: voc, root: {root}, split: val}}]",)
    done = resdet(*weights, "--split", "two", "--out", tmp_path / "two", "--resamples", "0")
    assert done.code == 0, done.err
    report = content(tmp_path / "two")
    assert report["images"] == 2 and report["intervals"] == {}
    assert sorted(image["image"] for image in read_images(tmp_path / "two").images) == names
    done = resdet(*weights, "--split", "three")
    assert done.code in (2, 3) and "three" in done.err and "no such image set" in done.err


def test_results_become_coco_results(
    resdet: Command, evaluated: Path, scenes: Path, tmp_path: Path
) -> None:
    """Those of a COCO file keep its ids; those of VOC come with the objects under their ids."""
    score(resdet, evaluated, tmp_path / "coco", "--save-json")
    own = json.loads((evaluated / "detections.json").read_text())
    assert json.loads((tmp_path / "coco" / "detections.json").read_text()) == own
    folder = tmp_path / "Main"
    folder.mkdir()
    (image, *_) = (scenes / "ImageSets" / "Main" / "val.txt").read_text().split()
    (folder / "comp4_det_val_ring.txt").write_text(f"{image} 0.5 11 21 30 60\n")
    words = ("--annotations", scenes, "--out", tmp_path / "voc", "--save-json", "--no-coco")
    done = resdet("eval", "--predictions", folder, *words)
    assert done.code == 0, done.err
    truth = COCO(str(tmp_path / "voc" / "ground_truth.json"))
    found = truth.loadRes(str(tmp_path / "voc" / "detections.json"))
    (only,) = found.anns.values()
    assert only["bbox"] == [10, 20, 20, 40]
    assert truth.imgs[only["image_id"]]["file_name"].startswith(image)
    assert truth.cats[only["category_id"]]["name"] == "ring"


def test_a_dry_run_tells_the_classes(
    resdet: Command, learned_run: Path, evaluated: Path, tmp_path: Path
) -> None:
    words = ("--dry-run", "--out", tmp_path, "--classes", "star,ring")
    done = resdet("eval", "--weights", learned_run / "weights" / "last.pt", *words)
    counted, testing = done.out.splitlines()[-2:]
    assert counted.endswith(" images, classes ring, star")
    assert testing.startswith("testing with: ") and testing.endswith("classes: ring; star")
    assert "detections in" in score(resdet, evaluated, tmp_path, "--dry-run")
    assert "; only 2 of" in score(resdet, evaluated, tmp_path, *words)


def test_a_class_whose_name_has_commas(tmp_path: Path, resdet: Command) -> None:
    """ImageNet's classes are lists of synonyms."""
    names = ("tench, Tinca tinca", "goldfish, Carassius auratus", "crane")
    image = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}
    boxes = [
        {"id": k, "image_id": 1, "category_id": k, "bbox": [8 * k, 8, 8, 8], "area": 64}
        for k in (1, 2, 3)
    ]
    truth = {
        "images": [image],
        "annotations": boxes,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
    }
    (tmp_path / "ground_truth.json").write_text(json.dumps(truth))
    found = [{**box, "score": 0.9} for box in boxes]
    (tmp_path / "detections.json").write_text(json.dumps(found))
    words = ("--no-coco", "--resamples", "0", "--classes", f"crane, {names[0]}")
    score(resdet, tmp_path, tmp_path / "out", *words)
    assert content(tmp_path / "out")["classes"] == [names[0], "crane"]


def test_nothing_found_and_nothing_to_find(
    resdet: Command, evaluated: Path, tmp_path: Path
) -> None:
    (tmp_path / "none.json").write_text("[]")
    truth = json.loads((evaluated / "ground_truth.json").read_text())
    truth["annotations"] = []
    (tmp_path / "empty.json").write_text(json.dumps(truth))
    words = ("--predictions", tmp_path / "none.json", "--out", tmp_path / "out")
    done = resdet("eval", *words, "--annotations", evaluated / "ground_truth.json")
    assert done.code == 0, done.err
    report = content(tmp_path / "out")
    assert report["metrics"]["voc_ap50"] == 0
    assert report["errors"]["counts"]["missed"] == sum(r["objects"] for r in report["per_class"])
    point = report["operating_points"]["all"][0]
    assert (point["precision"], point["recall"]) == (None, 0.0)
    done = resdet("eval", *words, "--annotations", tmp_path / "empty.json")
    assert done.code == 0, done.err
    report = content(tmp_path / "out")
    assert set(report["metrics"].values()) == {None}
    assert set(report["errors"]["dap"].values()) == {None}
    assert report["intervals"]["voc_ap50"] == {"low": None, "high": None}
    assert report["operating_points"]["best_f1"]["recall"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--classes", "cow"), "--classes: no class 'cow'; there are circle"),
        (("--sizes", "96,32"), "--sizes"),
        (("--sizes", "a,b"), "--sizes"),
        (("--resamples", "-1"), "--resamples -1"),
        (("--conf", "x"), "--conf"),
    ],
)
def test_wrong_options(resdet: Command, evaluated: Path, words: tuple[str, ...], said: str) -> None:
    files = evaluated / "detections.json", evaluated / "ground_truth.json"
    done = resdet("eval", "--predictions", files[0], "--annotations", files[1], *words)
    assert done.code == 2 and said in done.err


# ------------------------------------------------------------------------------------ compare


def test_compare_evaluations_and_results(resdet: Command, evaluated: Path, tmp_path: Path) -> None:
    """Half of the detections are left out: the same numbers from evaluations and from results."""
    results = json.loads((evaluated / "detections.json").read_text())
    fewer = [each for number, each in enumerate(results) if number % 2]
    (tmp_path / "fewer.json").write_text(json.dumps(fewer))
    truth = ("--annotations", evaluated / "ground_truth.json")
    score(resdet, evaluated, tmp_path / "all")
    words = ("--predictions", tmp_path / "fewer.json", *truth, "--out", tmp_path / "less")
    assert resdet("eval", *words).code == 0
    pairs = {
        "evaluations": (tmp_path / "all", tmp_path / "less" / "images.json"),
        "results": (evaluated / "detections.json", tmp_path / "fewer.json", *truth),
    }
    written = []
    for name, pair in pairs.items():
        out = tmp_path / f"{name}.json"
        page = ("--page", out.with_suffix(".html"))
        done = resdet("compare", *pair, "--out", out, *page, "--resamples", "100")
        assert done.code == 0, done.err
        assert f"open in a browser: {page[1]}" in done.out
        assert "second better" in done.out and "voc_ap50" in done.out and "star" in done.out
        written.append(json.loads(out.read_text()))
    assert written[0]["metrics"] == written[1]["metrics"]
    assert written[0]["images"] == written[1]["images"]
    (ap50, _) = written[0]["metrics"]
    own, less = (content(tmp_path / name)["metrics"]["voc_ap50"] for name in ("all", "less"))
    assert ap50["first"]["value"] == own and ap50["second"]["value"] == less != own
    assert ap50["difference"]["value"] == pytest.approx(less - own)
    assert written[0]["images_compared"] == 6 and len(written[0]["images"]) == 6


def test_compare_refuses(resdet: Command, evaluated: Path, tiny_run: Path, tmp_path: Path) -> None:
    weights = tiny_run / "weights" / "best.pt"
    done = resdet("compare", weights, evaluated)
    assert done.code == 2 and f"resdet eval --weights {weights}" in done.err
    done = resdet("compare", tmp_path, evaluated)
    assert done.code == 2 and "no such file; `resdet eval` writes it" in done.err
    done = resdet("compare", evaluated / "metrics.json", evaluated)
    assert done.code == 3 and "metrics.json: not the images.json" in done.err
    images = json.loads((evaluated / "images.json").read_text())
    images["images"] = images["images"][1:]
    (tmp_path / "images.json").write_text(json.dumps(images))
    done = resdet("compare", evaluated, tmp_path)
    assert done.code == 3 and "lacks 1 images of" in done.err
