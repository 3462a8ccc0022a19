"""The freeze-bn command, from a trained classifier to a detector that starts from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from resdet.backbones.weights.load import read_converted
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.files import check_dict
from resdet.detection.engine.checkpoint import load_checkpoint, save_checkpoint
from resdet.detection.tasks.classifier import CLASSIFICATION
from resdet.tools.cli import run_tool

if TYPE_CHECKING:
    from resdet.tests.conftest import Command, Finished

CONFIG = """
task: classification
data:
  source: {format: image_folder, root: images}
  workers: 0
crop: {kind: paper, size: 64, short_sides: [64, 80]}
network: {depth: 18, width: 8}
train:
  iterations: 4
  batch_size: 4
  base_batch_size: 4
  lr: 0.01
  eval_every: 4
test: {resize: 72, size: 64, batch_size: 3}
"""
#: What makes the suite's small detector fit.
DETECTOR = ("train.iterations=2", "train.eval_every=2", "backbone.norm=frozen")


@pytest.fixture(scope="module")
def run_folder(resdet: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier of dark and bright noise, 5 + 2 images of each."""
    folder = tmp_path_factory.mktemp("classifier")
    noise = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for name, offset in (("bright", 120), ("dark", 0)):
            (folder / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 120, (80, 90, 3), dtype=np.uint8) + np.uint8(offset)
                cv2.imwrite(str(folder / "images" / split / name / f"{number}.png"), pixels)
    config = folder / "tiny.yaml"
    config.write_text(CONFIG)
    done = resdet("train-cls", "--cfg", config, "--out", folder / "run")
    assert done.code == 0, done.err
    return folder / "run"


@pytest.fixture(scope="module")
def best(run_folder: Path) -> Path:
    return run_folder / "weights" / "best.pt"


@pytest.fixture(scope="module")
def backbone(resdet: Command, best: Path) -> Path:
    done = resdet("freeze-bn", best)
    assert done.code == 0, done.err
    assert "over 10 training images in batches of 4" in done.out
    assert "backbone.depth=18 backbone.width=8 backbone.pixels=torchvision" in done.out
    return best.with_name("backbone.safetensors")


def expect_refused(done: Finished, *parts: str, code: int) -> None:
    assert done.code == code, done
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    for part in parts:
        assert part in done.err


def test_only_the_statistics_change(best: Path, backbone: Path) -> None:
    found, state = read_converted(backbone), load_checkpoint(best)["model"]
    assert found.classes == ("bright", "dark")
    names = {name for name in state if name.startswith("network.") and "num_batches" not in name}
    assert {f"network.{name}" for name in found.tensors} == names
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, state[f"network.{name}"]) is ("running_" not in name), name


def test_both_methods_agree_if_one_batch_has_all_the_data(
    resdet: Command, best: Path, tmp_path: Path
) -> None:
    files = {}
    for name, option in (("pooled", ()), ("layered", ("--exact",))):
        path = tmp_path / f"{name}.safetensors"
        done = resdet("freeze-bn", best, "--out", path, "train.batch_size=10", *option)
        assert done.code == 0, done.err
        assert f"batch norm statistics: {name}, over 10" in done.out
        files[name] = read_converted(path).tensors
    for name, tensor in files["pooled"].items():
        torch.testing.assert_close(tensor, files["layered"][name], rtol=1e-3, atol=1e-4)


def test_a_detector_starts_from_the_frozen_file(
    resdet: Command, backbone: Path, tiny_config: Path, tmp_path: Path
) -> None:
    run, weights = tmp_path / "run", f"backbone.weights={backbone}"
    done = resdet("train-det", "--cfg", tiny_config, "--out", run, weights, *DETECTOR)
    assert done.code == 0, done.err
    assert "(resdet_classifier, " in done.out
    assert "batch norm statistics: pooled" in done.out
    trained, ours = load_checkpoint(run / "weights" / "last.pt")["model"], read_converted(backbone)
    places = {"stem": "trunk.stem", "res3": "trunk.res3", "res5": "roi_head.res5"}
    frozen = [name for name in ours.tensors if ".norm." in name]
    assert len(frozen) == 80
    for name in frozen:
        stage, _, rest = name.partition(".")
        place = places.get(stage, f"trunk.{stage}")
        assert torch.equal(trained[f"{place}.{rest}"], ours.tensors[name]), name


def test_other_pixels_are_an_error(
    resdet: Command, backbone: Path, tiny_config: Path, tmp_path: Path
) -> None:
    words = ("--out", tmp_path / "run", f"backbone.weights={backbone}", "backbone.pixels=msra")
    done = resdet("train-det", "--cfg", tiny_config, *words, *DETECTOR)
    expect_refused(done, "backbone.pixels is msra, not torchvision", code=2)


def test_a_sample_of_the_images(resdet: Command, best: Path, tmp_path: Path) -> None:
    done = resdet("freeze-bn", best, "--images", 5, "--out", tmp_path / "a.safetensors")
    assert done.code == 0, done.err
    assert "over 5 training images in batches of 3" in done.out


def untrained(best: Path, path: Path, **network: object) -> Path:
    """A checkpoint like ``best``, of another network."""
    state = load_checkpoint(best)
    values = state["config"] | {"network": state["config"]["network"] | network}
    model = CLASSIFICATION.build(
        check_dict(ClassifierConfig, values, "test"), len(state["classes"])
    )
    save_checkpoint(path, state | {"config": values, "model": model.state_dict()})
    return path


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ({"shortcut": "none"}, "a plain net or one with shortcuts A"),
        ({"shortcut": "A"}, "a plain net or one with shortcuts A"),
        ({"shortcut": "C"}, "a net with shortcuts C"),
        ({"family": "cifar", "depth": 20, "shortcut": "A"}, "a net without conv5_x"),
        ({"norm": "group"}, "norms without statistics (group norm)"),
    ],
)
def test_networks_that_cannot_be_a_backbone(
    resdet: Command, best: Path, tmp_path: Path, network: dict[str, object], reason: str
) -> None:
    path = untrained(best, tmp_path / "other.pt", **network)
    done = resdet("freeze-bn", path, "data.root=/nowhere")  # said before any image is looked for
    expect_refused(done, f"other.pt: {reason}", code=3)


def test_the_stride_of_a_checkpoint_must_match(
    resdet: Command, best: Path, tiny_config: Path, tmp_path: Path
) -> None:
    path = untrained(best, tmp_path / "r50.pt", depth=50, stride_in="1x1")
    words = ("--out", tmp_path / "run", f"backbone.weights={path}", "backbone.depth=50")
    words += ("backbone.norm=batch", "--dry-run")
    done = resdet("train-det", "--cfg", tiny_config, *words)
    expect_refused(done, "backbone.stride_in is 3x3, not 1x1", code=2)
    assert resdet("train-det", "--cfg", tiny_config, *words, "backbone.stride_in=1x1").code == 0


def test_a_plain_checkpoint_cannot_be_a_backbone(
    resdet: Command, best: Path, tiny_config: Path, tmp_path: Path
) -> None:
    path = untrained(best, tmp_path / "plain.pt", shortcut="none")
    words = ("--out", tmp_path / "run", f"backbone.weights={path}", *DETECTOR)
    done = resdet("train-det", "--cfg", tiny_config, *words)
    expect_refused(done, "plain.pt: a plain net", "shortcuts B", code=3)


def test_error_messages(
    backbone: Path, best: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, words, code, reason in (
        (best, [], 2, "backbone.safetensors: already exists; --force replaces it"),
        (best, ["--out", "a.pt"], 2, "a.pt: the output file must end in .safetensors"),
        (best, ["--force", "--images", "0"], 2, "--images 0: expected at least 1"),
        (best, ["--force", "train.batchsize=3"], 2, "batch_size"),
        (tiny_run / "weights" / "last.pt", [], 3, "last.pt: a checkpoint of the task 'detection'"),
    ):
        assert run_tool("freeze-bn", [str(path), *words]) == code
        said = capsys.readouterr().err
        assert reason in said and said.count("\n") == 1
    assert backbone.is_file()
