"""Training from a detector of other classes: the shipped configs that go from COCO to VOC, on drawn
sets of both layouts, and a detector that is extended by a class."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from resdet.detection.config.files import load_config
from resdet.detection.engine.checkpoint import load_checkpoint
from torch import Tensor

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

#: The drawn shapes under names of VOC and of COCO.
SHAPES = ("circle", "cross", "ring", "square", "star", "triangle")
VOC = ("aeroplane", "tvmonitor", "motorbike", "dog", "diningtable", "person")
COCO = ("airplane", "tv", "motorcycle", "dog", "dining table", "person")
#: A network and a schedule that take a second; the learning rate leaves the rows as they are.
TINY = (
    "data.workers=0",
    "image.short_side_train=[96]",
    "image.short_side_test=96",
    "image.long_side_max=128",
    "backbone={depth: 18, width: 8, norm: group, frozen_stages: 0, weights: null}",
    "rpn.channels=16",
    "rpn.anchor_sizes=[16, 32, 64]",
    "rpn.post_nms_train=40",
    "rpn.post_nms_test=50",
    "roi.pool_size=4",
    "roi.batch_per_image=16",
    "train.batch_size=2",
    "train.iterations=2",
    "train.milestones=[]",
    "train.warmup_iterations=0",
    "train.lr=1e-9",
    "train.eval_every=2",
    "train.val_loss_batches=0",
    "eval.metric=voc_ap50",
)


def renamed(text: str, names: Sequence[str]) -> str:
    for shape, name in zip(SHAPES, names, strict=True):
        text = text.replace(f">{shape}<", f">{name}<")
    return text


@pytest.fixture(scope="module")
def data(scenes: Path, resdet: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layouts of the originals: VOCdevkit with both years, and coco. VOC 2012 test has a list
    and images alone."""
    root = tmp_path_factory.mktemp("originals")
    for year, sets in {2007: ("trainval", "test"), 2012: ("trainval", "val", "test")}.items():
        voc = root / "VOCdevkit" / f"VOC{year}"
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (voc / folder).mkdir(parents=True)
        for name in sets:
            ids = []
            for stem in (
                (scenes / f"ImageSets/Main/{'val' if name != 'trainval' else 'train'}.txt")
                .read_text()
                .split()
            ):
                ids.append(f"{year}_{'t' if name == 'test' else ''}{stem}")
                shutil.copy(
                    scenes / "JPEGImages" / f"{stem}.jpg", voc / "JPEGImages" / f"{ids[-1]}.jpg"
                )
                if (year, name) != (2012, "test"):
                    xml = (scenes / "Annotations" / f"{stem}.xml").read_text()
                    xml = renamed(xml, VOC).replace(f">{stem}.jpg<", f">{ids[-1]}.jpg<")
                    (voc / "Annotations" / f"{ids[-1]}.xml").write_text(xml)
            (voc / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(ids) + "\n")
    other = root / "renamed"
    shutil.copytree(scenes, other)
    for path in (other / "Annotations").iterdir():
        path.write_text(renamed(path.read_text(), COCO))
    words = ("convert-data", other, "--from", "voc", "--to", "coco", "--out", root / "coco")
    done = resdet(*words, "--split", "train", "--split", "val")
    assert done.code == 0, done.err
    for short, name in {"train": "train2017", "val": "val2017"}.items():
        (root / "coco" / short).rename(root / "coco" / name)
        annotations = root / "coco" / "annotations"
        (annotations / f"instances_{short}.json").rename(annotations / f"instances_{name}.json")
    return root


@pytest.fixture(scope="module")
def coco_run(data: Path, resdet: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "coco"
    words = ("train-det", "--cfg", "coco_r101.yaml", f"data.root={data}", *TINY, "--out", out)
    done = resdet(*words, "eval.metric=voc_ap50", "train.lr=0.001")
    assert done.code == 0, done.err
    return out


def tensors(run: Path) -> dict[str, Tensor]:
    return load_checkpoint(run / "weights" / "last.pt")["model"]


@pytest.mark.parametrize("name", ["voc0712_coco_r101", "voc2012_coco_r101"])
def test_from_coco_to_voc(
    name: str, data: Path, coco_run: Path, resdet: Command, tmp_path: Path
) -> None:
    weights = coco_run / "weights" / "last.pt"
    run = tmp_path / "run"
    words = ("train-det", "--cfg", f"{name}.yaml", f"data.root={data}", *TINY, "--out", run)
    done = resdet(*words, f"train.start_from={weights}")
    assert done.code == 0, done.err
    log = (run / "train.log").read_text()
    assert "class 'aeroplane' takes the rows of 'airplane' (train.start_classes)" in log
    assert "class rows kept: 20 of 20" in log
    assert "classes of the weights left out: 60" in log
    classes = load_config(name).data.classes or ()
    known = load_config("coco_r101").data.classes or ()
    names = load_config(name).train.start_classes
    labels = [known.index(names.get(each, each)) for each in classes]
    before, after = tensors(coco_run), tensors(run)
    for kind in ("weight", "bias"):
        scores, boxes = f"roi_head.cls_logits.{kind}", f"roi_head.box_deltas.{kind}"
        torch.testing.assert_close(after[scores], before[scores][[*labels, 80]], atol=1e-6, rtol=0)
        rows = before[boxes].unflatten(0, (80, 4))[labels].flatten(0, 1)
        torch.testing.assert_close(after[boxes], rows, atol=1e-6, rtol=0)
    page = resdet("report", run)
    assert page.code == 0, page.err
    assert str(weights) in (run / "report.html").read_text()


def test_voc_2012_to_the_files_of_the_server(data: Path, resdet: Command, tmp_path: Path) -> None:
    """Table 11: training on 2007 trainval+test and 2012 trainval, files for 2012 test."""
    run = tmp_path / "run"
    words = ("train-det", "--cfg", "voc2012_r101.yaml", f"data.root={data}", *TINY, "--out", run)
    done = resdet(*words)
    assert done.code == 0, done.err
    assert "train: images: 30 " in (run / "train.log").read_text()
    weights = run / "weights" / "last.pt"
    done = resdet("eval", "--weights", weights, "--split", "test", "--save-voc", "--save-json")
    assert done.code == 0, done.err
    assert "6 images without annotations: nothing to score" in done.out
    folder = run / "eval" / "results" / "VOC2012" / "Main"
    assert len(list(folder.iterdir())) == 20
    lines = "".join(path.read_text() for path in folder.iterdir()).splitlines()
    listed = (data / "VOCdevkit/VOC2012/ImageSets/Main/test.txt").read_text().split()
    assert {line.split()[0] for line in lines} == set(listed)
    assert len(lines) == len(json.loads((run / "eval" / "detections.json").read_text()))


def evaluated(resdet: Command, weights: Path, out: Path) -> tuple[float, dict[str, list[float]]]:
    """The mAP, and the scores of each class."""
    done = resdet("eval", "--weights", weights, "--out", out, "--save-json")
    assert done.code == 0, done.err
    truth = json.loads((out / "ground_truth.json").read_text())
    names = {entry["id"]: entry["name"] for entry in truth["categories"]}
    scores: dict[str, list[float]] = {name: [] for name in names.values()}
    for entry in json.loads((out / "detections.json").read_text()):
        scores[names[entry["category_id"]]].append(entry["score"])
    mean = json.loads((out / "metrics.json").read_text())["metrics"]["voc_ap50"]
    return mean, {name: sorted(each) for name, each in scores.items()}


def test_a_class_more_leaves_the_others_as_they_are(
    resdet: Command, learned_run: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """The mAP of the old classes, and their scores, are the same to 1e-6 before the first step."""
    weights, run = learned_run / "weights" / "last.pt", tmp_path / "run"
    settings = ("backbone.norm=group", "rpn.post_nms_test=100", "train.iterations=1")
    settings += ("train.milestones=[]", "train.warmup_iterations=0", "train.lr=1e-12")
    words = ("train-det", "--cfg", tiny_config, "--weights", weights, "--out", run, *settings)
    done = resdet(*words, f"data.classes=[hexagon, {', '.join(reversed(SHAPES))}]")
    assert done.code == 0, done.err
    assert "class 'hexagon' is new: its rows are initialised" in (run / "train.log").read_text()
    before, old = evaluated(resdet, weights, tmp_path / "before")
    after, new = evaluated(resdet, run / "weights" / "last.pt", tmp_path / "after")
    assert before > 0  # 0.004 to 0.02, according to the processor
    assert after == pytest.approx(before, abs=1e-6)
    assert max(new.pop("hexagon"), default=0) < 1e-8
    assert sum(map(len, old.values())) == 600
    for name, scores in old.items():
        assert new[name] == pytest.approx(scores, abs=1e-6), name
    assert load_config(run / "config.yaml").train.start_from == weights


def test_settings_about_weights_that_are_not_there(
    resdet: Command, tiny_config: Path, tmp_path: Path
) -> None:
    words = ("train-det", "--cfg", tiny_config, "--dry-run")
    done = resdet(*words, "train.start_classes={circle: disc}")
    assert done.code == 2
    assert "train.start_classes goes with --weights, --from or train.start_from" in done.err
    done = resdet(*words, f"train.start_from={tmp_path / 'none.pt'}")
    assert done.code == 2 and "train.start_from: not found, tried" in done.err
