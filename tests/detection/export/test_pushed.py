"""Exported models go to the Hugging Face Hub and come back, through its library and a small Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import resdet as package
from resdet.detection.export.folder import files_of
from resdet.tests.detection.tasks.test_hub import environment
from resdet.tests.hub_server import HubServer

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


def test_an_export_comes_back(
    resdet: Command, parts: Path, learned_run: Path, scenes: Path, tmp_path: Path
) -> None:
    """One in two graphs, which has most files."""
    with HubServer() as hub:
        env = environment(hub, tmp_path)
        words = ("push", "me/parts", "--license", "mit", "--weights")
        done = resdet(*words, parts, env=env)
        assert done.code == 0, done.err
        pushed = hub.files["me/parts"]
        assert {"README.md", *(each.name for each in parts.iterdir())} == set(pushed)
        card = pushed["README.md"].decode()
        assert 'pip install "resdet[hub,onnx]"' in card and "for onnxruntime" in card
        for place in (learned_run, scenes, Path(package.__file__).parent):
            assert [name for name, each in pushed.items() if str(place).encode() in each] == []

        image, found = next((scenes / "JPEGImages").iterdir()), []
        for place in (parts, "hf://me/parts"):
            out = tmp_path / f"out{len(found)}"
            done = resdet("infer", "--weights", place, image, "--out", out, "--conf", "0", env=env)
            assert done.code == 0, done.err
            found.append((out / "detections.jsonl").read_text())
        assert found[0] == found[1] and '"label"' in found[0]

        refused = resdet(*words, learned_run / "weights" / "best.pt", env=env)
        assert refused.code == 2
        assert "hf://me/parts: holds an export, nothing was uploaded" in refused.err
        hub.files["me/parts"]["model.safetensors"] = b""
        assert "holds a checkpoint, nothing" in resdet(*words, parts, env=env).err
        for files in ({}, {"meta.json": b"{}"}):
            hub.files["me/other"] = files
            done = resdet("infer", "--weights", "hf://me/other", image, env=env)
            assert done.code == 3
            reason = "not the description of" if files else "has neither model.safetensors nor"
            assert reason in done.err


def test_a_description_names_no_other_files() -> None:
    """It is from anybody."""
    names = ["../model.onnx", "/etc/passwd", "run.py", "model.onnx", "head.bin", "head.xml", ""]
    assert files_of({"sha256": dict.fromkeys(names, "")}) == ["head.bin", "head.xml", "model.onnx"]
    assert files_of(json.loads('{"sha256": {}}')) == []
