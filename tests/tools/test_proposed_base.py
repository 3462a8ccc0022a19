"""The shipped config that a proposed one builds on, by the sizes of images and objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from resdet.datasets.checks.scales import measure_scales
from resdet.datasets.record_columns import Records
from resdet.detection.config.data_rules import anchors_in_training
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import read_config
from resdet.detection.structures import Annotation, Record
from resdet.tools.cli import main
from resdet.tools.proposed_base import _BATCH, _MEASURED, DETECTORS, propose_detector


def _folder(root: Path, size: tuple[int, int], sides: dict[str, int], images: int = 8) -> Path:
    """YOLO images (w, h) with one square object of each class, ``sides`` px wide."""
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in sides))
    for number in range(images):
        Image.new("RGB", size, (number, 9, 9)).save(root / f"images/{number}.png")
        lines = [
            f"{label} 0.5 0.5 {side / size[0]} {side / size[1]}\n"
            for label, side in enumerate(sides.values())
        ]
        (root / f"labels/{number}.txt").write_text("".join(lines))
    return root


@pytest.mark.parametrize(
    ("size", "sides", "base", "said"),
    [
        # 320 px, large objects; photos of 2000 px with as large a share: also shown in 320 px.
        ((427, 320), {"card": 110}, "cards_r18.yaml", "yours have 320 px (median)"),
        ((2000, 1500), {"card": 600}, "cards_r18.yaml", "yours have 1500 px (median)"),
        # At 320 px the one class would have 27 px, whatever the other has.
        ((640, 480), {"cell": 100, "platelet": 40}, "bccd_r18.yaml", "Not cards_r18.yaml. At 320"),
        # Small everywhere: the larger one, and what helps.
        ((2000, 1500), {"bird": 40}, "bccd_r18.yaml", "Larger images show more of them"),
    ],
)
def test_the_base_fits_the_objects(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    size: tuple[int, int],
    sides: dict[str, int],
    base: str,
    said: str,
) -> None:
    root, path = _folder(tmp_path / "in", size, sides), tmp_path / "mine.yaml"
    assert main(["check-data", str(root), "--quick", "--write-config", str(path)]) == 0
    printed, text = capsys.readouterr().out, path.read_text()
    assert yaml.safe_load(text)["base"] == base
    assert f"with base: {base}" in printed and said in printed
    unfolded = text.replace("\n# ", " ")
    assert said in unfolded  # the config keeps its reasons
    assert main(["train-det", "--cfg", str(path), "--dry-run"]) == 0


def test_anchors_are_written_where_those_of_the_base_do_not_fit(tmp_path: Path) -> None:
    root, path = _folder(tmp_path / "in", (320, 320), {"a": 45, "b": 33}), tmp_path / "mine.yaml"
    assert main(["check-data", str(root), "--quick", "--write-config", str(path)]) == 0
    written = yaml.safe_load(path.read_text())
    assert written["base"] == "cards_r18.yaml"
    assert min(written["rpn"]["anchor_sizes"]) < 64
    reasons = path.read_text().replace("\n# ", " ")
    assert "100.0% have no anchor that fits, with rpn.anchor_sizes here 0.0%" in reasons


def test_steps_follow_the_number_of_images() -> None:
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    record = Record(
        "1",
        Path("1.png"),
        (320, 427),
        Annotation(boxes, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)),
    )
    scales = measure_scales(Records.of([record]), ("card",), DETECTORS)
    few, own, many = (propose_detector(scales, count, 1.0) for count in (28, 296, 5000))
    assert [each.changes["train"]["epochs"] for each in (few, own, many)] == [100, 10, 10]
    assert "about 1480 steps; its own 1400 took 12 minutes" in own.comment
    assert "voc_r101.yaml" in many.comment and "voc_r101.yaml" not in own.comment
    held_out = propose_detector(scales, 296, 0.8)
    assert "about 1185 steps" in held_out.comment
    assert propose_detector(None, 10, 1.0).base == "bccd_r18.yaml"  # no object to go by


def test_what_is_stated_of_the_bases_is_theirs() -> None:
    for name, anchors in DETECTORS.items():
        config = read_config(DetectorConfig, name, ["data.root=x"])
        assert anchors_in_training(config) == anchors
        epochs, seen, took = _MEASURED[name]
        assert config.train.batch_size == _BATCH
        assert seen == config.train.iterations * _BATCH
        assert took.startswith(f"{config.train.iterations} took ")
        assert took.split()[2] in (Path(__file__).parents[2] / "README.md").read_text()
        assert np.isclose(
            epochs, seen / {"cards_r18.yaml": 296, "bccd_r18.yaml": 205}[name], rtol=0.1
        )
    assert [each.short_side for each in DETECTORS.values()] == [320, 480]
