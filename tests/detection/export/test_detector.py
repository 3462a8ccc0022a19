"""Exported detectors: the same detections as the checkpoint, in every place of a checkpoint."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from resdet.detection.engine.distributed import Group
from resdet.detection.errors import ConfigError, DivergedError, WeightsError
from resdet.detection.evaluation.prediction import Timer
from resdet.detection.export import folder as folders
from resdet.detection.export.graph import DetectorGraph, obstacles
from resdet.detection.export.network import ExportedNetwork, ExportedPipeline
from resdet.detection.export.verify import as_batch, compare, draw_shapes, verify
from resdet.detection.extras import EXTRAS, expect_extra
from resdet.detection.predictor import load
from resdet.detection.structures import Batch, Detections
from resdet.detection.tasks.checkpoints import load_members, read_applicable, read_checkpoint
from resdet.detection.tasks.registry import TASKS
from resdet.tests.detection.export.rehash import rehash
from resdet.tools.cli import main


def best(run: Path) -> Path:
    return run / "weights" / "best.pt"


def evaluated(weights: Path) -> dict[str, float]:
    task = TASKS["detection"]
    members = load_members([read_applicable(weights, task)])
    config = members[0].config
    split = task.read(config, "val", members[0].classes)
    group = Group(0, 1, torch.device("cpu"))
    found = task.predict_split(task.pipeline(members), config, split, group, None, Timer())
    assert found is not None
    return dict(task.evaluate(found, split, config, coco=None).metrics)


# ---------------------------------------------------------------------------------- the export


def test_the_export_has_the_map_of_its_checkpoint(learned_run: Path, exported: Path) -> None:
    wanted, found = evaluated(best(learned_run)), evaluated(exported)
    assert wanted["voc_ap50"] > 0
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-4, nan_ok=True), name


def test_the_description_is_complete(learned_run: Path, exported: Path) -> None:
    meta = json.loads((exported / "meta.json").read_text())
    assert meta["classes"] == list(load(best(learned_run)).classes)
    rows = meta["verification"]
    assert {row["batch"] for row in rows} == {1, 3}
    assert len({tuple(row["size"]) for row in rows}) == 3
    assert "nothing" in {row["content"] for row in rows}
    assert all(row["box_error"] < 0.01 and row["score_error"] < 1e-4 for row in rows)
    assert (meta["input"]["short_side"], meta["input"]["long_side_max"]) == (96, 128)
    assert set(meta["versions"]) == {*EXTRAS["export"], "resdet", "torch", "torchvision"}


def test_the_graph_is_standard_and_of_any_size(exported: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported / "model.onnx")
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions
    sides = model.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in sides] == ["images", 3, "height", "width"]
    assert [value.name for value in model.graph.output] == [
        "image", "boxes", "scores", "labels", "finite",
    ]  # fmt: skip


def test_the_configuration_of_triton(exported: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(exported / "model.onnx").graph
    text = Path(__file__).parents[3].joinpath("docs", "export.md").read_text(encoding="utf-8")
    row = r'name: "(\w+)", data_type: TYPE_(\w+), dims: \[ ([-\d, ]+) \] }'
    names = {"UINT8": "UINT8", "INT64": "INT64", "FP32": "FLOAT", "BOOL": "BOOL"}
    documented = {
        name: (names[kind], list(map(int, sides.split(","))))
        for name, kind, sides in re.findall(row, text)
    }
    found = {}
    for value in (*graph.input, *graph.output):
        tensor = value.type.tensor_type
        sides = [-1 if each.dim_param else each.dim_value for each in tensor.shape.dim]
        # Without batching Triton knows no scalars: one element stands for one.
        found[value.name] = (onnx.TensorProto.DataType.Name(tensor.elem_type), sides or [1])
    assert documented == found


def test_images_of_a_padded_batch_are_predicted_without_their_padding(exported: Path) -> None:
    pipeline = load(exported).pipeline
    images = [as_batch([draw_shapes(size, 7)]) for size in ((70, 90), (50, 96))]
    padded = torch.zeros(2, 3, 70, 96, dtype=torch.uint8)
    for place, image in zip(padded, images, strict=True):
        height, width = image.sizes[0]
        place[:, :height, :width] = image.images[0]
    sizes, geometries = (
        [getattr(image, name)[0] for image in images] for name in ("sizes", "geometries")
    )
    batch = Batch(padded, sizes, [], geometries, ["a", "b"], [0, 0])
    for found, image in zip(pipeline.predict(batch), images, strict=True):
        (alone,) = pipeline.predict(image)
        assert torch.equal(found.boxes, alone.boxes)
        assert torch.equal(found.scores, alone.scores)


def test_a_predictor_of_an_export_is_copied_and_pickled(exported: Path) -> None:
    model = load(exported)
    image = draw_shapes((80, 100), 3)
    wanted = model(image)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert torch.equal(other(image).boxes, wanted.boxes)


def test_a_network_with_nan_is_an_error(exported: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported / "model.onnx")
    weight = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "model.onnx")
    old = load(exported).pipeline
    broken = ExportedPipeline(ExportedNetwork(tmp_path / "model.onnx"), old.transforms[0])
    with pytest.raises(DivergedError, match="not finite"):
        broken.predict(as_batch([draw_shapes((64, 64), 1)]))


def test_another_model_is_not_verified(learned_run: Path, exported: Path) -> None:
    other = load(best(learned_run), overrides=["test.nms_iou=0.1"]).pipeline
    with pytest.raises(WeightsError, match=r"differs from the checkpoint.*nothing was written"):
        verify(load(exported).pipeline, other)


# ------------------------------------------------------------------------- in place of weights


@pytest.mark.parametrize("setting", ["test.nms_iou=0.3", "image.short_side_test=64"])
def test_settings_inside_the_graph_cannot_change(exported: Path, setting: str) -> None:
    name, _, value = setting.partition("=")
    with pytest.raises(ConfigError, match=rf"{name} is .* cannot become {value}: export"):
        load(exported, overrides=[setting])


def test_an_export_is_no_member_and_no_start(learned_run: Path, exported: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be part of an ensemble"):
        load([exported, best(learned_run)])
    with pytest.raises(WeightsError, match="no weights to start from"):
        read_checkpoint(exported, *TASKS.values())


def test_infer_and_eval_take_it(exported: Path, scenes: Path, tmp_path: Path, resdet) -> None:
    out = tmp_path / "found"
    image = next((scenes / "JPEGImages").iterdir())
    done = resdet("infer", "--weights", exported, "--out", out, image)
    assert done.code == 0, done.err
    assert "exported, in onnxruntime" in done.out
    done = resdet("eval", "--weights", exported, "--dry-run")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("[]", "not the description of an exported model"),
        ('{"format": "resdet export", "format_version": 9}', "export the checkpoint again"),
        ('{"format": "resdet export", "format_version": 2, "task": 1}', "damaged"),
    ],
)
def test_a_damaged_description(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "meta.json").write_text(content)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match=message):
        load(tmp_path)


def test_a_folder_without_its_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = {"format": "resdet export", "format_version": 2, "task": "detection", "config": {}}
    meta |= {"classes": ["a"], "versions": {}, "sha256": {"model.onnx": "0"}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    lacking = f"{tmp_path}: an export without its graph file (.onnx or .xml); copy the whole folder"
    with pytest.raises(WeightsError, match=re.escape(lacking)):
        load(tmp_path)
    assert main(["eval", "--weights", str(tmp_path)]) == 3
    assert lacking in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"format": "another"}'])
def test_a_folder_with_another_description_is_no_export(content: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(content)
    with pytest.raises(WeightsError, match=r"a folder without weights/best\.pt"):
        load(tmp_path)


def test_a_damaged_graph_and_another_version(exported: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(exported, other)
    meta = json.loads((other / "meta.json").read_text())
    (other / "model.onnx").write_bytes(b"no graph")
    rehash(other, versions=meta["versions"] | {"onnxruntime": "1.0"})
    with (
        pytest.warns(UserWarning, match=r"verified with onnxruntime 1\.0, here is"),
        pytest.raises(WeightsError, match=r"model\.onnx: onnxruntime cannot read it"),
    ):
        load(other)


@pytest.mark.parametrize("form", ["exported", "parts"])
def test_files_of_another_export(form: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source = request.getfixturevalue(form)
    names = sorted(json.loads((source / "meta.json").read_text())["sha256"])
    for name in names:
        folder = tmp_path / name
        shutil.copytree(source, folder)
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        with pytest.raises(WeightsError, match=rf"{name}: not the file that .* copy the whole"):
            load(folder)


def test_a_graph_that_the_description_does_not_know(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "other")
    meta = json.loads((tmp_path / "other" / "meta.json").read_text())
    meta["sha256"] = {}
    (tmp_path / "other" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(WeightsError, match=r"model\.onnx: not the file that was exported"):
        load(tmp_path / "other")


# ----------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("test.flip=true", "flipped image: test.flip=false"),
        ("test.scales=[64,96]", "several scales"),
        ("test.pyramid=[64,96]", "feature pyramid"),
        ("test.refine.rounds=1", "refinement"),
        ("test.vote.iou=0.5", "box voting"),
        ("test.suppress.method=soft_nms", "soft_nms: test.suppress.method=nms"),
    ],
)
def test_what_one_graph_cannot_hold(learned_run: Path, setting: str, reason: str) -> None:
    pipeline = load(best(learned_run), overrides=[setting]).pipeline
    assert [reason in found for found in obstacles(pipeline)] == [True]
    with pytest.raises(ConfigError, match="one ONNX graph cannot hold"):
        DetectorGraph(pipeline)


def test_ensembles_are_refused(learned_run: Path) -> None:
    assert "ensemble" in obstacles(load([best(learned_run)] * 2).pipeline)[0]


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "onnx", ("no_such_package",))
    with pytest.raises(ConfigError, match=r"pip install 'resdet\[onnx\]'"):
        expect_extra("onnx")


def test_after_an_error_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError), folders.new_folder(tmp_path / "out") as part:
        (part / "model.onnx").write_bytes(b"half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with (
        pytest.raises(ConfigError, match="already exists"),
        folders.new_folder(tmp_path / "out"),
    ):
        raise AssertionError


# ---------------------------------------------------------------- the graph's module, in torch


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["roi.class_agnostic_boxes=true", "test.suppress.class_agnostic=true"],
        ["roi.context=true", "backbone.pixels=caffe", "rpn.min_size=8"],
        ["data.classes=[circle]", "roi.sampling_ratio=0", "test.score_threshold=0.4"],
        ["test.max_detections=3", "rpn.post_nms_test=1"],
    ],
)
def test_the_module_predicts_as_the_pipeline(tiny_config: Path, settings: list[str]) -> None:
    from resdet.detection.config.files import load_config
    from resdet.detection.tasks.base import Loaded

    config = load_config(tiny_config, settings)
    classes = tuple(config.data.classes or ())
    task = TASKS["detection"]
    torch.manual_seed(0)
    model = task.build(config, len(classes)).eval()
    torch.nn.init.normal_(model.roi_head.cls_logits.weight, std=0.5)
    torch.nn.init.normal_(model.roi_head.box_deltas.weight, std=0.1)
    torch.nn.init.normal_(model.rpn_head.logits.weight, std=0.5)
    pipeline = task.pipeline([Loaded(model, config, classes)])
    graph = DetectorGraph(pipeline)
    images = as_batch([draw_shapes((80, 112), seed) for seed in range(3)])
    with torch.no_grad():
        image, boxes, scores, labels, finite = graph(images.images)
    assert finite
    for index, wanted in enumerate(pipeline.predict(images)):
        own = image == index
        found = Detections(boxes[own], scores[own], labels[own])
        total, lost, far, apart = compare(found, wanted)
        assert lost == 0 and total == len(wanted), (total, lost)
        assert far < 0.01 and apart < 1e-4
        assert (found.scores.diff() <= 0).all()
