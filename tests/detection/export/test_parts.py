"""A detector cut at its crops: every option of testing works around its graphs."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from resdet.detection.errors import ConfigError, WeightsError
from resdet.detection.export.folder import HEAD, MAP
from resdet.detection.export.parts import CROPS, head_inputs, part_graphs
from resdet.detection.export.verify import compare, draw_shapes
from resdet.detection.predictor import load
from resdet.detection.structures import Batch, Detections
from resdet.detection.tasks.exporting import export
from resdet.tests.detection.export.rehash import rehash
from resdet.tests.detection.export.untrained import build_bottlenecks, write
from resdet.tools.cli import main
from safetensors.torch import load_file, save_file


def expect_same(found: Detections, wanted: Detections) -> None:
    total, lost, distance, apart = compare(found, wanted)
    assert total > 0 and lost == 0
    assert distance < 0.01 and apart < 1e-4


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["test.flip=true", "test.refine.rounds=1", "test.suppress.method=soft_nms"],
        ["test.scales=[64,96]", "test.vote.iou=0.5", "test.nms_iou=0.4"],
        ["test.pyramid=[64,96]", "test.suppress.method=wbf"],
        ["image.short_side_test=64", "rpn.post_nms_test=7", "test.max_detections=5"],
    ],
)
def test_all_options_of_testing(learned_run: Path, parts: Path, settings: list[str]) -> None:
    image = draw_shapes((90, 130), 2)
    weights = learned_run / "weights" / "best.pt"
    wanted, found = (
        load(path, overrides=settings, score_threshold=0.02)(image) for path in (weights, parts)
    )
    assert found.names == wanted.names
    expect_same(*(Detections(each.boxes, each.scores, each.labels) for each in (found, wanted)))


def test_an_ensemble_with_a_checkpoint(learned_run: Path, parts: Path, exported: Path) -> None:
    image = draw_shapes((90, 130), 3)
    weights = learned_run / "weights" / "best.pt"
    wanted, found = (load([weights, path])(image) for path in (weights, parts))
    assert len(wanted) == len(found)
    assert torch.allclose(found.scores, wanted.scores, atol=1e-4)
    with pytest.raises(ConfigError, match="export with --graphs two"):
        load([weights, exported])


@pytest.mark.parametrize("regions", [1, 30])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"backbone": {"stride_in": "1x1"}},
        {"backbone": {"norm": "group"}},
        {"roi": {"pool": "pool"}},
    ],
    ids=str,
)
def test_the_first_convolutions_of_conv5_are_those_of_the_map(
    settings: dict[str, Any], regions: int
) -> None:
    _, model = build_bottlenecks(**settings)
    graphs = part_graphs(model)
    features = torch.randn(1, graphs[MAP].examples["features"].shape[1], 5, 7)
    corners = torch.rand(regions, 2) * 50
    boxes = [torch.cat([corners, corners + torch.rand(regions, 2) * 60 + 2], dim=1)]
    with torch.no_grad():
        inputs = head_inputs(model, features, boxes)
        found = graphs[HEAD].module(*inputs)
        wanted = model.roi_head.roi_features(features, boxes, [(80, 112)])
    assert [each.shape[3] for each in inputs] == [64, 256]
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_bottlenecks(bottlenecks: tuple[Path, Path]) -> None:
    weights, folder = bottlenecks
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["settings"]["steps"] == {"residual": 1, "shortcut": 2}
    assert "map.onnx" in meta["sha256"] and meta["outputs"]["map.onnx"].keys() == {*CROPS}
    for image in (draw_shapes((90, 130), 1), draw_shapes((64, 64), 2)):
        wanted, found = (load(path)(image) for path in (weights, folder))
        expect_same(*(Detections(each.boxes, each.scores, each.labels) for each in (found, wanted)))
    (folder / "map.onnx").rename(folder / "other")
    try:
        with pytest.raises(WeightsError, match=r"map\.onnx: cannot be read: No such file"):
            load(folder)
    finally:
        (folder / "other").rename(folder / "map.onnx")


def test_a_padded_batch(learned_run: Path, parts: Path) -> None:
    """As the checkpoint predicts it: the padding is zero after the normalisation."""
    model, exported = (load(path) for path in (learned_run / "weights" / "best.pt", parts))
    samples = [model.pipeline.sample(draw_shapes(size, 4)) for size in ((90, 130), (130, 90))]
    batch = Batch.collate(samples)
    assert len(set(batch.sizes)) == 2
    pairs = zip(exported.pipeline.predict(batch), model.pipeline.predict(batch), strict=True)
    for found, wanted in pairs:
        expect_same(found, wanted)


def test_copies_and_the_description(parts: Path) -> None:
    model, image = load(parts), draw_shapes((80, 100), 3)
    wanted = model(image)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert torch.equal(other(image).boxes, wanted.boxes)
    meta = json.loads((parts / "meta.json").read_text())
    assert meta["graphs"] == "two"
    files = {path.name for path in parts.iterdir()}
    others = {"meta.json", "runner.py", "runner_parts.py"}
    assert set(meta["sha256"]) == files - others and len(files) == 7
    assert all(row["box_error"] < 0.01 for row in meta["verification"])
    assert meta["settings"]["stride"] == 16 and len(meta["settings"]["anchors"]) == 9


def test_damaged_sibling_layers(parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts, tmp_path / "other")
    for content in (b"", (parts / "siblings.safetensors").read_bytes()[:-1]):
        (tmp_path / "other" / "siblings.safetensors").write_bytes(content)
        rehash(tmp_path / "other")
        with pytest.raises(WeightsError, match=r"siblings\.safetensors: not the sibling layers"):
            load(tmp_path / "other")
    (tmp_path / "other" / "siblings.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"siblings\.safetensors: cannot be read: No such file"):
        load(tmp_path / "other")


def test_sibling_layers_of_other_classes(parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts, tmp_path / "other")
    path = tmp_path / "other" / "siblings.safetensors"
    tensors = load_file(path)
    name = "cls_logits.weight"
    save_file({**tensors, name: torch.cat([tensors[name]] * 2)}, path)
    rehash(path.parent)
    with pytest.raises(WeightsError, match=r"cls_logits has the shape .* of other classes"):
        load(tmp_path / "other")


def test_infer_takes_the_folder(parts: Path, scenes: Path, tmp_path: Path) -> None:
    image = next((scenes / "JPEGImages").iterdir())
    words = ["infer", "--weights", str(parts), str(image), "--conf", "0.01", "--tile", "64"]
    assert main([*words, "--out", str(tmp_path / "found")]) == 0
    assert json.loads((tmp_path / "found" / "detections.jsonl").read_text())["detections"]


def test_only_detectors_have_crops(tmp_path: Path) -> None:
    weights = write("classification", tmp_path / "best.pt")
    with pytest.raises(ConfigError, match="two: a cut at the crops of a detector, not"):
        export([weights], tmp_path / "out", graphs="two")
