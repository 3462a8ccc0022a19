"""Exports in OpenVINO: the same results as the checkpoint, in its place, and int8 by NNCF."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from resdet.detection.errors import ConfigError, DivergedError, WeightsError
from resdet.detection.export.folder import HEAD, MODEL, RPN, TRUNK, graph_file
from resdet.detection.export.network import ExportedNetwork, ExportedPipeline, open_network
from resdet.detection.export.quantize import quantize
from resdet.detection.export.verify import as_batch, draw_shapes
from resdet.detection.export.writing import convert_to_openvino
from resdet.detection.extras import EXTRAS
from resdet.detection.predictor import load
from resdet.detection.structures import Detections
from resdet.detection.tasks.exporting import export
from resdet.detection.tasks.quantizing import quantize_parts, read_calibration
from resdet.tests.detection.export.rehash import converted, needs, rehash
from resdet.tests.detection.export.test_detector import best, evaluated
from resdet.tests.detection.export.test_int8 import FAST, load_detector
from resdet.tests.detection.export.test_parts import expect_same
from resdet.tests.detection.export.untrained import CONFIGS, write
from resdet.tools.cli import main


@pytest.fixture(scope="module")
def one(exported: Path) -> Path:
    return converted(exported, exported.with_name("openvino_one"))


@pytest.fixture(scope="module")
def two(parts: Path) -> Path:
    return converted(parts, parts.with_name("openvino_two"))


def test_the_exports_have_the_map_of_their_checkpoint(
    learned_run: Path, one: Path, two: Path
) -> None:
    wanted = evaluated(best(learned_run))
    assert wanted["voc_ap50"] > 0
    for folder in (one, two):
        found = evaluated(folder)
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, abs=1e-4, nan_ok=True), name


def test_settings_ensembles_and_benchmarks(
    learned_run: Path,
    one: Path,
    two: Path,
    scenes: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = draw_shapes((90, 130), 2)
    settings = ["test.flip=true", "test.refine.rounds=1", "image.short_side_test=64"]
    wanted, found = (
        load(path, overrides=settings, score_threshold=0.02)(image)
        for path in (best(learned_run), two)
    )
    expect_same(*(Detections(each.boxes, each.scores, each.labels) for each in (found, wanted)))
    assert len(load([best(learned_run), two])(image)) == len(load(best(learned_run))(image))
    with pytest.raises(ConfigError, match="cannot become 64: export"):
        load(one, overrides=settings[-1:])
    words = [str(best(learned_run)), str(one), str(two)]
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["benchmark", "--weights", *words, "--rounds", "1"]) == 0
    assert "vino_two" in capsys.readouterr().out
    picture = next((scenes / "JPEGImages").iterdir())
    assert main(["infer", "--weights", str(one), str(picture)]) == 0
    assert "exported, in openvino" in capsys.readouterr().out


def test_copies_threads_and_nothing(one: Path, two: Path) -> None:
    model, images = load(one), [draw_shapes((80, 100), seed) for seed in range(8)]
    wanted = [model(image).boxes for image in images]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert torch.equal(other(images[0]).boxes, wanted[0])
    network = open_network(one)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: network(as_batch([each]).images)[1], images))
    for boxes, image in zip(found, images, strict=True):
        assert torch.equal(boxes, network(as_batch([image]).images)[1])
    crops = open_network(two, RPN)(torch.zeros(2, 32, 3, 4))
    assert [each.shape[0] for each in crops] == [2, 2]
    assert open_network(two, HEAD)(torch.zeros(0, 4, 4, 32))[0].shape == (0, 64)


def test_nan_and_damage_are_errors(exported: Path, one: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(exported / "model.onnx")
    # Behind the last ReLU: that of OpenVINO turns NaN into 0.
    weight = next(each for each in graph.graph.initializer if "cls_logits.weight" in each.name)
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(graph, tmp_path / "nan.onnx")
    convert_to_openvino(tmp_path / "nan.onnx", tmp_path / "nan.xml")
    transform = load(one).pipeline.transforms[0]
    broken = ExportedPipeline(ExportedNetwork(tmp_path / "nan.xml"), transform)
    with pytest.raises(DivergedError, match="not finite"):
        broken.predict(as_batch([draw_shapes((64, 64), 1)]))
    (tmp_path / "nan.xml").write_text("<net/>")
    with pytest.raises(WeightsError, match=r"nan\.xml: openvino cannot read it"):
        ExportedNetwork(tmp_path / "nan.xml")
    shutil.copytree(one, tmp_path / "other")
    (tmp_path / "other" / "model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"model\.bin: not the file that was exported"):
        load(tmp_path / "other")


@pytest.mark.parametrize("task", CONFIGS)
def test_classifiers_and_localizers(task: str, tmp_path: Path) -> None:
    needs("openvino")
    weights = write(task, tmp_path / "best.pt")
    out = export([weights], tmp_path / "out", form="openvino").out
    rows = json.loads((out / "meta.json").read_text())["verification"]
    assert all(row["lost"] == 0 and row["score_error"] < 1e-4 for row in rows)
    assert graph_file(out, MODEL).name == "model.xml"
    settings = ["test.protocol=ten_crop"] if task == "classification" else []
    if not settings:  # whose classes a classifier chooses
        classes = write("classification", tmp_path / "classes.pt")
        settings = [f"test.classifiers=[{classes}]"]
    if task == "localization_rcnn":
        settings.append(f"proposals.weights=[{write('localization', tmp_path / 'first.pt')}]")
    image = draw_shapes((90, 130), 4)
    wanted, found = (load(path, overrides=settings)(image) for path in (weights, out))
    assert found.names == wanted.names
    assert torch.allclose(found.scores, wanted.scores, atol=1e-5)


def test_it_asks_no_service_of_statistics(one: Path, tmp_path: Path) -> None:
    """In a home folder without a file that says no, and outside of a test."""
    program = (
        "import sys, numpy, resdet\n"
        f"resdet.load({str(one)!r})(numpy.zeros((60, 80, 3), numpy.uint8))\n"
        "assert 'openvino' in sys.modules\n"
        "from resdet.detection.extras import require_extra, EXTRAS\n"
        "import importlib.util as util\n"
        "require_extra('nncf' if util.find_spec('nncf') else 'openvino')\n"
        "used = [name for name, module in sys.modules.items() if module is not None\n"
        "        and name.startswith('openvino_telemetry')]\n"
        "assert not used, used\n"
    )
    home = {name: value for name, value in os.environ.items() if name != "CI"}
    home |= {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=home, check=True, timeout=120)
    assert not (tmp_path / "intel").exists()


def test_int8_by_nncf(learned_run: Path, two: Path, tiny_config: Path, tmp_path: Path) -> None:
    needs("nncf")
    learned, folder = load_detector(learned_run), tmp_path / "int8"
    shutil.copytree(two, folder)
    use = read_calibration(learned, str(tiny_config), 4, 100.0)
    described = quantize_parts(folder, learned, use)
    assert described["layers"] == FAST and len(described["metrics"]) == 2
    assert {path.name for path in folder.iterdir()} == {path.name for path in two.iterdir()}
    errors = described["verification"]["errors"]
    assert set(errors) == {"trunk.xml", "rpn.xml", "head.xml"}
    assert all(0 < error < described["verification"]["bound"] for error in errors.values())
    large, small = (
        sum(path.stat().st_size for path in each.glob("*.bin")) for each in (two, folder)
    )
    assert small < 0.5 * large
    assert [quantized(folder, name) for name in (TRUNK, RPN, HEAD)] == [
        [False] + [True] * (len(quantized(folder, TRUNK)) - 1),
        [True, False, False],
        [True] * len(quantized(folder, HEAD)),
    ]


def test_calibration_computes_its_inputs_once(tmp_path: Path) -> None:
    needs("nncf")
    import openvino
    from openvino import opset13 as ops

    images = ops.parameter([-1, 3, 8, 8], np.float32)
    weights = ops.constant(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32))
    found = ops.relu(ops.convolution(images, weights, [1, 1], [0, 0], [0, 0], [1, 1]))
    source = tmp_path / "head.xml"
    openvino.save_model(openvino.Model([found], [images]), source, compress_to_fp16=False)
    taken: list[int] = []

    class Counted:
        def __len__(self) -> int:
            return 4  # at most

        def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
            for place in range(3):
                taken.append(place)
                yield (torch.rand(2, 3, 8, 8),)

    (tmp_path / "int8").mkdir()
    quantize(source, tmp_path / "int8" / source.name, Counted(), range(0))
    assert taken == [0, 1, 2]
    assert quantized(tmp_path / "int8", HEAD) == [True]


def quantized(folder: Path, name: str) -> list[bool]:
    """Whether the weights of each convolution, in order, are stored in int8."""
    import openvino

    graph = openvino.Core().read_model(graph_file(folder, name))
    found = []
    for each in graph.get_ordered_ops():
        if each.get_type_name() == "Convolution":
            node = each.input_value(1).get_node()
            while node.get_type_name() != "Constant":
                node = node.input_value(0).get_node()
            found.append(node.get_element_type().get_type_name() == "i8")
    return found


def test_a_runtime_that_is_missing(
    exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(exported, tmp_path / "vino")
    (tmp_path / "vino" / "model.onnx").rename(tmp_path / "vino" / "model.xml")
    rehash(tmp_path / "vino")
    monkeypatch.setitem(EXTRAS, "openvino", ("no_such_package",))
    with pytest.raises(ConfigError, match=r"pip install 'resdet\[openvino\]'"):
        load(tmp_path / "vino")


@pytest.mark.parametrize("extra", ["openvino", "nncf"])
def test_a_missing_package_names_the_extra(
    extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("openvino", "nncf"):
        monkeypatch.setitem(EXTRAS, name, ("no_such_package",))
    words = ["export", "--weights", "best.pt", "--out", str(tmp_path / "out"), "--format=openvino"]
    int8 = ["--int8", "--calibrate", "data.yaml"] if extra == "nncf" else []
    assert main([*words, *int8]) == 2
    assert f"pip install 'resdet[{extra}]'" in capsys.readouterr().err
