"""Exported classifiers and localizers: the same results as the checkpoint, in its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from resdet.detection.config.files import check_dict
from resdet.detection.errors import ConfigError, DivergedError, WeightsError
from resdet.detection.export.classifier import ClassifierGraph
from resdet.detection.export.folder import FORMATS
from resdet.detection.export.localizer import ExportedLocalizer
from resdet.detection.export.network import ExportedNetwork
from resdet.detection.export.verify import agreement, draw_shapes
from resdet.detection.predictor import load
from resdet.detection.tasks.base import ALONE
from resdet.detection.tasks.checkpoints import load_members, read_applicable
from resdet.detection.tasks.exporting import export
from resdet.detection.tasks.registry import TASKS
from resdet.tests.detection.export.rehash import converted
from resdet.tests.detection.export.untrained import CLASSES, CONFIGS, write
from resdet.tests.tools.test_train_loc import make_squares


@pytest.mark.parametrize(
    "settings",
    [[], ["test.protocol=ten_crop"], ["test.protocol=multi_scale", "test.flip=true"]],
)
def test_a_classifier_under_every_protocol(
    files: dict[str, tuple[Path, Path]], settings: list[str]
) -> None:
    image = draw_shapes((90, 130), 4)
    wanted, found = (load(path, overrides=settings)(image) for path in files["classification"])
    assert wanted.scores.max() > wanted.scores.min() + 0.05
    assert found.names == wanted.names
    assert torch.allclose(found.scores, wanted.scores, atol=1e-5)


def test_both_stages_of_a_localizer_and_its_classifier(
    files: dict[str, tuple[Path, Path]],
) -> None:
    image = draw_shapes((90, 130), 5)
    found = []
    for place in (0, 1):
        paths = {name: each[place] for name, each in files.items()}
        classifiers = f"test.classifiers=[{paths['classification']}]"
        proposals = f"proposals.weights=[{paths['localization']}]"
        for name, settings in (
            ("localization", [classifiers]),
            ("localization_rcnn", [classifiers, proposals]),
        ):
            found.append(load(paths[name], overrides=settings, score_threshold=0.0)(image))
    for one, wanted in zip(found[2:], found[:2], strict=True):
        assert len(wanted) == 2
        assert one.names == wanted.names
        assert torch.allclose(one.boxes, wanted.boxes, atol=0.01)
        assert torch.allclose(one.scores, wanted.scores, atol=1e-5)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes, each with the box of its object."""
    root = tmp_path_factory.mktemp("data") / "squares"
    make_squares(root)
    return root


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", CONFIGS)
def test_eval_tells_what_it_tells_of_the_checkpoint(
    name: str,
    form: str,
    squares: Path,
    files: dict[str, tuple[Path, Path]],
    tmp_path: Path,
) -> None:
    weights, out = files[name]
    if form == "openvino":
        out = converted(out, tmp_path / "openvino")
    data = [f"data.source={{format: ilsvrc, root: {squares}}}", "data.workers=0"]
    if name != "classification":  # without, only boxes of true classes are judged
        data.append(f"test.classifiers=[{files['classification'][0]}]")
    if name == "localization_rcnn":
        data.append(f"proposals.weights=[{files['localization'][0]}]")
    wanted, found = (evaluated(name, path, data) for path in (weights, out))
    assert len(wanted) > 1 and found.keys() == wanted.keys()
    for metric, value in wanted.items():
        assert found[metric] == pytest.approx(value, abs=1e-4, nan_ok=True), metric


def evaluated(name: str, path: Path, overrides: list[str]) -> dict[str, float]:
    task = TASKS[name]
    members = load_members([read_applicable(path, task)], overrides=overrides)
    config = members[0].config
    split = task.read(config, "val", members[0].classes)
    found = task.predict_split(task.pipeline(members), config, split, ALONE)
    return dict(task.evaluate(found, split, config).metrics)


def test_the_descriptions(files: dict[str, tuple[Path, Path]]) -> None:
    metas = {name: json.loads((out / "meta.json").read_text()) for name, (_, out) in files.items()}
    for name, meta in metas.items():
        assert meta["task"] == name and meta["classes"] == CLASSES
        rows = meta["verification"]
        assert all(row["lost"] == 0 and row["score_error"] < 1e-4 for row in rows)
        assert {"shapes", "nothing"} == {row["content"] for row in rows}
    assert {row["batch"] for row in metas["classification"]["verification"]} == {1, 3}
    assert (metas["classification"]["input"]["short_side"], 64) == (72, 64)
    assert metas["localization_rcnn"]["input"]["padding"] == 8


def test_an_ensemble_with_a_checkpoint_and_another_order(
    files: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    weights, out = files["classification"]
    image = draw_shapes((80, 80), 6)
    wanted = load(weights)(image)
    joined = load([weights, out])(image)
    assert joined.names == wanted.names and torch.allclose(joined.scores, wanted.scores, atol=1e-5)
    other = write("classification", tmp_path / "other.pt", CLASSES[::-1])
    with pytest.raises(ConfigError, match="an exported model keeps its order of classes"):
        load([other, out])
    with pytest.raises(ConfigError, match="exported one by one"):
        export([weights, weights], tmp_path / "two")


def test_damaged_outputs_are_an_error(files: dict[str, tuple[Path, Path]]) -> None:
    onnx = pytest.importorskip("onnx")
    path = files["localization_rcnn"][1] / "model.onnx"
    model = onnx.load(path)
    weight = next(each for each in model.graph.initializer if len(each.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = float("nan")
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, path.with_name("nan.onnx"))
    broken = ExportedLocalizer(ExportedNetwork(path.with_name("nan.onnx")))
    with pytest.raises(DivergedError, match="not finite"):
        broken.score(torch.ones(1, 3, 48, 48, dtype=torch.uint8), torch.zeros(1).long())


@pytest.mark.parametrize("size", [(64, 64), (200, 90), (30, 250)])
def test_dense_logits_as_one_weighted_mean(size: tuple[int, int]) -> None:
    task = TASKS["classification"]
    config = check_dict(task.schema, {"task": task.name, **CONFIGS[task.name]}, "")
    model = task.build(config, len(CLASSES)).eval()
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        logits, dense = ClassifierGraph(model)(images)
        assert torch.allclose(logits, model.logits(images), atol=1e-4)
        assert torch.allclose(dense, model.dense_logits(images), atol=1e-4)


def test_what_counts_as_lost() -> None:
    images, scores, boxes = torch.zeros(1, 3, 8, 9), torch.rand(4), torch.rand(4, 4)
    same = agreement("shapes", images, (scores, scores + 5e-4), (boxes, boxes))
    assert (same.compared, same.lost) == (4, 0) and same.score_error == pytest.approx(
        5e-4, abs=1e-6
    )
    for wrong in (boxes + 0.1, boxes * torch.nan):
        with pytest.raises(WeightsError, match=r"4 of 4 results .*nothing was written"):
            agreement("shapes", images, (scores, scores), (boxes, wrong))


@pytest.mark.parametrize("graphs", ["exported", "parts", "classification", "localization"])
def test_exported_models_are_not_compiled(graphs: str, request: pytest.FixtureRequest) -> None:
    if graphs in CONFIGS:
        path, given = request.getfixturevalue("files")[graphs][1], []
        if graphs == "localization":
            classifier = request.getfixturevalue("files")["classification"][0]
            given = [f"test.classifiers=[{classifier}]"]
    else:
        path, given = request.getfixturevalue(graphs), []
    told = f"compile: {path} is an exported model, whose graph onnxruntime runs"
    with pytest.raises(ConfigError, match=re.escape(told)):
        load(path, "cpu", given, compile="default")
