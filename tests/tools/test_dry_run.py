"""``--dry-run`` refuses what the run refuses, with the same words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from resdet.tests.conftest import Command


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose network ends with a map of one cell."""
    root = tmp_path_factory.mktemp("classes")
    for part in ("train", "val"):
        for label in range(2):
            for index in range(2):
                path = root / part / f"class{label}" / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (90 * label, 60 * index, 50)).save(path)
    (root / "c.yaml").write_text(
        "task: classification\n"
        "data: {source: {format: image_folder, root: .}, workers: 0}\n"
        "crop: {size: 32, kind: padded}\n"
        "network: {family: resnet, depth: 18, width: 4, norm: batch}\n"
        "train: {iterations: 1, batch_size: 2, base_batch_size: 2, lr: 0.01}\n"
        "test: {resize: 32, size: 32}\n"
    )
    return root / "c.yaml"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (("train.batch_size=1",), "train.batch_size=1"),
        (("train.accumulate=2",), "train.accumulate=2"),
        (("train.accumulate=4",), "batch_size 2 cannot be divided"),
        (("crop.size=60", "crop.kind=paper", "crop.short_sides=[40, 50]"), "crop"),
        (("train.batch_size=1", "network.norm=group"), "single value"),
        (("train.batch_size=1", "network.norm=frozen"), ""),
        (("train.batch_size=1", "crop.size=64"), ""),
        (("train.batch_size=1", "train.schedule=step"), "train.batch_size=1"),
    ],
)
def test_both_refuse_or_neither(
    resdet: Command, classifier: Path, tmp_path: Path, settings: tuple[str, ...], named: str
) -> None:
    words = ("train-cls", "--cfg", classifier, *settings)
    dry, run = resdet(*words, "--dry-run"), resdet(*words, "--out", tmp_path / "run")
    assert dry.code == run.code == (2 if named else 0), (dry, run)
    if named:
        assert named in dry.err and dry.err == run.err


@pytest.mark.parametrize("setting", ["backbone.depth=34", "backbone.width=16"])
def test_weights_of_another_network_name_the_settings(
    resdet: Command, tiny_config: Path, tiny_run: Path, setting: str
) -> None:
    weights = tiny_run / "weights" / "best.pt"
    words = ("train-det", "--cfg", tiny_config, "--dry-run", f"backbone.weights={weights}")
    assert resdet(*words).code == 0
    refused = resdet(*words, setting)
    name = setting.partition("=")[0]
    right = {"backbone.depth": 18, "backbone.width": 8}[name]
    assert refused.code == 2 and f"{name} is {setting.partition('=')[2]}, not" in refused.err
    assert f"set {name}={right}" in refused.err
