"""Checkpoints go to the Hugging Face Hub and come back, through its library and a small Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch
from resdet.detection.engine.checkpoint import load_checkpoint, write_portable
from resdet.detection.errors import ConfigError, WeightsError
from resdet.detection.predictor import load
from resdet.detection.tasks.hub import pulled
from resdet.tests.hub_server import TOKEN, HubServer

if TYPE_CHECKING:
    from resdet.tests.conftest import Command


@pytest.fixture
def hub() -> Iterator[HubServer]:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    with HubServer() as server:
        yield server


def test_a_checkpoint_comes_back(
    resdet: Command, hub: HubServer, tiny_run: Path, scenes: Path, tmp_path: Path
) -> None:
    env = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": TOKEN}
    env |= {"HF_HUB_DISABLE_XET": "1"}  # the plain protocol of Git LFS
    report = tmp_path / "eval"
    report.mkdir()
    metrics = {"metrics": {"voc_ap50": 0.25, "coco_ap_large": None}, "images": 6}
    (report / "metrics.json").write_text(json.dumps(metrics))
    weights = shutil.copy(tiny_run / "weights" / "best.pt", tmp_path)
    words = ("push", "--weights", weights, "--license", "mit", "--report", report)
    done = resdet(*words, "me/tiny", env=env)
    assert done.code == 0, done.err
    assert done.out.startswith(f"uploaded: {hub.address}/me/tiny\nnext: resdet infer --weights hf:")
    card = hub.files["me/tiny"]["README.md"].decode()
    assert card.startswith("---\nlicense: mit\nlibrary_name: resdet\n")
    for part in ("pipeline_tag: object-detection", "of 6 classes (circle, cross,", "hf://me/tiny"):
        assert part in card
    assert "on 6 images" in card and "| voc_ap50 | 0.25 |" in card and "large" not in card
    assert str(scenes.parent).encode() not in hub.files["me/tiny"]["model.safetensors"]

    image, found = next((scenes / "JPEGImages").iterdir()), []
    for place in (weights, "hf://me/tiny", "hf://me/tiny@main"):
        out = tmp_path / f"out{len(found)}"
        done = resdet("infer", "--weights", place, image, "--out", out, "--conf", "0", env=env)
        assert done.code == 0, done.err
        found.append((out / "detections.jsonl").read_text())
    assert found[0] == found[1] == found[2] and '"label"' in found[0]
    done = resdet("infer", "--weights", "hf://me/no", image, "--out", tmp_path / "no", env=env)
    assert done.code == 3 and done.err.startswith("error: hf://me/no: not downloaded: ")
    done = resdet(*words, "me/other", env=env | {"HF_TOKEN": "hf_wrong"})
    assert done.code == 3 and done.err.startswith("error: hf://me/other: not uploaded: ")
    assert "Invalid" in done.err and "me/other" not in hub.files


def test_a_portable_checkpoint_is_the_same_network(tiny_run: Path, tmp_path: Path) -> None:
    """The moving average, without the optimizer, and with no path of the config."""
    state = load_checkpoint(tiny_run / "weights" / "last.pt")
    path = tmp_path / "model.safetensors"
    write_portable(path, state)
    read = load_checkpoint(path)
    assert read["classes"] == state["classes"] and "optimizer" not in read
    assert read["model"].keys() == state["average"].keys()
    assert all(torch.equal(read["model"][name], state["average"][name]) for name in read["model"])
    assert read["config"]["data"]["train"] == [] and read["config"]["rpn"] == state["config"]["rpn"]
    assert load(path).classes == load(tiny_run / "weights" / "last.pt").classes


@pytest.mark.parametrize("header", ["{", "[1]", '{"format_version": 1}', '{"a": 1e999}'])
def test_a_damaged_header_is_refused(header: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.ones(1)}, {"resdet_checkpoint": header}))
    with pytest.raises(WeightsError, match=r"a\.safetensors: "):
        load_checkpoint(path)


def test_addresses_of_the_hub(tmp_path: Path) -> None:
    for path in ("best.pt", "hf/a/b", "hf:x", str(tmp_path)):
        assert pulled(path) == Path(path)
    if find_spec("huggingface_hub") is None:
        with pytest.raises(ConfigError, match=r"pip install 'resdet\[hub\]'"):
            pulled(Path("hf://me/tiny"))
