"""The responses command: JSON and a plot from checkpoints and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from resdet.backbones.norm import ConvNorm
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.files import check_dict
from resdet.detection.engine.checkpoint import save_checkpoint
from resdet.detection.tasks.classifier import CLASSIFICATION
from resdet.tools.cli import run_tool

if TYPE_CHECKING:
    from resdet.tests.conftest import Command


#: The checkpoints are in no folder of a run.
RESPONSES = ("responses", "--trust-paths")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A plain and a residual net beside four images in two classes."""
    folder = tmp_path_factory.mktemp("responses")
    noise = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (folder / "images" / split / name).mkdir(parents=True)
            for number in range(2):
                pixels = noise.integers(0, 256, (40, 44, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / "images" / split / name / f"{number}.png"), pixels)
    paths = []
    for name, shortcut in (("plain", "none"), ("res", "A")):
        config = ClassifierConfig().model_dump(mode="json") | {
            "data": {
                "source": {"format": "image_folder", "root": str(folder / "images")},
                "workers": 0,
            },
            "network": {"family": "cifar", "depth": 20, "width": 4, "shortcut": shortcut},
            "test": {"resize": 36, "size": 32, "batch_size": 3},
        }
        model = CLASSIFICATION.build(check_dict(ClassifierConfig, config, "test"), 2)
        state = {"task": "classification", "config": config, "classes": ["a", "b"], "step": 1}
        paths.append(folder / name / "best.pt")
        save_checkpoint(paths[-1], state | {"model": model.state_dict(), "metric": 0.5})
    return paths


def test_json_and_plot_of_two_networks(
    resdet: Command, checkpoints: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "responses"
    done = resdet(*RESPONSES, *checkpoints, "--out", out)
    assert done.code == 0, done.err
    found = json.loads((out / "responses.json").read_text())
    assert list(found) == ["plain/best.pt", "res/best.pt"]
    for responses in found.values():
        assert len(responses) == 19
        assert responses[0]["layer"] == "network.stem.conv1"
        assert {response["kernel"] for response in responses} == {3}
        assert all(response["std"] > 0 for response in responses)
    assert cv2.imread(str(out / "responses.png")).std() > 1
    assert "plain/best.pt: 19 layers, mean " in done.out


def test_the_first_layer_by_hand(resdet: Command, checkpoints: list[Path], tmp_path: Path) -> None:
    """Of the middle crops of the validation images, at once."""
    done = resdet(*RESPONSES, checkpoints[0], "--out", tmp_path)
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "responses.json").read_text())["best.pt"][0]["std"]
    state = torch.load(checkpoints[0], weights_only=True)["model"]
    layer = ConvNorm(3, 4, 3, norm="batch").eval()
    layer.load_state_dict(
        {name[19:]: t for name, t in state.items() if name.startswith("network.stem.conv1.")}
    )
    crops = []
    for path in sorted((checkpoints[0].parent.parent / "images" / "val").rglob("*.png")):
        # The shorter side 40 becomes 36, then the middle 32: 2 or 4 pixels off each side.
        resized = cv2.resize(cv2.imread(str(path)), (40, 36), interpolation=cv2.INTER_LINEAR)
        crops.append(torch.from_numpy(resized[2:34, 4:36, ::-1].copy()).permute(2, 0, 1).float())
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    with torch.no_grad():
        outputs = layer((torch.stack(crops) - mean) / std)
    assert found == pytest.approx(outputs.double().std(correction=0).item(), rel=0.05)


def test_a_sample_of_the_training_images(
    resdet: Command, checkpoints: list[Path], tmp_path: Path
) -> None:
    stds = []
    for words in (("--split", "train"), ("--split", "train", "--images", 1), ("--split", "val")):
        done = resdet(
            "responses", "--trust-paths", checkpoints[1], "--out", tmp_path, *words, "test.size=24"
        )
        assert done.code == 0, done.err
        stds.append(json.loads((tmp_path / "responses.json").read_text())["best.pt"][-1]["std"])
    assert len(set(stds)) == 3


@pytest.mark.parametrize(
    ("words", "reason", "code"),
    [
        (["data.root=x"], "no checkpoint", 2),
        (["CKPT", "CKPT"], "given twice", 2),
        (["CKPT", "--images", "0"], "--images 0: expected at least 1", 2),
        (["CKPT", "data.source.root=/nowhere"], "/nowhere", 3),
        (["none.pt"], "none.pt: no such checkpoint", 3),
    ],
)
def test_error_messages(
    checkpoints: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    reason: str,
    code: int,
) -> None:
    given = [str(checkpoints[0]) if word == "CKPT" else word for word in words]
    assert run_tool("responses", [*given, "--out", str(tmp_path / "out")]) == code
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
