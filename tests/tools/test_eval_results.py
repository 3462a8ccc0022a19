"""``resdet eval`` writes results that pycocotools and the VOC kit's rules score to its own numbers,
for annotated images and for those of an evaluation server."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.errors import ConfigError
from resdet.detection.evaluation.coco import COCO_METRICS
from resdet.detection.tasks.detector_data import read_test
from resdet.tests.detection.evaluation.test_voc import Case, Det, Obj, kit_ap, kit_marks

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

#: Neither in the order of the names nor without gaps, as in COCO.
CATEGORIES = {"triangle": 90, "circle": 18, "ring": 3, "star": 62, "square": 44, "cross": 7}


@pytest.fixture(scope="module")
def coco(resdet: Command, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes in COCO's layout, with ids like COCO's and masks smaller than the boxes; the test
    images as published, without annotations."""
    root = tmp_path_factory.mktemp("coco") / "coco"
    words = ("convert-data", scenes, "--from", "voc", "--to", "coco", "--out", root)
    done = resdet(*words, "--split", "val", "--split", "train")
    assert done.code == 0, done.err
    path = root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    renamed = {entry["id"]: CATEGORIES[entry["name"]] for entry in content["categories"]}
    for entry in content["categories"]:
        entry["id"] = CATEGORIES[entry["name"]]
    for entry in content["images"]:
        entry["id"] = 139 + 101 * entry["id"]
    for number, entry in enumerate(content["annotations"]):
        entry["image_id"] = 139 + 101 * entry["image_id"]
        entry["category_id"] = renamed[entry["category_id"]]
        entry["area"] *= (0.2, 0.5, 0.9)[number % 3]
    path.write_text(json.dumps(content))
    del content["annotations"]
    (root / "annotations" / "image_info_test-dev.json").write_text(json.dumps(content))
    return root


def config(path: Path, run: Path, **parts: dict[str, Any]) -> Path:
    """The run's config with other data."""
    data = {name: [source] for name, source in parts.items()}
    path.write_text(f"base: {run}/config.yaml\ndata: {json.dumps(data)}\n")
    return path


def coco_source(root: Path, name: str, **more: object) -> dict[str, Any]:
    annotations = root / "annotations" / f"{name}.json"
    return {"format": "coco", "images": str(root / "val"), "annotations": str(annotations)} | more


def evaluate(resdet: Command, run: Path, out: Path, *words: object) -> str:
    done = resdet("eval", "--weights", run / "weights" / "last.pt", "--out", out, *words)
    assert done.code == 0, done.err
    return done.out


def pycocotools(truth: Path, results: Path) -> dict[str, float]:
    index = COCO(str(truth))
    evaluator = COCOeval(index, index.loadRes(str(results)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return dict(zip(COCO_METRICS, evaluator.stats, strict=True))


def metrics(out: Path) -> dict[str, float]:
    content = json.loads((out / "metrics.json").read_text())["metrics"]
    return {name: -1.0 if value is None else value for name, value in content.items()}


def test_coco_data_keep_their_ids(
    resdet: Command, learned_run: Path, coco: Path, tmp_path: Path
) -> None:
    cfg = config(tmp_path / "coco.yaml", learned_run, val=coco_source(coco, "instances_val"))
    out = tmp_path / "out"
    text = evaluate(resdet, learned_run, out, "--cfg", cfg, "--save-json")
    assert "note: the data have no COCO ids" not in text
    ours = metrics(out)
    assert ours["coco_ap50"] > 0 and ours["coco_ap_small"] > 0
    for truth in (coco / "annotations" / "instances_val.json", out / "ground_truth.json"):
        theirs = pycocotools(truth, out / "detections.json")
        assert theirs == pytest.approx({name: ours[name] for name in theirs}, abs=1e-12)
    (first, *_) = json.loads((out / "detections.json").read_text())
    assert set(first) == {"image_id", "category_id", "bbox", "score"}


def test_data_without_coco_ids_come_with_a_matching_ground_truth(
    resdet: Command, learned_run: Path, tmp_path: Path
) -> None:
    text = evaluate(resdet, learned_run, tmp_path, "--save-json")
    assert "images are numbered by sorted image id, classes by label" in text
    theirs = pycocotools(tmp_path / "ground_truth.json", tmp_path / "detections.json")
    ours = metrics(tmp_path)
    assert theirs == pytest.approx({name: ours[name] for name in theirs}, abs=1e-12)
    truth = json.loads((tmp_path / "ground_truth.json").read_text())
    assert [image["id"] for image in truth["images"]] == [1, 2, 3, 4, 5, 6]
    names = [image["file_name"] for image in truth["images"]]
    assert names == sorted(names)


def test_coco_test_images_without_annotations(
    resdet: Command, learned_run: Path, coco: Path, tmp_path: Path
) -> None:
    """As test-dev: ids and categories from the list, the same detections as with annotations."""
    cfg = config(
        tmp_path / "coco.yaml",
        learned_run,
        val=coco_source(coco, "instances_val"),
        test=coco_source(coco, "image_info_test-dev", annotated=False),
    )
    out, val = tmp_path / "test", tmp_path / "val"
    words = ("--cfg", cfg, "--save-json")
    text = evaluate(resdet, learned_run, out, *words, "--split", "test")
    assert "6 images without annotations: nothing to score" in text
    assert "AP" not in text
    assert sorted(path.name for path in out.iterdir()) == ["detections.json", "image_info.json"]
    evaluate(resdet, learned_run, val, *words)
    assert (out / "detections.json").read_bytes() == (val / "detections.json").read_bytes()


@pytest.fixture(scope="module")
def voc_test(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VOC 2012's test set: a list and images, and XMLs that describe persons' parts only."""
    root = tmp_path_factory.mktemp("VOCdevkit") / "VOC2012"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    names = (scenes / "ImageSets" / "Main" / "val.txt").read_text().split()
    for name in names:
        (image,) = (scenes / "JPEGImages").glob(f"{name}.*")
        shutil.copy(image, root / "JPEGImages")
    (root / "ImageSets" / "Main" / "test.txt").write_text("".join(f"{n}\n" for n in names))
    (root / "Annotations" / f"{names[0]}.xml").write_text("<annotation/>")
    return root


def kit_numbers(folder: Path, truth: dict[str, list[Obj]], label: int, name: str) -> float:
    """The area AP of one class's file by the kit's rules, boxes as pixels from 1."""
    case: Case = {image_id: (objects, []) for image_id, objects in truth.items()}
    for line in (folder / f"comp4_det_test_{name}.txt").read_text().splitlines():
        image_id, score, *box = line.split()
        case[image_id][1].append(Det(tuple(map(float, box)), float(score), label))
    return kit_ap(*kit_marks(case, label))[0]


def test_voc_server_files(
    resdet: Command, learned_run: Path, voc_test: Path, tmp_path: Path
) -> None:
    source = {"format": "voc", "root": str(voc_test), "split": "test", "annotated": False}
    cfg = config(tmp_path / "voc.yaml", learned_run, test=source)
    out = tmp_path / "out"
    text = evaluate(resdet, learned_run, out, "--cfg", cfg, "--split", "test", "--save-voc")
    assert "6 images without annotations: nothing to score" in text
    folder = out / "results" / "VOC2012" / "Main"
    classes = sorted(CATEGORIES)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"comp4_det_test_{name}.txt" for name in classes
    ]
    evaluate(resdet, learned_run, tmp_path / "val", "--save-json")  # the same images, annotated
    content = json.loads((tmp_path / "val" / "ground_truth.json").read_text())
    truth: dict[str, list[Obj]] = {Path(e["file_name"]).stem: [] for e in content["images"]}
    stems = {entry["id"]: Path(entry["file_name"]).stem for entry in content["images"]}
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        obj = Obj((x + 1, y + 1, x + w, y + h), entry["category_id"] - 1, bool(entry["iscrowd"]))
        truth[stems[entry["image_id"]]].append(obj)
    per_class = json.loads((tmp_path / "val" / "metrics.json").read_text())["per_class"]
    wanted = [row["voc_ap50"] for row in per_class]
    assert max(wanted) > 0
    got = [kit_numbers(folder, truth, label, name) for label, name in enumerate(classes)]
    assert got == pytest.approx(wanted, abs=1e-9)


def test_nothing_to_score_and_nothing_to_write(
    resdet: Command, learned_run: Path, scenes: Path, voc_test: Path, coco: Path, tmp_path: Path
) -> None:
    weights = ("eval", "--weights", learned_run / "weights" / "last.pt")
    source = {"format": "voc", "root": str(voc_test), "split": "test", "annotated": False}
    cfg = config(tmp_path / "voc.yaml", learned_run, test=source)
    done = resdet(*weights, "--cfg", cfg, "--split", "test")
    assert done.code == 2 and "nothing to score; --save-json and --save-voc write" in done.err
    done = resdet(*weights, "--split", "test", "--save-json")
    assert done.code == 2 and "the config names no data.test" in done.err
    with pytest.raises(ConfigError, match=r"add it with data\.test="):
        read_test(DetectorConfig(), ("a",))
    (line,) = re.findall(r"add it with data\.test='(\S.*)'\n", done.err)
    assert line == f"[{{format: voc, root: {scenes}, split: test}}]"
    done = resdet(*weights, "--cfg", config(tmp_path / "val.yaml", learned_run, val=source))
    assert done.code == 2 and "`annotated: false` is for data.test" in done.err
    info = coco_source(coco, "image_info_test-dev")
    done = resdet(*weights, "--cfg", config(tmp_path / "info.yaml", learned_run, val=info))
    assert done.code == 3 and "`annotations` is missing" in done.err
    assert "annotated: false" in done.err
    test = coco_source(coco, "image_info_test-dev", annotated=False)
    cfg = config(tmp_path / "coco.yaml", learned_run, test=test)
    done = resdet(*weights, "--cfg", cfg, "--split", "test", "--save-voc")
    assert done.code == 2 and "must be one image set of format voc" in done.err


def test_results_without_a_model(resdet: Command, learned_run: Path, tmp_path: Path) -> None:
    """The files of one evaluation, scored as those of another tool, give its numbers."""
    one = tmp_path / "one"
    evaluate(resdet, learned_run, one, "--save-json", "--save-voc")
    wanted = metrics(one)
    assert wanted["voc_ap50"] > 0
    folder = next((one / "results").glob("*/Main"))
    truth = ("--annotations", one / "ground_truth.json")
    for name in ("circle", "cross", "ring", "square", "star", "triangle"):
        path = folder / f"comp4_det_val_{name}.txt"  # stems, where the ground truth has numbers
        files = json.loads((one / "ground_truth.json").read_text())["images"]
        text = path.read_text()
        for image in files:
            text = text.replace(f"{Path(image['file_name']).stem} ", f"{image['id']} ")
        path.write_text(text)
    for number, predictions in enumerate((one / "detections.json", folder)):
        out = tmp_path / str(number)
        done = resdet("eval", "--predictions", predictions, *truth, "--out", out)
        assert done.code == 0, done.err
        content = json.loads((out / "metrics.json").read_text())
        assert content["testing"] == f"detections in {predictions}"
        assert metrics(out) == pytest.approx(wanted, abs=1e-6)
        assert (out / "pr_curve.png").is_file()
    done = resdet("eval", "--predictions", one / "detections.json")
    assert done.code == 2 and "--predictions PATH with --annotations PATH" in done.err
    done = resdet("eval", "--predictions", one / "detections.json", *truth, "test.nms_iou=0.4")
    assert done.code == 2 and "leave out overrides" in done.err
    assert resdet("eval").code == 2


def test_infer_with_the_ids_of_a_coco_file(
    resdet: Command, learned_run: Path, coco: Path, tmp_path: Path
) -> None:
    info = coco / "annotations" / "image_info_test-dev.json"
    words = ("infer", "--weights", learned_run / "weights" / "last.pt", coco / "val", "--no-draw")
    words += ("--conf", "0.05", "--coco-ids", info)
    done = resdet(*words, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out" / "detections.coco.json").read_text())
    listed = {e["file_name"]: e["id"] for e in json.loads(info.read_text())["images"]}
    assert {e["file_name"]: e["id"] for e in found["images"]} == listed
    assert {e["name"]: e["id"] for e in found["categories"]} == CATEGORIES
    truth = COCO(str(coco / "annotations" / "instances_val.json"))
    assert len(truth.loadRes(found["annotations"]).anns) == len(found["annotations"]) > 0
    content = json.loads(info.read_text())
    content["images"] = content["images"][1:]
    content["categories"] = content["categories"][1:]
    (tmp_path / "less.json").write_text(json.dumps(content))
    done = resdet(*words[:-1], tmp_path / "less.json", "--out", tmp_path / "less")
    assert done.code == 2 and "1 of 6 images are not in the file" in done.err
