"""Checkpoints of version 0.1.0, from before tasks had one interface: they load, predict the numbers
they predicted then, and training resumes from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import resdet
import torch
from resdet.detection.errors import ConfigError
from resdet.detection.tasks.checkpoints import read_checkpoint
from resdet.detection.tasks.classifier import CLASSIFICATION
from resdet.detection.tasks.registry import TASKS

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

OLD = Path(__file__).parent / "old_checkpoints"
CLASSIFIER = f"test.classifiers=[{OLD / 'classifier.pt'}]"
OVERRIDES = {
    "detector": [],
    "localizer": [CLASSIFIER],
    "region_localizer": [CLASSIFIER, f"proposals.weights=[{OLD / 'localizer.pt'}]"],
}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((OLD / "expected.json").read_text())
    return content


def noise() -> np.ndarray:
    image = np.random.default_rng(7).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    image[20:50, 30:70] = (20, 40, 230)
    return image


def test_every_task_has_one() -> None:
    found = {read_checkpoint(path, *TASKS.values()).task.name for path in OLD.glob("*.pt")}
    assert found == set(TASKS)


@pytest.mark.parametrize("name", OVERRIDES)
def test_predictions_are_those_of_then(name: str, expected: dict[str, Any]) -> None:
    (found,) = resdet.load(OLD / f"{name}.pt", "cpu", OVERRIDES[name]).predict([noise()])
    wanted = expected[name]
    assert len(found) == wanted.get("count", len(wanted["scores"])) > 0
    count = len(wanted["scores"])
    assert found.labels[:count].tolist() == wanted["labels"]
    torch.testing.assert_close(found.scores[:count], torch.tensor(wanted["scores"]))
    torch.testing.assert_close(
        found.boxes[:count], torch.tensor(wanted["boxes"]), rtol=1e-4, atol=1e-3
    )


def test_settings_that_new_configs_may_not_have(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    state = torch.load(OLD / "detector.pt", weights_only=True)
    state["config"]["image"] |= {"short_side_test": 90, "long_side_max": 80}
    state["config"]["image"]["short_side_train"] = [24]
    torch.save(state, path)
    model = resdet.load(path, "cpu", ["test.score_threshold=0.0"])
    assert len(model.predict([noise()])[0])
    with pytest.raises(ConfigError, match=r"^override .*: image.short_side_test: 100 is above"):
        resdet.load(path, "cpu", ["image.short_side_test=100"])
    resdet.load(path, "cpu", ["image.short_side_test=80"])  # its advice


def test_logits_are_those_of_then(expected: dict[str, Any]) -> None:
    classifier = read_checkpoint(OLD / "classifier.pt", CLASSIFICATION).load()
    crop = torch.from_numpy(noise()[8:72, 16:80].copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = classifier.model.logits(crop)
    torch.testing.assert_close(logits[0], torch.tensor(expected["classifier"]["logits"]))


def test_an_old_run_is_resumed(resdet: Command, scenes: Path, tmp_path: Path) -> None:
    weights = tmp_path / "run" / "weights"
    weights.mkdir(parents=True)
    shutil.copy(OLD / "detector.pt", weights / "last.pt")
    sources = [
        f"data.{part}=[{{format: voc, root: {scenes}, split: {part}}}]" for part in ("train", "val")
    ]
    done = resdet("train-det", "--resume", tmp_path / "run", "train.iterations=6", *sources)
    assert done.code == 0, done.err
    assert "done: 6 steps" in done.out
