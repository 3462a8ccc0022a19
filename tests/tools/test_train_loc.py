"""``resdet train-loc`` and ``resdet eval`` and ``infer`` of its checkpoints, end to end."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import resdet
import torch
from resdet.backbones.weights.convert import convert
from resdet.backbones.weights.load import write_converted
from resdet.datasets.image import read_image
from resdet.detection.engine.checkpoint import load_checkpoint, save_checkpoint
from resdet.detection.evaluation.image_records import read_images
from resdet.detection.inference.localize import LocationPipeline
from resdet.detection.structures import Located
from resdet.detection.tasks.checkpoints import load_members, read_checkpoint
from resdet.detection.tasks.localizer import LOCALIZATION
from resdet.detection.tasks.region_localizer import LOCALIZATION_RCNN
from resdet.tests.detection.tasks.test_checkpoints import narrow_torchvision
from resdet.tools.cli import main
from safetensors.torch import load_file

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

#: One class is a blue square, the other a red one (B, G, R).
CLASSES = {"n00000001": (230, 40, 20), "n00000002": (20, 40, 230)}
TRAIN, VAL = 4, 3

DATA = """
data:
  source: {format: ilsvrc, root: squares}
  workers: 0
"""
TRAINING = """
train:
  iterations: 6
  batch_size: 4
  base_batch_size: 4
  lr: 0.02
  warmup_iterations: 2
  ema_decay: 0.9
  log_every: 2
  eval_every: 3
  checkpoint_every: 1
"""
FIRST = (
    """
task: localization
crop: {kind: paper, size: 64, short_sides: [64, 80]}
network: {depth: 18, width: 8, norm: batch}
head: {level: conv4, anchor_sizes: [16, 32], anchor_ratios: [1.0]}
test: {protocol: dense, resize: 72, size: 64, short_sides: [64, 80]}
"""
    + DATA
    + TRAINING
)
SECOND = (
    """
task: localization_rcnn
region: {size: 48, padding: 8}
proposals: {count: 6}
network: {depth: 18, width: 8, norm: batch}
test: {batch_size: 4}
"""
    + DATA
    + TRAINING
)
CLASSIFIER = """
task: classification
data: {source: {format: ilsvrc, root: squares}, workers: 0}
crop: {kind: paper, size: 64, short_sides: [64, 80]}
network: {depth: 18, width: 8}
train: {iterations: 2, batch_size: 4, base_batch_size: 4, eval_every: 2}
test: {resize: 72, size: 64}
"""


def make_squares(root: Path) -> None:
    """A CLS-LOC data set: noise, and on it a square of the class's colour."""
    noise = np.random.default_rng(0)
    train, val, rows = [], [], []
    for name in CLASSES:
        for number in range(TRAIN):
            train.append(f"{name}/{name}_{number}")
            _make_one(root, "train", train[-1], name, noise)
        for _ in range(VAL):
            val.append(f"ILSVRC2012_val_{len(val) + 1:08d}")
            box = _make_one(root, "val", val[-1], name, noise)
            rows.append(f"{val[-1]},{name} {' '.join(map(str, box))}")
    for split, ids in (("train_cls", train), ("val", val)):
        path = root / "ImageSets" / "CLS-LOC" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name} {number}\n" for number, name in enumerate(ids, 1)))
    names = ("blue square", "red square")
    mapping = "".join(f"{wnid} {name}\n" for wnid, name in zip(CLASSES, names, strict=True))
    (root / "LOC_synset_mapping.txt").write_text(mapping)
    solution = "\n".join(["ImageId,PredictionString", *rows])
    (root / "LOC_val_solution.csv").write_text(solution + "\n")


def _make_one(
    root: Path, split: str, image_id: str, name: str, noise: np.random.Generator
) -> tuple[int, int, int, int]:
    """One image with its XML; the box as written, 1-based and with its last pixels."""
    height, width = noise.integers(64, 96, 2)
    side = int(noise.integers(24, 40))
    y, x = int(noise.integers(0, height - side)), int(noise.integers(0, width - side))
    pixels = noise.integers(80, 150, (height, width, 3), dtype=np.uint8)
    pixels[y : y + side, x : x + side] = CLASSES[name]
    image = root / "Data" / "CLS-LOC" / split / f"{image_id}.JPEG"
    image.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image), pixels)
    box = (x + 1, y + 1, x + side, y + side)
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    sides = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    xml = root / "Annotations" / "CLS-LOC" / split / f"{image_id}.xml"
    xml.parent.mkdir(parents=True, exist_ok=True)
    xml.write_text(
        f"<annotation><size><width>{width}</width><height>{height}</height></size>"
        f"<object><name>{name}</name><bndbox>{sides}</bndbox></object></annotation>"
    )
    return box


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    make_squares(folder / "squares")
    for name, text in (("first", FIRST), ("second", SECOND), ("classifier", CLASSIFIER)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def first(resdet: Command, folder: Path) -> Path:
    """In a process like those that are killed: another number of threads rounds otherwise."""
    run = folder / "runs" / "first"
    done = resdet("train-loc", "--cfg", folder / "first.yaml", "--out", run)
    assert done.code == 0, done.err
    return run


def proposing(first: Path) -> str:
    return f"proposals.weights=[{first / 'weights' / 'best.pt'}]"


@pytest.fixture(scope="module")
def second(resdet: Command, folder: Path, first: Path) -> Path:
    run = folder / "runs" / "second"
    words = ("train-loc", "--cfg", folder / "second.yaml", "--out", run, proposing(first))
    done = resdet(*words)
    assert done.code == 0, done.err
    return run


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Path:
    run = folder / "runs" / "classifier"
    ran("train-cls", "--cfg", folder / "classifier.yaml", "--out", run)
    return run / "weights" / "best.pt"


def ran(*words: object) -> None:
    """``resdet WORDS...`` in this process, which has torch already."""
    assert main([*map(str, words), "--debug"]) == 0


def logged(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def metrics_of(out: Path, *words: object) -> dict[str, float]:
    ran("eval", "--out", out, *words)
    return json.loads((out / "metrics.json").read_text())["metrics"]


def refused(capsys: pytest.CaptureFixture[str], *words: object, code: int) -> str:
    """The one line of error that a command ends with."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == code, words
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    return said


# ---------------------------------------------------------------------------------- training


@pytest.mark.parametrize("stage", ["first", "second"])
def test_a_run_folder_holds_everything(stage: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(stage)
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert names >= {
        "config.yaml",
        "data_report.json",
        "metrics.jsonl",
        "train.log",
        "plots/curves.png",
        "plots/labels.svg",
        "samples/train_batch0.jpg",
        "weights/best.pt",
        "weights/last.pt",
    }
    assert ("proposals.safetensors" in names) == (stage == "second")
    assert set(logged(run, "train")[0]) >= {"loss_cls", "loss_box", "lr"}
    best = load_checkpoint(run / "weights" / "best.pt")
    errors = {entry["step"]: entry["val_true_class_error"] for entry in logged(run, "eval")}
    assert list(errors) == [3, 6] and best["classes"] == list(CLASSES)
    assert best["metric"] == pytest.approx(1 - min(errors.values()))
    report = json.loads((run / "data_report.json").read_text())
    assert report["splits"]["train"]["classes"] == dict.fromkeys(CLASSES, TRAIN)


@pytest.mark.parametrize("stage", ["first", "second"])
def test_killed_and_resumed_equals_undisturbed(
    stage: str,
    resdet: Command,
    folder: Path,
    first: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    undisturbed, run = request.getfixturevalue(stage), tmp_path / "run"
    moments, last = random.Random(0), run / "weights" / "last.pt"  # noqa: S311  a test
    words: tuple[object, ...] = ("train-loc", "--cfg", folder / f"{stage}.yaml", "--out", run)
    words += (proposing(first),) if stage == "second" else ()
    killed_at = 0
    for _ in range(2):
        if killed_at == 6:  # after the last step: nothing is left to disturb
            break
        running = resdet.start(*words)
        assert running.until_step_after(killed_at, last), running.wait()
        time.sleep(moments.uniform(0, 0.05))
        running.kill()
        running.wait()
        killed_at = load_checkpoint(last)["step"]
        words = ("train-loc", "--resume", run)
    assert resdet("train-loc", "--resume", run).code == 0
    one, other = load_checkpoint(last), load_checkpoint(undisturbed / "weights" / "last.pt")
    for part in ("model", "average"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    assert (run / "results.csv").read_text() == (undisturbed / "results.csv").read_text()


@pytest.mark.parametrize("stage", ["first", "second"])
def test_two_processes_are_as_one(
    stage: str, resdet: Command, folder: Path, first: Path, tmp_path: Path
) -> None:
    """Two steps, as each multiplies the rounding errors of small batches; group norm, because
    `test_train_cls.py` has batch norm's statistics."""
    words: tuple[object, ...] = ("train-loc", "--cfg", folder / f"{stage}.yaml")
    words += ("train.iterations=2", "train.eval_every=2", "network.norm=group")
    words += (proposing(first),) if stage == "second" else ()
    one, two = tmp_path / "one", tmp_path / "two"
    assert resdet(*words, "--out", one).code == 0
    done = resdet.torchrun("resdet", *words, "--out", two)
    assert done.returncode == 0, done.stderr
    single, double = (load_checkpoint(run / "weights" / "last.pt") for run in (one, two))
    for name, tensor in single["model"].items():
        apart = (double["model"][name] - tensor).abs().max()
        assert apart <= 1e-4 * tensor.abs().max(), name
    for kind, names in (("train", ("loss", "lr")), ("eval", ("val_mean_true_class_iou",))):
        for mine, theirs in zip(logged(two, kind), logged(one, kind), strict=True):
            for name in names:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-3), name


@pytest.mark.parametrize("stage", ["first", "second"])
def test_the_length_in_epochs(resdet: Command, folder: Path, first: Path, stage: str) -> None:
    settings = ("train.epochs=1.3", *([proposing(first)] if stage == "second" else []))
    dry = resdet("train-loc", "--cfg", folder / f"{stage}.yaml", "--dry-run", *settings)
    assert dry.code == 0, dry.err
    assert "steps: 3, 1.3 epochs of 2" in dry.out


@pytest.mark.parametrize("name", ["first", "second", "classifier"])
def test_the_learning_rate_is_looked_for(
    name: str, folder: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rates.png"
    words = ("find-lr", "--cfg", folder / f"{name}.yaml", "--out", out, "--steps", 20)
    words += (proposing(first),) if name == "second" else ()
    ran(*words)
    said = capsys.readouterr().out
    ran(*words)
    assert capsys.readouterr().out == said  # the same seed
    assert "20 steps of 4 images" in said and "suggestion: " in said, said
    assert [path.name for path in tmp_path.iterdir()] == ["rates.png"]


def test_eight_images_are_overfitted(folder: Path, tmp_path: Path) -> None:
    words = ("train.iterations=150", "train.eval_every=150", "train.ema_decay=null")
    words += ("train.batch_size=8", "train.base_batch_size=8", "train.warmup_iterations=10")
    words += ("head.positive_iou=0.5", "train.lr=0.02", "head.anchor_sizes=[24, 40]")
    ran("train-loc", "--cfg", folder / "first.yaml", "--out", tmp_path / "run", *words)
    weights = tmp_path / "run" / "weights" / "last.pt"
    found = metrics_of(tmp_path / "eval", "--weights", weights, "--split", "train")
    assert found["true_class_error"] == 0


def test_stage_two_keeps_the_proposals_of_its_beginning(second: Path, folder: Path) -> None:
    proposals = load_file(second / "proposals.safetensors")
    assert len(proposals) == len(CLASSES) * TRAIN
    assert all(0 < len(boxes) <= 6 for boxes in proposals.values())
    damaged = folder / "runs" / "damaged"
    shutil.copytree(second, damaged)
    path = damaged / "proposals.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    words = ["train-loc", "--resume", str(damaged), "train.iterations=7"]
    assert main(words) == 3  # names the file; the next run computes it again
    path.unlink()
    assert main(words) == 0 and len(load_file(path)) == len(CLASSES) * TRAIN


def test_fine_tuning_takes_classes_by_name(
    folder: Path, first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = first / "weights" / "best.pt"
    words = ("train-loc", "--cfg", folder / "first.yaml", "--weights", weights, "--dry-run")
    ran(*words, f"data.classes=[{', '.join(reversed(CLASSES))}]")
    assert "reordered by name" in capsys.readouterr().out
    turned = folder / "turned.pt"
    save_checkpoint(turned, load_checkpoint(weights) | {"classes": ["n00000001", "n00000009"]})
    other = (*words[:4], turned, "--dry-run")
    ran(*other)
    said = capsys.readouterr().out
    assert "class 'n00000002' is new: its rows are initialised" in said
    assert "class rows kept: 1 of 2" in said
    ran(*other, "--reset-head")
    assert "class layers re-initialised" in capsys.readouterr().out


@pytest.mark.parametrize(("stage", "left_out"), [("first", "fc and res5"), ("second", "fc")])
def test_it_starts_from_a_classifier(
    stage: str,
    left_out: str,
    folder: Path,
    first: Path,
    classifier: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the frozen statistics of its batch norms."""
    words: tuple[object, ...] = ("train-loc", "--cfg", folder / f"{stage}.yaml")
    words += (f"network.weights={classifier}", "network.norm=frozen", "train.iterations=1")
    words += (proposing(first),) if stage == "second" else ()
    ran(*words, "--out", tmp_path / "run")
    assert f"{left_out} left out" in capsys.readouterr().out
    trained = load_checkpoint(tmp_path / "run" / "weights" / "last.pt")["model"]
    given = load_checkpoint(classifier)["model"]
    name = "res3.0.conv1.norm.running_var"
    assert torch.equal(trained[f"trunk.{name}"], given[f"network.{name}"])
    said = refused(capsys, *words, "network.pixels=msra", "--dry-run", code=2)
    assert "set network.pixels=torchvision" in said


# -------------------------------------------------------------------------------- evaluation


def test_the_true_class_is_given_where_there_is_no_classifier(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--weights", first / "weights" / "last.pt", "test.protocol=centre", "--mean-box")
    found = metrics_of(tmp_path / "eval", *words)
    last = logged(first, "eval")[-1]
    for name in ("true_class_error", "mean_true_class_iou"):
        assert found[name] == pytest.approx(last[f"val_{name}"]), name
    assert found["top5_localization_error"] is None
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert "the true class is given" in written["testing"]
    assert 0 <= written["baseline"]["true_class_error"] <= 1
    printed = capsys.readouterr().out
    assert "baseline" in printed and "n00000001 blue square" in printed
    assert [row["name"] for row in written["per_class"]] == list(CLASSES)


@pytest.mark.parametrize("stage", ["first", "second"])
def test_classes_are_predicted_by_classifiers(
    stage: str,
    folder: Path,
    classifier: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = request.getfixturevalue(stage) / "weights" / "best.pt"
    answers = tmp_path / "answers.csv"
    words = ("--weights", weights, f"test.classifiers=[{classifier}]", "--submission", answers)
    found = metrics_of(tmp_path / "eval", *words)
    classes = metrics_of(tmp_path / "cls", "--weights", classifier)
    assert found["top1_classification_error"] == pytest.approx(classes["top1_error"])
    assert found["top5_classification_error"] == 0  # of two classes
    assert found["top5_localization_error"] == pytest.approx(found["true_class_error"])
    rows = list(csv.reader(answers.open()))
    assert len(rows) == 1 + len(CLASSES) * VAL and len(rows[1][1].split()) == 10
    capsys.readouterr()
    ran("score-submission", answers, "--cfg", folder / "first.yaml")
    scored = re.findall(r"(top._\w+_error) +(\d\.\d+)", capsys.readouterr().out)
    assert {name: float(value) for name, value in scored} == pytest.approx(
        {name: found[name] for name, _ in scored}, abs=1e-4
    )
    assert len(scored) == 4
    answers.write_text("\n".join(answers.read_text().splitlines()[:-1]) + "\n")
    words = ("score-submission", answers, "--cfg", folder / "first.yaml")
    assert "no row for 1 images" in refused(capsys, *words, code=3)


def test_a_share_is_held_out_and_some_classes_are_evaluated(
    folder: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held out by class; with one class the classifier chooses among no others."""
    run, out = tmp_path / "run", tmp_path / "out"
    words = ("train-loc", "--cfg", folder / "first.yaml", "--out", run, "train.iterations=1")
    ran(*words, "train.eval_every=1", "data.val={fraction: 0.25}")
    assert "val: images: 2 " in capsys.readouterr().out
    names = (run / "held_out.txt").read_text().split()
    assert sorted(name.partition("/")[0] for name in names) == list(CLASSES)
    red = list(CLASSES)[1]
    options = ("--weights", run / "weights" / "best.pt", f"test.classifiers=[{classifier}]")
    found = metrics_of(out, *options, "--classes", red)
    assert found["top1_classification_error"] == 0
    (entry,) = read_images(out).images
    assert read_images(out).classes == (red,) and entry["image"] in names
    assert entry["label"] == 0 and entry["predicted"]["labels"] == [0]
    assert entry["objects"]["boxes"] and entry["predicted"]["boxes"] == entry["true_class"]["boxes"]
    assert (
        f"only 1 of 2 classes: {red}" in json.loads((out / "metrics.json").read_text())["testing"]
    )
    both = ("eval", *options, "--submission", tmp_path / "answers.csv", "--classes", red)
    assert "leave out --classes" in refused(capsys, *both, code=2)


@pytest.mark.parametrize("stage", ["first", "second"])
def test_an_ensemble_of_one_twice_is_itself(
    stage: str, classifier: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The second member's classes are in another order, which names bring back."""
    weights = request.getfixturevalue(stage) / "weights" / "best.pt"
    turned, state = tmp_path / "turned.pt", load_checkpoint(weights)
    state["classes"] = state["classes"][::-1]
    for part in ("model", "average"):
        for layer in ("cls_logits", "box_deltas"):
            for kind in ("weight", "bias"):
                if part in state:
                    name = f"head.{layer}.{kind}"
                    state[part][name] = state[part][name].flip(0)
    save_checkpoint(turned, state)
    one = f"test.classifiers=[{classifier}]"
    two = f"test.classifiers=[{classifier}, {classifier}]"
    alone = metrics_of(tmp_path / "alone", "--weights", weights, one)
    both = metrics_of(
        tmp_path / "both", "--weights", weights, "--weights", turned, two, "--trust-paths"
    )
    assert both == pytest.approx(alone, rel=1e-5)
    written = json.loads((tmp_path / "both" / "metrics.json").read_text())["testing"]
    assert "ensemble of 2" in written and "2 classifier(s)" in written


def test_each_member_of_an_ensemble_is_tested_as_its_own_file_says(
    first: Path, classifier: Path, folder: Path, tmp_path: Path
) -> None:
    """The better of the two boxes that each finds alone, by its own protocol and sizes."""
    weights, other = first / "weights" / "best.pt", tmp_path / "other.pt"
    state = load_checkpoint(weights)
    own = state["config"]["test"]["protocol"]
    state["config"]["test"] |= {"protocol": "dense" if own == "centre" else "centre", "flip": True}
    save_checkpoint(other, state)
    image = next(iter(sorted((folder / "squares" / "Data" / "CLS-LOC" / "val").glob("*"))))
    pixels = read_image(image).pixels

    def located(*paths: Path) -> Located:
        members = load_members([read_checkpoint(path, LOCALIZATION) for path in paths])
        pipeline = LOCALIZATION.pipeline(members).eval()
        return pipeline.locate(pipeline.sample(pixels), pixels, truth=1)

    alone = [located(path).true_class for path in (weights, other)]
    best = max(alone, key=lambda found: float(found.scores))
    assert not torch.allclose(alone[0].boxes, alone[1].boxes)
    for pair in ((weights, other), (other, weights)):
        torch.testing.assert_close(located(*pair).true_class.boxes, best.boxes)
    one = f"test.classifiers=[{classifier}]"
    metrics_of(tmp_path / "both", "--weights", weights, "--weights", other, one)
    written = json.loads((tmp_path / "both" / "metrics.json").read_text())["testing"]
    assert "ensemble of 2 (stage one): (1) " in written and "(2) " in written
    assert "1 classifier(s) (middle crop " in written


def test_training_and_eval_call_a_number_by_one_name(first: Path, tmp_path: Path) -> None:
    """The best of training is what `eval` prints for best.pt, tested in the same way; the log says
    which way that is, and that `eval` has its own."""
    log = (first / "train.log").read_text()
    (told,) = re.findall(r"evaluations: (.+)", log)
    assert told.startswith("middle crop ") and told.endswith(
        "no classifier: the true class is given; `resdet eval` does what `test` of the config says"
    )
    (best,) = re.findall(r"best true_class_error (\d\.\d+)", log)
    metrics = metrics_of(
        tmp_path, "--weights", first / "weights" / "best.pt", "test.protocol=centre"
    )
    assert float(best) == pytest.approx(metrics["true_class_error"], abs=1e-4)


def test_a_converted_classifier_names_the_classes(
    first: Path, folder: Path, tmp_path: Path
) -> None:
    """Published weights have no names: their classes are the localizer's, sorted."""
    network = narrow_torchvision()
    network.fc = torch.nn.Linear(64, len(CLASSES))
    torch.nn.init.constant_(network.fc.weight, 0.0)
    network.fc.bias.data = torch.tensor([0.0, 3.0])  # always the second class
    path = tmp_path / "r18.safetensors"
    write_converted(convert(network.state_dict(), "torchvision"), path)
    words = [f"test.classifiers=[{path}]"]
    members = load_members(
        [read_checkpoint(first / "weights/best.pt", LOCALIZATION)], overrides=words
    )
    pipeline = LOCALIZATION.pipeline(members).eval()
    image = min((folder / "squares" / "Data" / "CLS-LOC" / "val").glob("*"))
    pixels = read_image(image).pixels
    found = pipeline.locate(pipeline.sample(pixels), pixels).predicted
    assert members[0].classes[int(found.labels[0])] == sorted(CLASSES)[1]
    assert float(found.scores[0]) == pytest.approx(0.9526, abs=1e-3)  # 1 / (1 + exp(-3))
    told = LOCALIZATION.describe_testing(members, pipeline)
    assert "1 classifier(s) (middle crop 224 of shorter side 256; resized by Pillow)" in told


def test_a_folder_of_images(
    first: Path, classifier: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = folder / "squares" / "Data" / "CLS-LOC" / "val"
    words = ("infer", "--weights", first / "weights" / "best.pt", images, "--conf", "0.1")
    said = refused(capsys, *words, "--out", tmp_path / "none", code=2)
    assert "test.classifiers=[FILE]" in said
    ran(*words, "--out", tmp_path / "found", f"test.classifiers=[{classifier}]", "--page")
    page = (tmp_path / "found" / "page.html").read_text()
    assert "n00000001 blue square" in page and "how sure the classifier is of the class" in page
    lines = (tmp_path / "found" / "detections.jsonl").read_text().splitlines()
    assert len(lines) == len(CLASSES) * VAL
    for record in map(json.loads, lines):
        scores = [found["score"] for found in record["detections"]]
        assert scores == sorted(scores, reverse=True) and 0.5 <= scores[0] <= 1
        assert (tmp_path / "found" / record["drawn"]).is_file()


def test_every_image_has_an_answer_unless_a_score_is_asked_for(
    first: Path, classifier: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = folder / "squares" / "Data" / "CLS-LOC" / "val"
    words = ["infer", "--weights", first / "weights" / "best.pt", images]
    words += [f"test.classifiers=[{classifier}]", "--no-draw"]
    ran(*words, "--out", tmp_path / "all", "--format", "coco", "--page")
    count = len(CLASSES) * VAL
    assert f"{count} of {count} images done, {len(CLASSES) * count} boxes" in (
        said := capsys.readouterr().out
    )
    assert "images have no boxes" not in said
    written = json.loads(next((tmp_path / "all/annotations/coco").rglob("*.json")).read_text())
    assert len(written["annotations"]) == count  # the best of each image alone
    page = (tmp_path / "all" / "page.html").read_text()
    assert page.count('<ol class="answers">') == count and "boxes of the best class" in page
    lines = map(json.loads, (tmp_path / "all/detections.jsonl").read_text().splitlines())
    wanted = next(iter(CLASSES))
    others = sum(record["detections"][0]["label"] != wanted for record in lines)
    options = ["--classes", wanted, "--conf", "0.6"]
    ran(*words, "--out", tmp_path / "sure", *options)
    said = f"{others} of {count} images have no boxes: no wanted class in them scores 0.6 or more;"
    assert said in capsys.readouterr().out


def test_an_ensemble_of_stage_two_joins_all_proposers(
    first: Path, second: Path, classifier: Path, tmp_path: Path
) -> None:
    """Whatever else is said of testing; and a new list takes the place of both."""
    paths = [tmp_path / "one.pt", tmp_path / "other.pt"]
    moved = tmp_path / "moved.pt"
    shutil.copy(first / "weights" / "best.pt", moved)
    state = load_checkpoint(second / "weights" / "best.pt")
    save_checkpoint(paths[0], state)
    state["config"]["proposals"]["weights"] = [str(moved)]
    save_checkpoint(paths[1], state)
    words = [f"test.classifiers=[{classifier}]"]

    def ensemble(*overrides: str) -> LocationPipeline:
        checkpoints = [read_checkpoint(path, LOCALIZATION_RCNN) for path in paths]
        return LOCALIZATION_RCNN.pipeline(
            load_members(checkpoints, overrides=overrides, trust_paths=True)
        )

    both = ensemble(*words)
    assert (len(both.first), len(both.second)) == (2, 2)
    one = ensemble(*words, f"proposals.weights=[{moved}]")
    assert (len(one.first), len(one.second)) == (1, 2)
    predictor = resdet.load(paths[1], "cpu", [*words, f"proposals.weights=[{moved}]"])
    assert predictor.classes == tuple(CLASSES)


@pytest.mark.parametrize("stage", ["first", "second"])
def test_truncated_images_are_left_out_where_that_is_asked_for(
    stage: str, folder: Path, first: Path, tmp_path: Path
) -> None:
    root = tmp_path / "squares"
    shutil.copytree(folder / "squares", root)
    for split, name in (("train", "n00000001/n00000001_0"), ("val", "ILSVRC2012_val_00000002")):
        path = root / "Data" / "CLS-LOC" / split / f"{name}.JPEG"
        path.write_bytes(path.read_bytes()[:-400])
    words: tuple[object, ...] = ("train-loc", "--cfg", folder / f"{stage}.yaml")
    words += (f"data.source.root={root}", "data.on_truncated=skip", "train.iterations=2")
    words += (proposing(first),) if stage == "second" else ()
    with pytest.warns(UserWarning, match="left out"):
        ran(*words, "--out", tmp_path / "run")
    with pytest.warns(UserWarning, match="left out"):
        metrics_of(tmp_path / "eval", "--weights", tmp_path / "run" / "weights" / "last.pt")
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert written["images"] == len(CLASSES) * VAL - 1 and "1 of" in written["notes"][0]


def test_proposals_of_another_run(folder: Path, first: Path, second: Path, tmp_path: Path) -> None:
    given = f"proposals.file={second / 'proposals.safetensors'}"
    words = ("train-loc", "--cfg", folder / "second.yaml", proposing(first), given)
    ran(*words, "train.iterations=2", "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "proposals.safetensors").exists()
    mine, other = (logged(run, "train")[0]["loss"] for run in (tmp_path / "run", second))
    assert mine == pytest.approx(other, rel=1e-3)


# -------------------------------------------------------------------------------------- errors


def test_frozen_norms_need_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train-loc", "--cfg", folder / "first.yaml", "network.norm=frozen", "--dry-run")
    assert "resdet freeze-bn" in refused(capsys, *words, code=2)


def test_unwritable_output_is_reported_before_evaluation(
    first: Path, classifier: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("eval", "--weights", first / "weights" / "best.pt", "--submission")
    words += (folder / "first.yaml" / "answers.csv", f"test.classifiers=[{classifier}]")
    assert "cannot be written" in refused(capsys, *words, code=2)


def test_stage_two_needs_stage_one(
    folder: Path, second: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train-loc", "--cfg", folder / "second.yaml", "--dry-run")
    assert "name its checkpoint" in refused(capsys, *words, code=2)
    said = refused(capsys, *words, "proposals.weights=[nowhere.pt]", code=2)
    assert "proposals.weights: not found" in said and "nowhere.pt" in said
    itself = f"proposals.weights=[{second / 'weights' / 'best.pt'}]"
    assert "of the task 'localization_rcnn'" in refused(capsys, *words, itself, code=3)
    wrong = f"proposals.weights=[{classifier}]"
    assert "of the task 'classification'" in refused(capsys, *words, wrong, code=3)


def test_each_command_refuses_the_others_files(
    folder: Path, first: Path, second: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (run / "weights" / "best.pt" for run in (first, second))
    both = ("eval", "--weights", one, "--weights", two)
    assert "of the task 'localization_rcnn'" in refused(capsys, *both, code=3)
    wrong = ("train-cls", "--cfg", folder / "classifier.yaml", "--weights", one, "--dry-run")
    assert "of the task 'localization'" in refused(capsys, *wrong, code=3)
    assert main(["train-loc", "--cfg", str(folder / "classifier.yaml"), "--dry-run"]) == 2
    assert "this config is for 'classification'" in capsys.readouterr().err
    said = refused(capsys, "eval", "--weights", classifier, "--mean-box", code=2)
    assert "are for localizers" in said
    said = refused(capsys, "eval", "--weights", one, "--submission", folder / "x.csv", code=2)
    assert "classes must be predicted" in said


def test_a_classifier_of_other_classes_is_refused(
    first: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.pt"
    save_checkpoint(other, load_checkpoint(classifier) | {"classes": ["n00000001", "n00000009"]})
    words = ("eval", "--weights", first / "weights" / "best.pt", f"test.classifiers=[{other}]")
    said = refused(capsys, *words, code=3)
    assert "lacking ['n00000002'], too many ['n00000009']" in said


def spoil_xml(root: Path) -> str:
    path = next((root / "Annotations").rglob("n00000002_1.xml"))
    path.write_text("<annotation><object>")
    return "n00000002_1.xml"


def spoil_class(root: Path) -> str:
    path = root / "LOC_synset_mapping.txt"
    path.write_text(path.read_text().replace("n00000002", "n00000009"))
    return "not in LOC_synset_mapping.txt"


def spoil_list(root: Path) -> str:
    (root / "Data" / "CLS-LOC" / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()
    return "ILSVRC2012_val_00000002"


def spoil_solution(root: Path) -> str:
    path = root / "LOC_val_solution.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    return "has no row for this image"


@pytest.mark.parametrize("spoil", [spoil_xml, spoil_class, spoil_list, spoil_solution])
def test_bad_data_is_reported_before_training(
    spoil: Callable[[Path], str],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "squares"
    shutil.copytree(folder / "squares", root)
    reason = spoil(root)
    words = ["train-loc", "--cfg", str(folder / "first.yaml"), f"data.source.root={root}"]
    assert main([*words, "--dry-run"]) == 3
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["first", "second"])
def test_the_report_describes_the_run(stage: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(stage)
    ran("eval", "--weights", run / "weights" / "best.pt")
    ran("report", run)
    page = (run / "report.html").read_text()
    assert (
        "localizer, stage" in page and "true_class_error" in page and "cannot be used" not in page
    )
    assert "n00000001 blue square" in page and "n00000002 red square" in page


# -------------------------------------------------------------------- faults of the data


def set_box(root: Path, split: str, name: str, box: tuple[int, ...]) -> None:
    path = root / "Annotations" / "CLS-LOC" / split / f"{name}.xml"
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    sides = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    path.write_text(re.sub("<bndbox>.*</bndbox>", f"<bndbox>{sides}</bndbox>", path.read_text()))


def damage(root: Path) -> None:
    """What CLS-LOC is known to hold: boxes outside, swapped corners, XML of another resolution; and
    a damaged and a missing image."""
    first, second = CLASSES
    set_box(root, "train", f"{first}/{first}_0", (200, 10, 260, 60))
    set_box(root, "train", f"{first}/{first}_1", (50, 10, 20, 60))
    set_box(root, "val", "ILSVRC2012_val_00000001", (200, 10, 260, 60))
    for split, name in (("train", f"{second}/{second}_0"), ("val", "ILSVRC2012_val_00000005")):
        xml = root / "Annotations" / "CLS-LOC" / split / f"{name}.xml"
        tree = re.sub(r">(\d+)<", lambda found: f">{2 * int(found[1])}<", xml.read_text())
        xml.write_text(tree)
    data = root / "Data" / "CLS-LOC"
    (data / "train" / second / f"{second}_1.JPEG").write_bytes(b"<html>")
    (data / "val" / "ILSVRC2012_val_00000002.JPEG").unlink()


#: The shipped configs, with a network and crops that train in seconds.
SMALL = ("network.depth=18", "network.width=8", "network.norm=batch", "data.workers=0")
SMALL += ("train.iterations=2", "train.batch_size=2", "train.eval_every=2", "train.milestones=[]")
SMALL_FIRST = ("crop.size=64", "crop.short_sides=[64,80]", "test.resize=72", "test.size=64")
SMALL_FIRST += ("test.short_sides=[64]", "head.anchor_sizes=[16,32]")


def test_the_shipped_configs_train_through_what_ilsvrc_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "ILSVRC"
    make_squares(root)
    damage(root)
    words: tuple[object, ...] = ("train-loc", "--cfg", "ilsvrc_loc_r101.yaml", *SMALL, *SMALL_FIRST)
    words += (f"data.root={tmp_path}",)
    strict = ("data.on_bad_box=error", "data.on_size_mismatch=error", "data.on_bad_image=error")
    assert main([*map(str, words), *strict, "--out", str(tmp_path / "strict")]) == 3
    ran(*words, "--out", tmp_path / "first")
    log = (tmp_path / "first" / "train.log").read_text()
    for said in ("outside_image 1", "swapped_corners 1", "size_mismatch 1", "image_without_box 1"):
        assert said in log, said
    # Of eight, two are without a usable box and one is damaged; the scaled one is among the others.
    assert "train: images: 5 (with objects 5" in log
    skipped = (tmp_path / "first" / "skipped_images.txt").read_text()
    for name in ("n00000002_1.JPEG", "00000002", "00000001"):
        assert name in skipped
    assert "2 of 6 images skipped and not in these numbers" in log
    weights = tmp_path / "first" / "weights" / "last.pt"
    second = ("train-loc", "--cfg", "ilsvrc_rcnn_r101.yaml", *SMALL, f"data.root={tmp_path}")
    second += ("region.size=48", "region.padding=8", f"proposals.weights=[{weights}]")
    ran(*second, "proposals.count=4", "--out", tmp_path / "second")
    capsys.readouterr()
    ran("eval", "--weights", tmp_path / "second" / "weights" / "last.pt")
    out = " ".join(capsys.readouterr().out.split())
    assert "note: 2 of 6 images skipped and not in these numbers" in out
    ran("check-data", "--cfg", "ilsvrc_loc_r101.yaml", f"data.root={tmp_path}", "--quick")
