"""``resdet train-cls`` and ``resdet eval`` of its checkpoints, end to end."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from resdet.detection.engine.checkpoint import load_checkpoint, save_checkpoint
from resdet.detection.tasks.base import ALONE
from resdet.detection.tasks.checkpoints import load_members, read_checkpoint
from resdet.detection.tasks.classifier import CLASSIFICATION
from resdet.detection.tasks.eval_split import read_eval_split
from resdet.tools.cli import main

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

COLOURS = ("blue", "green", "red")

#: Batch norm, plateau schedule, moving average: all that a checkpoint must carry.
CONFIG = """
task: classification
data:
  source: {format: image_folder, root: colours}
  workers: 0
crop: {kind: paper, size: 32, short_sides: [32, 40]}
network: {depth: 18, width: 8}
train:
  iterations: 8
  batch_size: 4
  base_batch_size: 4
  lr: 0.02
  plateau_evaluations: 1
  ema_decay: 0.9
  log_every: 2
  eval_every: 2
  checkpoint_every: 1
test: {resize: 36, size: 32, short_sides: [32, 48], batch_size: 3}
"""


def make_colours(root: Path, names: tuple[str, ...] = COLOURS) -> None:
    """Noise, brighter in one channel (B, G, R): 5 + 3 images of each."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        for name in names:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = noise.integers(36, 56, 2)
                pixels = noise.integers(0, 120, (height, width, 3), dtype=np.uint8)
                pixels[..., COLOURS.index(name)] += 120
                cv2.imwrite(str(folder / f"{number}.png"), pixels)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    make_colours(folder / "colours")
    path = folder / "tiny.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def undisturbed(resdet: Command, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a process like those that are killed: another number of threads rounds otherwise."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert resdet("train-cls", "--cfg", config, "--out", run).code == 0
    return run


def ran(*words: object) -> None:
    """``resdet WORDS...`` in this process, which has torch already."""
    assert main([*map(str, words), "--debug"]) == 0


def logged(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def metrics_of(out: Path, *words: object) -> dict[str, float]:
    ran("eval", "--out", out, *words)
    return json.loads((out / "metrics.json").read_text())["metrics"]


class Refused:
    """Calls a command that must end with one line of error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object, parts: tuple[str, ...], code: int = 3) -> None:
        self._capsys.readouterr()
        assert main([str(word) for word in words]) == code, words
        said = self._capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1, said
        for part in parts:
            assert part in said, words


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return Refused(capsys)


# ---------------------------------------------------------------------------------- training


def test_a_run_folder_holds_everything(undisturbed: Path) -> None:
    names = {str(p.relative_to(undisturbed)) for p in undisturbed.rglob("*") if p.is_file()}
    assert names >= {
        "config.yaml",
        "env.json",
        "data_report.json",
        "metrics.jsonl",
        "results.csv",
        "train.log",
        "plots/curves.png",
        "plots/labels.svg",
        "samples/train_batch0.jpg",
        "weights/best.pt",
        "weights/last.pt",
        "weights/last-1.pt",
    }
    assert all(0 <= entry["train_top1_error"] <= 1 for entry in logged(undisturbed, "train"))
    assert all(entry["loss"] == entry["loss_cls"] for entry in logged(undisturbed, "train"))
    report = json.loads((undisturbed / "data_report.json").read_text())
    assert report["splits"]["train"]["classes"] == dict.fromkeys(COLOURS, 5)


def test_best_has_the_lowest_error(undisturbed: Path) -> None:
    best = load_checkpoint(undisturbed / "weights" / "best.pt")
    errors = {entry["step"]: entry["val_top1_error"] for entry in logged(undisturbed, "eval")}
    assert list(errors) == [2, 4, 6, 8]
    assert (best["task"], best["classes"]) == ("classification", list(COLOURS))
    assert best["step"] == min(errors, key=lambda step: (errors[step], step))
    assert best["metric"] == pytest.approx(1 - errors[best["step"]])


def test_it_learns_colours(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two in three wrong by chance; a net for small images needs a few dozen steps."""
    words = ("train.iterations=60", "train.eval_every=60", "train.ema_decay=null")
    # The rate must fall to nothing: the statistics of batch norm lag behind weights that move.
    words += ("train.schedule=cosine", "train.batch_size=8", "train.base_batch_size=8")
    words += ("network.family=cifar", "network.depth=20", "train.label_smoothing=0.1")
    words += ("crop.kind=resized", "crop.scale=[0.3,1.0]")
    ran("train-cls", "--cfg", config, "--out", tmp_path / "run", *words)
    assert logged(tmp_path / "run", "eval")[-1]["val_top1_error"] == 0
    assert "best top1_error 0.0000" in capsys.readouterr().out


def test_killed_and_resumed_equals_undisturbed(
    resdet: Command, config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run, moments = tmp_path / "run", random.Random(0)  # noqa: S311  a test
    last = run / "weights" / "last.pt"
    words: tuple[object, ...] = ("train-cls", "--cfg", config, "--out", run)
    killed_at = []
    for _ in range(3):
        if killed_at and killed_at[-1] == 8:  # after the last step: nothing is left to disturb
            break
        running = resdet.start(*words)
        assert running.until_step_after(killed_at[-1] if killed_at else 0, last), running.wait()
        time.sleep(moments.uniform(0, 0.05))
        running.kill()
        running.wait()
        killed_at.append(load_checkpoint(last)["step"])
        words = ("train-cls", "--resume", run)
    assert killed_at[0] < 8
    assert resdet("train-cls", "--resume", run).code == 0
    one, other = load_checkpoint(last), load_checkpoint(undisturbed / "weights" / "last.pt")
    for part in ("model", "average"):
        assert one[part].keys() == other[part].keys()
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])
    for name in ("step", "best", "stale", "drops", "flat"):
        assert one[name] == other[name], name
    assert other["drops"] > 0  # the plateau's rate came back too
    assert (run / "results.csv").read_text() == (undisturbed / "results.csv").read_text()
    rates = [[entry["lr"] for entry in logged(folder, "train")] for folder in (run, undisturbed)]
    assert rates[0] == rates[1]


def test_two_processes_are_as_one(resdet: Command, config: Path, tmp_path: Path) -> None:
    """Batch norm's statistics are of the images of both; two steps, as each multiplies the
    rounding errors of small batches."""
    settings = ("train.iterations=2", "train.eval_every=2", "train.batch_size=6")
    settings += ("crop.size=64", "crop.short_sides=[64,80]")
    words = ("train-cls", "--cfg", config, *settings)
    one, two = tmp_path / "one", tmp_path / "two"
    assert resdet(*words, "--out", one).code == 0
    done = resdet.torchrun("resdet", *words, "--out", two)
    assert done.returncode == 0, done.stderr
    single, double = (load_checkpoint(run / "weights" / "last.pt") for run in (one, two))
    for part in ("model", "average"):
        for name, tensor in single[part].items():
            apart = (double[part][name] - tensor).abs().max()
            assert apart <= 1e-4 * tensor.abs().max(), name
    names = {"train": ("loss", "train_top1_error", "lr"), "eval": ("val_top1_error", "val_loss")}
    for kind in ("train", "eval"):
        for mine, theirs in zip(logged(two, kind), logged(one, kind), strict=True):
            for name in names[kind]:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-4), name


def test_fine_tuning_takes_classes_by_name(
    config: Path,
    undisturbed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    refused: Refused,
) -> None:
    weights = undisturbed / "weights" / "best.pt"
    words = ("train-cls", "--cfg", config, "--weights", weights, "--dry-run")
    ran(*words, "data.classes=[red, green, blue]")
    assert "reordered by name" in capsys.readouterr().out
    make_colours(tmp_path / "colours", ("red", "green"))
    fewer = (*words, f"data.source.root={tmp_path / 'colours'}")
    ran(*fewer)
    said = capsys.readouterr().out
    assert "class rows kept: 2 of 2" in said
    assert "classes of the weights left out: 1 (blue)" in said
    shutil.copytree(tmp_path / "colours", tmp_path / "others")
    for before, after in (("red", "cyan"), ("green", "gold")):
        for path in (tmp_path / "others").glob(f"*/{before}"):
            path.rename(path.with_name(after))
    others = (*words, f"data.source.root={tmp_path / 'others'}")
    refused(*others, parts=("lacking ['cyan', 'gold']", "--reset-head", "train.start_classes"))
    ran(*fewer, "--reset-head")
    assert "class layers re-initialised" in capsys.readouterr().out


def test_fine_tuning_from_weights_of_any_layout(
    config: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the last layer is taken; pixels must be those that the weights were trained with."""
    weights = f"network.weights={undisturbed / 'weights' / 'best.pt'}"
    ran("train-cls", "--cfg", config, weights, "--dry-run")
    assert "fc re-initialised" in capsys.readouterr().out
    words = ("train-cls", "--cfg", config, weights, "network.pixels=msra", "--dry-run")
    assert main([str(word) for word in words]) == 2
    assert "pixels is msra, not torchvision" in capsys.readouterr().err


def test_a_detector_starts_from_it(
    tiny_config: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the frozen statistics of its batch norms; the moving average is taken."""
    weights = undisturbed / "weights" / "best.pt"
    settings = (f"backbone.weights={weights}", "backbone.norm=frozen", "train.iterations=1")
    ran("train-det", "--cfg", tiny_config, *settings, "--out", tmp_path / "run")
    assert f"weights: {weights}" in capsys.readouterr().out
    trained = load_checkpoint(tmp_path / "run" / "weights" / "last.pt")["model"]
    given = load_checkpoint(weights)["model"]
    for name in ("running_mean", "running_var", "weight"):
        expected = given[f"network.res3.0.conv1.norm.{name}"]
        assert torch.equal(trained[f"trunk.res3.0.conv1.norm.{name}"], expected)


def test_a_stream_of_shards_resumes_in_mid_epoch(
    config: Path, tmp_path: Path, refused: Refused
) -> None:
    """Stopped after 5 of 8 steps, 4 to an epoch; testing gives the numbers that files give."""
    pytest.importorskip("webdataset", reason="the extra `shards` is not installed")
    ran("write-shards", config.parent / "colours", "--out", tmp_path / "shards", "--size-mb", "1")
    shards = f"data.source={{format: shards, root: {tmp_path / 'shards'}, lanes: 2, buffer: 4}}"
    words = ("train-cls", "--cfg", config, shards, "train.schedule=step")
    ran(*words, "--out", tmp_path / "whole")
    ran(*words, "--out", tmp_path / "parts", "train.iterations=5")
    ran("train-cls", "--resume", tmp_path / "parts", "train.iterations=8")
    whole, parts = (load_checkpoint(tmp_path / n / "weights/last.pt") for n in ("whole", "parts"))
    assert all(torch.equal(parts["model"][name], whole["model"][name]) for name in whole["model"])
    weights = ("--weights", tmp_path / "whole" / "weights" / "best.pt")
    stream = metrics_of(tmp_path / "stream", *weights)
    folder = f"data.source={{format: image_folder, root: {config.parent / 'colours'}}}"
    assert stream == pytest.approx(metrics_of(tmp_path / "files", *weights, folder), rel=1e-5)
    some = (*weights, "--classes", COLOURS[1])
    few = metrics_of(tmp_path / "few", *some)
    assert few == pytest.approx(metrics_of(tmp_path / "few files", *some, folder), rel=1e-5)
    checkpoint = tmp_path / "whole" / "weights" / "best.pt"
    refused("freeze-bn", checkpoint, parts=("holds shards", "images as files"), code=2)


# -------------------------------------------------------------------------------- wrong kinds


def test_each_command_refuses_the_others_checkpoints(
    config: Path,
    undisturbed: Path,
    tiny_run: Path,
    tiny_config: Path,
    tmp_path: Path,
    refused: Refused,
) -> None:
    for name, source in (("cls", undisturbed), ("det", tiny_run)):
        shutil.copytree(source / "weights", tmp_path / name / "weights")
    cls, det = (tmp_path / name / "weights" / "last.pt" for name in ("cls", "det"))
    detector = (str(det), "of the task 'detection'", "needed: a classifier (`resdet train-cls`)")
    classifier = (str(cls), "of the task 'classification'", "needed: a detector")
    refused("train-cls", "--resume", det, parts=detector)
    refused("train-cls", "--cfg", config, "--weights", det, "--dry-run", parts=detector)
    refused("train-det", "--resume", cls, parts=classifier)
    refused("train-det", "--cfg", tiny_config, "--weights", cls, "--dry-run", parts=classifier)
    refused("eval", "--weights", cls, "--weights", det, parts=detector)
    refused("eval", "--weights", det, "--weights", cls, parts=classifier)


def test_each_command_refuses_the_others_configs(
    config: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train-det", "--cfg", str(config), "--print-config"]) == 2
    assert "this config is for 'classification'" in capsys.readouterr().err
    assert main(["train-cls", "--cfg", str(tiny_config), "--print-config"]) == 2
    assert "backbone: unknown key" in capsys.readouterr().err


def test_a_checkpoint_of_an_unknown_task(
    undisturbed: Path, tmp_path: Path, refused: Refused
) -> None:
    path = tmp_path / "odd.pt"
    save_checkpoint(path, load_checkpoint(undisturbed / "weights" / "best.pt") | {"task": "poetry"})
    refused("eval", "--weights", path, parts=("odd.pt", "of the task 'poetry'"))


# -------------------------------------------------------------------------------- evaluation


def test_last_gives_the_numbers_of_the_last_step(undisturbed: Path, tmp_path: Path) -> None:
    weights = undisturbed / "weights" / "last.pt"
    found = metrics_of(tmp_path / "one", "--weights", weights)
    logged_last = logged(undisturbed, "eval")[-1]
    assert {f"val_{name}": value for name, value in found.items()} == pytest.approx(
        {name: logged_last[name] for name in ("val_top1_error", "val_top5_error", "val_loss")}
    )


@pytest.mark.parametrize("protocol", ["one_crop", "ten_crop", "multi_scale"])
def test_an_ensemble_of_one_twice_is_itself(
    undisturbed: Path, tmp_path: Path, protocol: str
) -> None:
    """The second member's classes are in another order, which names bring back."""
    weights, turned = undisturbed / "weights" / "best.pt", tmp_path / "turned.pt"
    state = load_checkpoint(weights)
    state["classes"] = state["classes"][::-1]
    for name in ("network.fc.weight", "network.fc.bias"):
        state["model"][name] = state["model"][name].flip(0)
    save_checkpoint(turned, state)
    words = ("--weights", weights, f"test.protocol={protocol}", "test.flip=true")
    alone = metrics_of(tmp_path / "alone", *words)
    both = metrics_of(tmp_path / "both", *words, "--weights", turned)
    assert both == pytest.approx(alone, rel=1e-5)
    written = json.loads((tmp_path / "both" / "metrics.json").read_text())
    assert "ensemble of 2" in written["testing"] and written["seconds_per_image"] > 0


def test_each_member_of_an_ensemble_is_tested_as_its_own_file_says(
    undisturbed: Path, tmp_path: Path
) -> None:
    """The mean of what each gives alone, by its own protocol and sizes."""
    weights, other = undisturbed / "weights" / "best.pt", tmp_path / "other.pt"
    state = load_checkpoint(weights)
    state["config"]["test"] |= {"protocol": "multi_scale", "short_sides": [24, 40], "flip": True}
    state["average"] = None  # its last weights, which are other ones
    save_checkpoint(other, state)

    def scores(*paths: Path) -> dict[str, torch.Tensor]:
        checkpoints = [read_checkpoint(path, CLASSIFICATION) for path in paths]
        members = load_members(checkpoints, trust_paths=True)
        split = read_eval_split(CLASSIFICATION, members[0], "val")
        pipeline = CLASSIFICATION.pipeline(members)
        found = CLASSIFICATION.predict_split(pipeline, members[0].config, split, ALONE)
        assert found is not None
        return found

    one, two, both = scores(weights), scores(other), scores(weights, other)
    assert not all(torch.allclose(one[name], two[name], atol=1e-3) for name in both)
    for name, found in both.items():
        torch.testing.assert_close(found, (one[name] + two[name]) / 2)
    metrics_of(tmp_path / "both", "--weights", weights, "--weights", other)
    written = json.loads((tmp_path / "both" / "metrics.json").read_text())["testing"]
    assert re.fullmatch(
        r"ensemble of 2: \(1\) middle crop \d+ of shorter side \d+ "
        r"\(2\) fully convolutional, shorter sides 24, 40, flipped too",
        written,
    )


def test_members_with_other_classes_are_refused(
    undisturbed: Path, tmp_path: Path, refused: Refused
) -> None:
    weights, other = undisturbed / "weights" / "best.pt", tmp_path / "other.pt"
    save_checkpoint(other, load_checkpoint(weights) | {"classes": ["blue", "green", "pink"]})
    parts = ("other.pt", "lacking ['red'], too many ['pink']")
    refused("eval", "--weights", weights, "--weights", other, parts=parts)


def test_data_with_a_class_that_it_does_not_know(
    undisturbed: Path, tmp_path: Path, refused: Refused
) -> None:
    make_colours(tmp_path / "colours")
    (tmp_path / "colours" / "val" / "red").rename(tmp_path / "colours" / "val" / "rust")
    data = f"data.source.root={tmp_path / 'colours'}"
    refused("eval", "--weights", undisturbed / "weights" / "best.pt", data, parts=("rust",))


def test_a_source_of_another_format_replaces(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fields of a stream would mean nothing to a folder; those of the same format merge."""
    stream = "data.source={format: shards, root: x, lanes: 2}"
    folder = "data.source={format: image_folder, root: y}"
    ran("train-cls", "--cfg", config, stream, folder, "data.source.val=test", "--print-config")
    printed = capsys.readouterr().out
    assert "lanes" not in printed and "val: test" in printed and "y\n" in printed
