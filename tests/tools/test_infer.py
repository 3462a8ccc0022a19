"""The infer command with a small real detector: output, signals, resuming and errors."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from resdet.detection.config.files import config_from_dict
from resdet.detection.engine.checkpoint import save_checkpoint
from resdet.detection.errors import ConfigError, WeightsError
from resdet.detection.predictor import load
from resdet.detection.tasks.detector_network import build_detector
from resdet.tools import infer
from resdet.tools.infer_settings import expect_used

if TYPE_CHECKING:
    from resdet.tests.conftest import Command, Finished

CLASSES = ["cat", "dog"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """An untrained ResNet-18 of width 8. Its scores are near 1/3 for each of the two classes."""
    config = config_from_dict(
        {
            "image": {"short_side_test": 96, "long_side_max": 160},
            "backbone": {"depth": 18, "width": 8, "norm": "batch"},
            "rpn": {"channels": 16, "anchor_sizes": [32.0], "post_nms_test": 20},
            "test": {"max_detections": 5},
        }
    )
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    state = build_detector(config, len(CLASSES)).state_dict()
    contents = {"config": config.model_dump(mode="json"), "classes": CLASSES, "model": state}
    save_checkpoint(path, {**contents, "step": 0})
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    random = np.random.default_rng(0)
    for index in range(12):
        pixels = random.integers(0, 256, (48, 64 + index % 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def call(weights: Path, *words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    return infer.run(parser.parse_args(["--weights", str(weights), *map(str, words)]))


def resume(command: str) -> int:
    """Run a printed command of infer."""
    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    return infer.run(parser.parse_args(shlex.split(command)[2:]))


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "detections.jsonl").open(encoding="utf-8")]


def tree(out: Path) -> dict[str, bytes]:
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_records_drawings_and_summary_of_a_folder(weights, images, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(weights, images, "--out", out, "--conf", "0.1") == 0
    found = lines(out)
    assert len(found) == 12
    for record in found:
        assert 1 <= len(record["detections"]) <= 5
        for detection in record["detections"]:
            x1, y1, x2, y2 = detection["box"]
            assert 0 <= x1 < x2 <= record["width"] and 0 <= y1 < y2 <= record["height"]
            assert detection["label"] in CLASSES and 0.1 <= detection["score"] <= 1
    meta = json.loads((out / "meta.json").read_text())
    assert meta["classes"] == CLASSES and meta["weights"] == ["best.pt"]
    assert len(list((out / "drawn").iterdir())) == 12
    printed = capsys.readouterr().out
    assert "12 of 12 images done" in printed
    _, following = printed.rstrip().split("next: ")
    assert str(images) not in following  # a shell may have named a thousand of them
    assert resume(following) == 0 and (out / "page.html").exists()


def test_a_threshold_that_leaves_nothing_is_told(weights, images, tmp_path, capsys):
    assert call(weights, images / "03.png", "--out", tmp_path / "out", "--conf", "1") == 0
    advice = "in them scores 1 or more; lower --conf to see what scores less"
    assert f"1 of 1 images have no detections: nothing {advice}" in capsys.readouterr().out
    words = ("--classes", CLASSES[0], "--conf", "1", "--conf", f"{CLASSES[1]}=0.01")
    assert call(weights, images / "03.png", "--out", tmp_path / "one", *words) == 0
    assert f"no wanted class {advice}" in capsys.readouterr().out
    words = ("--conf", "1", "--conf", f"{CLASSES[1]}=0.999")
    assert call(weights, images / "03.png", "--out", tmp_path / "two", *words) == 0
    assert "nothing in them reaches the score of its class; lower" in capsys.readouterr().out


def test_annotations_for_a_tool(weights, images, tmp_path, capsys):
    out = tmp_path / "out"
    words = (images, "--out", out, "--conf", "0.1", "--no-draw")
    assert call(weights, *words, "--page", "--format", "cvat", "--format", "label-studio") == 0
    printed = capsys.readouterr().out
    assert f"annotations: {out / 'annotations/cvat'}" in printed
    assert f"open in a browser: {out / 'page.html'}" in printed
    assert (out / "page.html").read_text().count("data:image/jpeg") == 12
    boxes = (out / "annotations/cvat/images.xml").read_text().count("<box ")
    assert boxes == sum(len(record["detections"]) for record in lines(out)) > 0
    assert len(json.loads((out / "annotations/label_studio/images.json").read_text())) == 12
    with pytest.raises(ConfigError, match="--format: ilsvrc_det is not written"):
        call(weights, *words, "--format", "ilsvrc_det")


def test_the_command_and_the_python_interface_agree(weights, images, tmp_path):
    call(weights, images / "03.png", "--out", tmp_path / "out", "--conf", "0.3")
    (record,) = lines(tmp_path / "out")
    (found,) = load(weights).predict([images / "03.png"], score_threshold=0.3)
    boxes = torch.tensor([detection["box"] for detection in record["detections"]])
    assert torch.allclose(boxes.reshape(-1, 4), found.boxes, atol=1e-3)


def test_killed_then_terminated_then_resumed_equals_an_uninterrupted_run(
    resdet, weights, images, tmp_path
):
    whole, out, many = tmp_path / "whole", tmp_path / "out", tmp_path / "many"
    for copy in range(5):
        shutil.copytree(images, many / str(copy))
    options = ["--conf", "0.1", "--batch-size", "2", "--device", "cpu"]
    call(weights, many, "--out", whole, *options)
    words = [str(many), "--out", str(out), *options]

    killed = _until(resdet, weights, words, out, records=2, send=signal.SIGKILL)
    assert killed.code == -signal.SIGKILL
    with (out / "detections.jsonl").open("ab") as file:
        file.write(b'{"file": "cut by a po')
    words.append("--resume")
    terminated = _until(resdet, weights, words, out, records=4, send=signal.SIGTERM)
    assert terminated.code == 143
    assert (out / "detections.jsonl").read_bytes().endswith(b"}\n")
    assert len(lines(out)) < 60

    command = shlex.split(terminated.out.split("continue with: ")[1])
    assert command[:2] == ["resdet", "infer"]
    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    assert infer.run(parser.parse_args(command[2:])) == 0
    assert tree(out) == tree(whole)


def _until(
    resdet: Command,
    weights: Path,
    words: list[str],
    out: Path,
    *,
    records: int,
    send: signal.Signals,
) -> Finished:
    """The command, signalled when it has added so many records to those that are there. Only then
    it surely handles signals."""
    path = out / "detections.jsonl"
    records += path.read_bytes().count(b"\n") if path.exists() else 0
    running = resdet.start("infer", "--weights", weights, *words)
    assert running.until_lines(records, path)
    os.kill(running.pid, send)
    return running.wait()


def test_failures_are_listed_and_strict_gives_exit_code_5(weights, images, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "bad.jpg").write_bytes(b"")
    (folder / "good.png").write_bytes((images / "00.png").read_bytes())
    assert call(weights, folder, "--out", tmp_path / "a") == 0
    assert "failed: bad.jpg: the file is empty" in capsys.readouterr().out
    assert call(weights, folder, "--out", tmp_path / "b", "--strict") == 5
    assert call(weights, folder / "good.png", "--out", tmp_path / "c", "--strict") == 0
    assert call(weights, folder / "bad.jpg", "--out", tmp_path / "d") == 5  # all failed


def test_shards_divide_the_images(weights, images, tmp_path):
    seen: list[str] = []
    for shard in ("1/3", "2/3", "3/3"):
        out = tmp_path / shard[0]
        call(weights, images, "--out", out, "--shard", shard, "--no-draw")
        seen += [record["file"] for record in lines(out)]
    assert sorted(seen) == sorted(path.name for path in images.iterdir())
    for wrong in ("0/3", "4/3", "x", "1/0", "1"):
        with pytest.raises(ConfigError, match="--shard"):
            call(weights, images, "--out", tmp_path / "wrong", "--shard", wrong)


def test_only_overrides_of_test_are_accepted(weights, images, tmp_path):
    words = (images / "00.png", "--conf", "0.1", "--out")
    call(weights, "test.max_detections=1", *words, tmp_path / "one")
    assert len(lines(tmp_path / "one")[0]["detections"]) == 1
    with pytest.raises(ConfigError, match=r"roi\.pool=pool"):
        call(weights, "roi.pool=pool", *words, tmp_path / "other")
    with pytest.raises(ConfigError, match="max_detections"):
        call(weights, "test.max_detection=1", *words, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_settings_without_effect_are_refused_or_told(weights, images, tmp_path, capsys):
    words = (images / "00.png", "--no-draw", "--out")
    with pytest.raises(ConfigError, match=r"test\.batch_size=4: is of evaluations.* --batch-size"):
        call(weights, "test.batch_size=4", *words, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    load(weights, "cpu", ["test.batch_size=4"])  # no option of a command
    assert call(weights, "test.score_threshold=0.2", *words, tmp_path / "b") == 0
    said = capsys.readouterr().out
    assert "note: test.score_threshold=0.2 changes nothing: what scores less than 0.5" in said
    assert call(weights, "test.score_threshold=0.6", *words, tmp_path / "c") == 0
    assert "note:" not in capsys.readouterr().out


def test_the_batches_of_regions_are_a_setting():
    old = Path(__file__).parents[1] / "detection" / "tasks" / "old_checkpoints"
    others = (f"test.classifiers=[{old}/classifier.pt]", f"proposals.weights=[{old}/localizer.pt]")
    words = ["test.batch_size=4", *others]
    expect_used(load(old / "region_localizer.pt", "cpu", words), words)


def test_other_classes_are_dropped(weights, images, tmp_path):
    call(weights, images, "--out", tmp_path / "out", "--conf", "0.1", "--classes", "dog")
    labels = {
        found["label"] for record in lines(tmp_path / "out") for found in record["detections"]
    }
    assert labels == {"dog"}


@pytest.mark.parametrize("missing", ["weights", "input"])
def test_missing_inputs_are_named(weights, images, tmp_path, missing):
    error = WeightsError if missing == "weights" else ConfigError
    with pytest.raises(error, match=r"nowhere"):
        call(
            tmp_path / "nowhere.pt" if missing == "weights" else weights,
            tmp_path / "nowhere" if missing == "input" else images,
            "--out",
            tmp_path / "out",
        )


@pytest.mark.parametrize("inputs", [3, "ab", [3], None])
def test_recorded_inputs_that_are_no_names(weights, tmp_path, inputs):
    (tmp_path / "meta.json").write_text(json.dumps({"classes": CLASSES, "inputs": inputs}))
    with pytest.raises(ConfigError, match=r"meta\.json: expected .* with a list of inputs"):
        call(weights, "--out", tmp_path, "--resume")


def test_a_second_run_needs_resume(weights, images, tmp_path, capsys):
    words = (images, "--out", tmp_path / "out", "--no-draw")
    call(weights, *words)
    with pytest.raises(ConfigError, match="--resume"):
        call(weights, *words)
    before = tree(tmp_path / "out")
    assert call(weights, *words, "--resume") == 0
    assert "(12 earlier)" in capsys.readouterr().out
    assert tree(tmp_path / "out") == before
