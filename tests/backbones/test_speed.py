"""The measured speed of convolutions, and what inference makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from resdet.backbones import speed
from resdet.backbones.speed import LayerSpeed, keep, least_channels, winograd_channels
from resdet.backbones.winograd import Convolution
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.detection.predictor import load
from resdet.tools.cli import main


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "resdet" / "speed.json"


def layer(channels: int, gain: float | None) -> LayerSpeed:
    seconds = None if gain is None else 1 / gain
    return LayerSpeed((1, channels, channels, 3 if gain else 1, 1, 1), 1.0, 1.0, seconds)


@pytest.mark.parametrize(
    ("gains", "least"),
    [
        ({128: 0.6, 256: 1.7, 512: 2.3}, 256),
        ({128: 1.2, 256: 1.7, 512: 2.3}, 128),
        ({128: 1.5, 256: 0.9, 512: 2.3}, 512),
        ({128: 1.5, 256: 1.5, 512: 1.05}, None),
        ({64: None, 512: 1.2}, 512),
    ],
)
def test_from_how_many_channels_it_pays(gains: dict[int, float | None], least: int | None) -> None:
    assert least_channels([layer(*each) for each in gains.items()]) == least


def test_all_layers_of_a_number_of_channels_must_gain() -> None:
    whole = [layer(512, 2.3), layer(512, 0.9), layer(1024, 3.0)]
    assert least_channels(whole) == least_channels(whole[::-1]) == 1024
    assert least_channels(whole[:2]) is None


def test_the_answer_is_that_of_this_machine(cache: Path) -> None:
    assert winograd_channels() is None
    keep(256)
    assert winograd_channels() == 256
    kept = json.loads(cache.read_text())
    for name in ("processor", "threads", "torch"):
        cache.write_text(json.dumps(kept | {name: "another"}))
        assert winograd_channels() is None
    for text in ("[]", "{", json.dumps(kept | {"winograd_channels": None})):
        cache.write_text(text)
        assert winograd_channels() is None


def test_doctor_measures_and_keeps_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "LAYERS", ((1, 8, 8, 1, 16, 16), (2, 8, 8, 3, 16, 16)))
    assert main(["doctor", "--speed"]) == 0
    told = capsys.readouterr().out
    assert "3x3, 8 to 8" in told and "of peak" in told and str(cache) in told.replace("\n", "")
    assert json.loads(cache.read_text())["winograd_channels"] in (8, None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert main(["doctor", "--speed"]) == 2
    assert str(cache) in capsys.readouterr().err


def test_a_loaded_detector_uses_it(tiny_run: Path, scenes: Path) -> None:
    image = next((scenes / "JPEGImages").iterdir())
    direct = load(tiny_run, "cpu", score_threshold=0)(image)
    keep(8)
    model = load(tiny_run, "cpu", score_threshold=0)
    (rpn,) = [
        each
        for each in model.pipeline.modules()
        if getattr(each, "in_channels", 0) == 32
        and isinstance(each, Convolution)
        and each.out_channels == 16
    ]
    assert rpn.by_winograd
    torch.testing.assert_close(model(image).boxes, direct.boxes, rtol=1e-3, atol=1e-2)


def test_a_training_uses_it_and_goes_on_with_it(
    tiny_config: Path, cache: Path, tmp_path: Path
) -> None:
    def losses(name: str, *words: str) -> list[float]:
        told = ["--out", str(tmp_path / name), "train.iterations=2", "train.eval_every=2"]
        told += ["train.log_every=1", "train.ema_decay=0.5", *words]
        assert main(["train-det", "--cfg", str(tiny_config), *told]) == 0
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        entries = [json.loads(each) for each in lines]
        return [each["loss"] for each in entries if each["kind"] == "train"]

    direct = losses("direct")
    assert "`resdet doctor --speed` finds out" in (tmp_path / "direct" / "train.log").read_text()
    keep(8)
    found = losses("run")
    assert found != direct and found == pytest.approx(direct, rel=1e-3)
    losses("half", "train.precision=bf16")
    state = load_checkpoint(tmp_path / "run" / "weights" / "last.pt")
    assert state["winograd_channels"] == 8
    cache.unlink()
    assert main(["train-det", "--resume", str(tmp_path / "run"), "train.iterations=3"]) == 0
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("3x3 convolutions: Winograd's method from 8 channels on") == 2
    for name in ("direct", "half"):
        assert "3x3 convolutions:" not in (tmp_path / name / "train.log").read_text()
