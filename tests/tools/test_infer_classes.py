"""The infer command with a small trained classifier."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import resdet
import torch
from resdet.detection.engine.checkpoint import load_checkpoint, save_checkpoint
from resdet.detection.engine.signals import StopRequest
from resdet.detection.tasks.base import ALONE
from resdet.detection.tasks.checkpoints import load_members, read_checkpoint
from resdet.detection.tasks.classifier import CLASSIFICATION
from resdet.tests.tools.test_train_cls import COLOURS, CONFIG, make_colours
from resdet.tools.cli import main
from torch import Tensor


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    make_colours(folder / "colours")
    (folder / "tiny.yaml").write_text(CONFIG)
    words = ["train-cls", "--cfg", str(folder / "tiny.yaml"), "--out", str(folder / "run")]
    assert main(words) == 0
    return folder / "run" / "weights" / "best.pt"


@pytest.fixture(scope="module")
def images(weights: Path) -> Path:
    return weights.parents[2] / "colours" / "val"


def infer(weights: Path, *words: object) -> int:
    return main(["infer", "--weights", str(weights), *map(str, words), "--debug"])


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "classes.jsonl").open(encoding="utf-8")]


def evaluated(weights: Path, *overrides: str) -> dict[str, Tensor]:
    """The probabilities that `resdet eval` computes, by "class/file"."""
    members = load_members([read_checkpoint(weights, CLASSIFICATION)], overrides=overrides)
    config = members[0].config
    split = CLASSIFICATION.read(config, "val", members[0].classes)
    pipeline = CLASSIFICATION.pipeline(members).eval()
    found = CLASSIFICATION.predict_split(pipeline, config, split, ALONE)
    assert found is not None
    return {"/".join(Path(name).parts[-2:]): scores for name, scores in found.items()}


@pytest.mark.parametrize("protocol", ["one_crop", "ten_crop", "multi_scale"])
def test_labels_and_scores_are_those_of_eval(
    weights: Path, images: Path, tmp_path: Path, protocol: str
) -> None:
    out, setting = tmp_path / "out", f"test.protocol={protocol}"
    assert infer(weights, images, setting, "--out", out, "--batch-size", 3) == 0
    expected, found = evaluated(weights, setting), records(out)
    assert [record["file"] for record in found] == sorted(expected)
    assert len(found) == 9
    for record in found:
        by_label = {each["label"]: each["score"] for each in record["classes"]}
        wanted = expected[record["file"]].tolist()
        assert [by_label[name] for name in COLOURS] == pytest.approx(wanted, abs=2e-6)
        assert [*by_label.values()] == sorted(by_label.values(), reverse=True)
    python = resdet.load(weights, "cpu", [setting])
    for record in found:
        (ranked,) = python.predict([images / record["file"]])
        assert python.classes[ranked.labels[0]] == record["classes"][0]["label"]
        assert torch.allclose(ranked.scores.sum(), torch.tensor(1.0))


def test_files_of_a_run(
    weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert infer(weights, images, "--out", out) == 0
    assert "9 of 9 images done, 27 labels, 0 failed" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names == {"meta.json", "classes.jsonl", "classes.csv", "drawn"}
    meta = json.loads((out / "meta.json").read_text())
    assert meta["format"] == "resdet classes 1" and meta["score_threshold"] == 0
    with (out / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["label"], float(row["score"])) for row in rows] == [
        (record["file"], each["label"], each["score"])
        for record in records(out)
        for each in record["classes"]
    ]
    assert [row["rank"] for row in rows] == ["1", "2", "3"] * 9
    for record in records(out):
        drawn = cv2.imread(str(out / record["drawn"]))
        assert drawn.shape[:2] == (record["height"], record["width"])
        plain = cv2.imread(str(images / record["file"]))
        # Far from what JPEG changes in noise: the frame and the label.
        assert np.abs(drawn.astype(int) - plain).max() > 100


def test_images_sorted_by_their_best_class(weights: Path, images: Path, tmp_path: Path) -> None:
    out, bound = tmp_path / "out", 0.4
    words = (images, "--sort-by-class", "--no-draw", "--conf", bound)
    assert infer(weights, *words, "--out", out) == 0
    found = records(out)
    everything = evaluated(weights)
    for record in found:
        best = everything[record["file"]].max()
        assert bool(record["classes"]) == bool(best >= bound) == ("sorted" in record)
        if record["classes"]:
            label = record["classes"][0]["label"]
            assert record["sorted"] == f"sorted/{label}/{record['file']}"
            assert (out / record["sorted"]).read_bytes() == (images / record["file"]).read_bytes()
    written = {str(p.relative_to(out)) for p in (out / "sorted").rglob("*") if p.is_file()}
    assert written == {record["sorted"] for record in found if "sorted" in record}
    assert not (out / "drawn").exists()


def test_class_names_stay_below_the_folder(weights: Path, images: Path, tmp_path: Path) -> None:
    names = ["../../up", "/etc", "=a/b"]
    evil = tmp_path / "evil.pt"
    save_checkpoint(evil, {**load_checkpoint(weights), "classes": names})
    out = tmp_path / "a" / "b" / "out"
    assert infer(evil, images, "--out", out, "--sort-by-class", "--no-draw") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"evil.pt", "a"}
    for record in records(out):
        top, folder, *rest = record["sorted"].split("/")
        assert top == "sorted" and "/".join(rest) == record["file"]
        assert (out / "sorted" / folder).parent == out / "sorted" and folder not in (".", "..")
        assert record["classes"][0]["label"] in names
    assert "'=a/b" in (out / "classes.csv").read_text()


def test_without_hard_links_images_are_copied(
    weights: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (images / "red", "--sort-by-class", "--no-draw", "--out")
    assert infer(weights, *words, tmp_path / "linked") == 0

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert infer(weights, *words, tmp_path / "copied") == 0
    for out, linked in ((tmp_path / "linked", True), (tmp_path / "copied", False)):
        for record in records(out):
            path, original = out / record["sorted"], images / "red" / record["file"]
            assert path.samefile(original) is linked
            assert path.read_bytes() == original.read_bytes()


def test_failed_images_are_recorded(weights: Path, images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "in")
    (folder / "red" / "0.png").write_bytes(b"no image")
    out = tmp_path / "out"
    words = (folder, "--out", out, "--sort-by-class", "--batch-size", 2)
    assert infer(weights, *words, "--strict") == 5
    (failed,) = (record for record in records(out) if "error" in record)
    assert failed["file"] == "red/0.png" and failed["bytes"] == len("no image")
    assert failed.keys() == {"file", "bytes", "modified", "error"}
    assert sum("sorted" in record for record in records(out)) == 8
    with (out / "classes.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if row["error"])
    assert row["file"] == "red/0.png" and row["label"] == row["rank"] == ""


def test_scores_that_are_nan_are_an_error(weights: Path, images: Path, tmp_path: Path) -> None:
    contents = load_checkpoint(weights)
    broken = {name: tensor.clone() for name, tensor in contents["model"].items()}
    broken["network.fc.bias"].fill_(torch.nan)
    averaged = {"ema": broken} if "ema" in contents else {}
    save_checkpoint(tmp_path / "nan.pt", {**contents, "model": broken, **averaged})
    out = tmp_path / "out"
    assert infer(tmp_path / "nan.pt", images, "--out", out, "--conf", 0.1, "--strict") == 5
    assert {record["error"] for record in records(out)} == {"the network gave scores that are NaN"}


def test_stopped_and_resumed_equals_an_uninterrupted_run(
    weights: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    words = (images, "--batch-size", 2, "--sort-by-class", "--device", "cpu", "--out")
    assert infer(weights, *words, whole) == 0
    asked: list[None] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            StopRequest, "requested", property(lambda self: asked.append(None) or len(asked) > 2)
        )
        patch.setattr(StopRequest, "exit_code", property(lambda self: 130))
        assert infer(weights, *words, out) == 130
    assert 0 < len(records(out)) < 9 and not (out / "classes.csv").exists()
    with (out / "classes.jsonl").open("ab") as file:
        file.write(b'{"file": "cut by a po')
    command = shlex.split(capsys.readouterr().out.split("continue with: ")[1])
    assert main(command[1:]) == 0
    trees = [
        {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file()}
        for top in (whole, out)
    ]
    assert trees[0] == trees[1]
    assert main([*command[1:], "--conf", "0.3"]) == 2
    assert "score_threshold was 0.0, is 0.3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--classes", "red"], "--classes"),
        (["--format", "voc"], "--format"),
        (["--coco-ids", "ids.json"], "--coco-ids"),
    ],
)
def test_options_about_boxes_are_refused(
    weights: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    parts: str,
) -> None:
    content = {
        "images": [{"id": 1, "file_name": "0.png"}],
        "categories": [{"id": 1, "name": "red"}],
        "annotations": [],
    }
    (tmp_path / "ids.json").write_text(json.dumps(content))
    words = [str(tmp_path / word) if word.endswith("json") else word for word in words]
    out = tmp_path / "out"
    assert main(["infer", "--weights", str(weights), str(images), "--out", str(out), *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and parts in said and "classifier" in said
    assert not out.exists()


def test_only_a_classifier_sorts(
    tiny_run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, out = tiny_run / "weights" / "best.pt", tmp_path / "out"
    words = ["infer", "--weights", str(best), str(images), "--out", str(out), "--sort-by-class"]
    assert main(words) == 2
    assert "--sort-by-class: only the weights of a classifier" in capsys.readouterr().err
    assert not out.exists()


def test_a_manifest_has_the_records_of_a_folder(weights, images, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    assert main(["manifest", str(images), "--out", str(tmp_path / "m"), "--per-shard", "5"]) == 0
    assert infer(weights, images, "--out", tmp_path / "plain", "--no-draw") == 0
    for format in ("jsonl", "parquet"):
        words = ("--manifest", tmp_path / "m", "--out", tmp_path / format, "--parts", format)
        assert infer(weights, *words) == 0
    parts = sorted((tmp_path / "jsonl").glob("part-*"))
    found = sorted(line for path in parts for line in path.read_bytes().splitlines())
    assert len(parts) > 1
    assert found == sorted((tmp_path / "plain" / "classes.jsonl").read_bytes().splitlines())
    import pyarrow.parquet as pq

    rows = pq.read_table(sorted((tmp_path / "parquet").glob("part-*"))).to_pylist()
    assert {row["file"]: row["classes"] for row in rows} == {
        record["file"]: record["classes"] for record in records(tmp_path / "plain")
    }
