"""The parts that a backbone gives to detectors, localizers and classifiers, and a new family."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from resdet.backbones import BACKBONES
from resdet.backbones.base import Backbone, RunsOnMap
from resdet.backbones.norm import make_norm
from resdet.backbones.resnet import ResNet
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import check_dict
from resdet.detection.config.localizer import LocalizerConfig
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.detection.errors import ConfigError
from resdet.detection.tasks.base import Loaded
from resdet.detection.tasks.localizer import LOCALIZATION
from resdet.detection.tasks.localizer_network import build_localizer
from resdet.tools.cli import main
from torch import nn

STAGES = ("stem", "res2", "res3", "res4")


# -- by hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "channels"), [(18, 32), (50, 128)])
def test_shapes(depth: int, channels: int) -> None:
    backbone = ResNet(depth=depth, width=8)
    trunk = backbone.trunk()
    features = trunk(torch.randn(1, 3, 64, 96))
    assert (trunk.channels, trunk.stride) == (backbone.channels, backbone.stride) == (channels, 16)
    assert features.shape == (1, channels, 64 // 16, 96 // 16)
    crops = torch.randn(3, channels, 14, 14)
    assert backbone.tail_channels == 2 * channels
    assert backbone.tail(stride=2)(crops).shape == (3, 2 * channels, 7, 7)
    assert backbone.tail(stride=1)(crops[..., :7, :7]).shape == (3, 2 * channels, 7, 7)
    whole = backbone.trunk(whole=True)
    assert whole(torch.randn(1, 3, 64, 96)).shape == (1, 2 * channels, 64 // 32, 96 // 32)
    assert (whole.channels, whole.stride) == (2 * channels, 32)


def test_sizes_that_no_stride_divides() -> None:
    trunk = ResNet(depth=18, width=4).trunk()
    assert trunk(torch.randn(1, 3, 65, 79)).shape[2:] == (5, 5)


def test_trunk_and_tail_are_the_classifier() -> None:
    backbone = ResNet(depth=50, width=4)
    network, trunk, tail = backbone.classifier(5), backbone.trunk(), backbone.tail(stride=2)
    state = network.state_dict()
    trunk.load_state_dict({k: v for k, v in state.items() if k.startswith(STAGES)})
    start = "res5."
    tail.load_state_dict({k[len(start) :]: v for k, v in state.items() if k.startswith(start)})
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network.fc(tail(trunk(x)).mean(dim=(2, 3))), network(x))


@pytest.mark.parametrize("frozen", range(5))
def test_frozen_stages_keep_weights_and_statistics(frozen: int) -> None:
    trunk = ResNet(depth=18, width=4, norm="batch").trunk(frozen_stages=frozen)
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    trunk.eval()
    nn.Sequential(trunk).train()  # as a part of the detector
    if frozen < 4:
        trunk(torch.randn(2, 3, 64, 64)).square().mean().backward()
        parameters = [p for p in trunk.parameters() if p.grad is not None]
        torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1).step()
    else:
        assert not trunk(torch.randn(2, 3, 64, 64)).requires_grad
    for name, tensor in trunk.state_dict().items():
        fixed = name.startswith(STAGES[:frozen]) if frozen else False
        assert torch.equal(tensor, before[name]) == fixed, name


def test_descriptions() -> None:
    assert ResNet(50, norm="batch").description == "ResNet-50, shortcuts B, norm batch"
    assert ResNet(34, shortcut="none").description == "plain-34, norm frozen"
    small = BACKBONES["cifar"](20).description
    assert small == "ResNet-20, for small images, shortcuts A, norm batch"


# -- every family ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "depth"),
    [(name, depth) for name, kind in BACKBONES.items() for depth in kind.depths],
)
def test_stated_channels_and_strides_are_those_of_the_stages(family: str, depth: int) -> None:
    backbone = BACKBONES[family](depth, width=8)
    with torch.device("meta"):
        network = backbone.classifier(3)
        x = torch.empty(1, 3, 64, 64)
    for name, stride in backbone.strides.items():
        x = network.get_submodule(name)(x)
        assert x.shape == (1, backbone.channels_of(name), 64 // stride, 64 // stride), name
    assert network.stride == stride


# -- a new family ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toy(Backbone):
    """A convolution over patches, and one more as the tail, which cannot run on the map."""

    depths = (2,)
    strides: ClassVar = {"patches": 8, "mix": 16}

    def channels_of(self, stage: str) -> int:
        return self.width * (2 if stage == "mix" else 1)

    def stage(self, name: str, *, stride: int | None = None) -> nn.Module:
        if name == "patches":
            conv = nn.Conv2d(3, self.width, 8, stride=8)
        else:
            conv = nn.Conv2d(self.width, 2 * self.width, 3, stride=stride or 2, padding=1)
        return nn.Sequential(conv, make_norm(self.norm, self.channels_of(name)), nn.ReLU())


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "toy", Toy)


def ran(*words: object) -> None:
    """``resdet WORDS...`` in this process, where the new family is known."""
    assert main([*map(str, words), "--debug"]) == 0


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("frozen", [0, 1])
def test_a_detector_on_a_new_family(tiny_config: Path, tmp_path: Path, frozen: int) -> None:
    words = ("backbone.family=toy", "backbone.depth=2", f"backbone.frozen_stages={frozen}")
    ran("train-det", "--cfg", tiny_config, "--out", tmp_path / "run", *words)
    weights = tmp_path / "run" / "weights" / "best.pt"
    ran("eval", "--weights", weights, "--out", tmp_path / "eval")
    assert (tmp_path / "eval" / "metrics.json").is_file()
    images = tiny_config.parent / "scenes" / "JPEGImages"
    ran("infer", images, "--weights", weights, "--out", tmp_path / "found")
    assert list((tmp_path / "found").glob("*"))


@pytest.mark.usefixtures("toy")
def test_a_classifier_on_a_new_family_and_what_starts_from_it(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("dark", "light"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = noise.integers(0, 120, (40, 40, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / f"{number}.png"), pixels + 120 * (name == "light"))
    config = {
        "task": "classification",
        "data": {
            "source": {"format": "image_folder", "root": str(tmp_path / "images")},
            "workers": 0,
        },
        "crop": {"size": 32, "short_sides": [32, 40]},
        "network": {"family": "toy", "depth": 2, "width": 8},
        "train": {"iterations": 4, "batch_size": 4, "eval_every": 2},
        "test": {"resize": 36, "size": 32},
    }
    (tmp_path / "toy.yaml").write_text(json.dumps(config))
    ran("train-cls", "--cfg", tmp_path / "toy.yaml", "--out", tmp_path / "run")
    weights = tmp_path / "run" / "weights" / "best.pt"
    ran("eval", "--weights", weights, "--out", tmp_path / "eval")
    assert (tmp_path / "eval" / "metrics.json").is_file()

    ran("freeze-bn", weights, "--out", tmp_path / "frozen.safetensors")
    settings = capsys.readouterr().out.partition("use it in a detector with ")[2].split()
    short = ("backbone.frozen_stages=1", "train.iterations=1", "train.eval_every=1")
    ran("train-det", "--cfg", tiny_config, "--out", tmp_path / "frozen", *settings, *short)

    state = {
        name.removeprefix("network."): tensor
        for name, tensor in load_checkpoint(weights)["model"].items()
    }
    words = ("backbone.family=toy", "backbone.depth=2", f"backbone.weights={weights}", *short)
    ran("train-det", "--cfg", tiny_config, "--out", tmp_path / "detector", *words)
    detector = load_checkpoint(tmp_path / "detector" / "weights" / "best.pt")["model"]
    assert torch.equal(detector["trunk.patches.0.weight"], state["patches.0.weight"])
    tail, start = detector["roi_head.res5.0.weight"], state["mix.0.weight"]
    assert 0 < (tail - start).abs().max() < 0.1 * start.abs().max()  # after one step
    for level in ("conv4", "conv5"):
        settings = {"family": "toy", "depth": 2, "width": 8, "weights": str(weights)}
        localizer = LocalizerConfig.model_validate_json(
            json.dumps({"network": settings, "head": {"level": level}})
        )
        model = build_localizer(localizer, classes=2)
        notes = LOCALIZATION.load_pretrained(Loaded(model, localizer, ("a", "b")))
        assert notes[0].endswith("fc and mix left out" if level == "conv4" else "fc left out")
        assert torch.equal(model.trunk.get_parameter("patches.0.weight"), state["patches.0.weight"])


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("level", "stride"), [("conv4", 8), ("conv5", 16)])
def test_a_localizer_on_a_new_family(level: str, stride: int) -> None:
    network = {"family": "toy", "depth": 2, "width": 4}
    head = {"level": level, "anchor_sizes": [16.0]}
    config = LocalizerConfig.model_validate_json(json.dumps({"network": network, "head": head}))
    model = build_localizer(config, classes=2)
    assert model.anchors.stride == stride
    scores, boxes = model.score(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.tensor([0, 1]))
    cells = (64 // stride) ** 2 * 3
    assert (scores.shape, boxes.shape) == ((2, cells), (2, cells, 4))


def test_running_on_the_map_is_optional() -> None:
    assert not isinstance(Toy(2).tail(stride=1)[0], RunsOnMap)
    assert isinstance(ResNet(18, width=4).tail(stride=1)[0], RunsOnMap)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("schema", "values", "reason"),
    [
        (DetectorConfig, {"backbone": {"family": "tow"}}, "must be 'resnet' or 'toy' (got 'tow')"),
        (DetectorConfig, {"backbone": {"family": "toy"}}, "must be 2 for family toy (got 101)"),
        (
            DetectorConfig,
            {"backbone": {"family": "toy", "depth": 2}},
            "backbone.frozen_stages: must be less than or equal to 1 (got 2)",
        ),
        (LocalizerConfig, {"network": {"family": "cifar"}}, "must be 'resnet' or 'toy'"),
        (ClassifierConfig, {"network": {"family": "x"}}, "must be 'resnet', 'cifar' or 'toy'"),
    ],
)
def test_errors_name_what_is_known(schema: type, values: dict, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_dict(schema, values, "a.yaml")
    assert reason in str(caught.value)
