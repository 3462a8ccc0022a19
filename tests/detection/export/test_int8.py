"""Export in int8: calibrated, compared with the checkpoint, and refused where it loses too much."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from resdet.detection.errors import ConfigError, DataError, WeightsError
from resdet.detection.export.folder import HEAD, MAP, RPN, TRUNK, graph_file
from resdet.detection.export.quantize import CHOICES, int8_error
from resdet.detection.export.verify import draw_shapes
from resdet.detection.predictor import load
from resdet.detection.tasks.checkpoints import load_members, read_checkpoint
from resdet.detection.tasks.detector import DETECTION
from resdet.detection.tasks.detector_export import Detector
from resdet.detection.tasks.exporting import Int8, export
from resdet.detection.tasks.quantizing import quantize_parts, read_calibration
from resdet.tests.detection.export.rehash import rehash
from resdet.tests.detection.export.untrained import write
from resdet.tools.cli import main

FAST, SAFE = CHOICES


def load_detector(run: Path) -> Detector:
    """The best checkpoint of a run."""
    (loaded,) = load_members([read_checkpoint(run / "weights" / "best.pt", DETECTION)])
    return loaded


@pytest.fixture(scope="module")
def learned(learned_run: Path) -> Detector:
    return load_detector(learned_run)


def operators(path: Path) -> list[str]:
    """The operators whose outputs each convolution reads as weights, in order."""
    onnx = pytest.importorskip("onnx")
    nodes = onnx.load(path).graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    return [makers.get(node.input[1], "float") for node in nodes if node.op_type == "Conv"]


def test_the_first_choice_that_is_good_enough(
    learned: Detector, parts: Path, tiny_config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "int8"
    shutil.copytree(parts, folder)
    use = read_calibration(learned, str(tiny_config), 4, 100.0)
    assert len(use.images) == 4 and use.split is not None and len(use.split.records) == 6
    described = quantize_parts(folder, learned, use)
    assert described["layers"] == FAST and described["images"] == 4
    assert [row["layers"] for row in described["metrics"]] == ["all float", FAST]
    errors = described["verification"]["errors"]
    assert set(errors) == {"trunk.onnx", "rpn.onnx", "head.onnx"}
    assert all(0 < error < described["verification"]["bound"] for error in errors.values())
    assert {path.name for path in folder.iterdir()} == {path.name for path in parts.iterdir()}
    trunk, rpn, head = (operators(graph_file(folder, name)) for name in (TRUNK, RPN, HEAD))
    assert trunk[0] == "float" and set(trunk[1:]) == {"DequantizeLinear"}
    assert rpn == ["DequantizeLinear", "float", "float"]
    assert set(head) == {"DequantizeLinear"}
    small, large = (graph_file(each, HEAD).stat().st_size for each in (folder, parts))
    assert small < 0.4 * large
    rehash(folder)
    image = draw_shapes((96, 128), 1)
    wanted, found = (load(each, score_threshold=0.05)(image) for each in (parts, folder))
    assert len(found) > 0
    assert abs(float(found.scores[0]) - float(wanted.scores[0])) < 0.2


def test_bottlenecks(bottlenecks: tuple[Path, Path], scenes: Path, tmp_path: Path) -> None:
    weights, parts = bottlenecks
    (detector,) = load_members([read_checkpoint(weights, DETECTION)])
    folder = tmp_path / "int8"
    shutil.copytree(parts, folder)
    use = read_calibration(detector, str(scenes / "JPEGImages"), 2, 1.0)
    described = quantize_parts(folder, detector, use)
    assert set(described["verification"]["errors"]) == {
        *("trunk.onnx", "rpn.onnx", "map.onnx", "head.onnx")
    }
    assert operators(graph_file(folder, MAP)) == ["DequantizeLinear"] * 2
    assert operators(graph_file(folder, HEAD)) == ["DequantizeLinear"] * 8
    rehash(folder)
    image = draw_shapes((64, 96), 1)
    wanted, found = (load(each, score_threshold=0.02)(image) for each in (parts, folder))
    assert abs(float(found.scores[0]) - float(wanted.scores[0])) < 0.2


def test_a_graph_that_does_not_compute_what_it_should(parts: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    source, other = graph_file(parts, HEAD), tmp_path / "head.onnx"
    model = onnx.load(source)
    weight = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    crops, values = torch.rand(3, 4, 4, 32), onnx.numpy_helper.to_array(weight)
    assert int8_error(source, source, [(crops,)]) == 0
    for wrong in (values[::-1].copy(), values * np.float32("nan")):
        weight.CopyFrom(onnx.numpy_helper.from_array(wrong, weight.name))
        onnx.save(model, other)
        with pytest.raises(
            WeightsError, match=r"head\.onnx differ by .*more than 50%; nothing was"
        ):
            int8_error(other, source, [(crops,)])
    with pytest.raises(WeightsError, match=r"gives \(3, 32\) in place of \(3, 64\)"):
        int8_error(truncated(source, tmp_path / "short.onnx"), source, [(crops,)])


def truncated(source: Path, path: Path) -> Path:
    """A graph with the first half of the output of ``source``."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(source)
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["all" if name == output.name else name for name in node.output]
    for name, value in (("starts", 0), ("ends", 32), ("axes", 1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    slice_ = onnx.helper.make_node("Slice", ["all", "starts", "ends", "axes"], [output.name])
    model.graph.node.append(slice_)
    del output.type.tensor_type.shape.dim[:]
    output.type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    return path


def test_above_the_limit_every_choice_is_tried_and_none_kept(
    learned: Detector, parts: Path, tiny_config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "int8"
    shutil.copytree(parts, folder)
    use = read_calibration(learned, str(tiny_config), 1, -200.0)
    with pytest.raises(WeightsError, match=r"loses more than -200 points; nothing was") as error:
        quantize_parts(folder, learned, use)
    lines = str(error.value).splitlines()[1:]
    assert [line.rpartition("  ")[2] for line in lines] == ["all float", FAST, SAFE]
    assert all(line.startswith("AP50 ") and "AP75" in line for line in lines)
    assert operators(graph_file(folder, RPN)) == ["float"] * 3
    assert operators(graph_file(folder, HEAD)).count("float") == 2


def test_a_folder_of_images_leaves_it_untested(
    learned: Detector, parts: Path, scenes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "int8"
    shutil.copytree(parts, folder)
    use = read_calibration(learned, str(scenes / "JPEGImages"), 3, 1.0)
    names = sorted(path.name for path in (scenes / "JPEGImages").iterdir())
    assert [path.name for path in use.images] == [names[0], names[6], names[12]]
    described = quantize_parts(folder, learned, use)
    assert described["metrics"] == "untested"
    assert json.loads(json.dumps(described))["layers"] == FAST


def test_a_config_with_held_out_images_or_none(
    learned: Detector, tiny_config: Path, tmp_path: Path
) -> None:
    head, _, tail = tiny_config.read_text().partition("  val:\n")
    _, _, rest = tail.partition("\n")
    for val in ("  val: {fraction: 0.25}\n", ""):
        cfg = tiny_config.with_name(f"{tmp_path.name}.yaml")
        cfg.write_text(head + val + rest)
        use = read_calibration(learned, str(cfg), 100, 1.0)
        judged = {record.path for record in use.split.records} if use.split else set()
        assert bool(judged) == bool(val)
        assert len(use.images) == 12 - len(judged) and not judged & set(use.images)


def test_wrong_options(
    learned: Detector, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="no images"):
        read_calibration(learned, str(tmp_path), 3, 1.0)
    with pytest.raises(DataError, match=str(tmp_path / "elsewhere")):
        read_calibration(learned, str(tiny_config), 1, 1.0, [f"data.root={tmp_path / 'elsewhere'}"])
    with pytest.raises(ConfigError, match=r"data\.root=d: is for a config given to --calibrate"):
        read_calibration(learned, str(tmp_path), 3, 1.0, ["data.root=d"])
    with pytest.raises(ConfigError, match="--images 0"):
        read_calibration(learned, str(tmp_path), 0, 1.0)
    weights = write("classification", tmp_path / "best.pt")
    with pytest.raises(ConfigError, match="--int8: it needs a cut at the crops of a detector"):
        export([weights], tmp_path / "out", int8=Int8("data.yaml"))
    assert main(["export", "--weights", str(weights), "--out", "o", "--int8"]) == 2
    assert "--int8 and --calibrate: give both" in capsys.readouterr().err
    assert main(["export", "--weights", str(weights), "--out", "o", "--images", "9"]) == 2
    assert "--images and --max-drop are for --int8" in capsys.readouterr().err
    calibrated = ["--int8", "--calibrate", "data.yaml", "--max-drop", "nan"]
    assert main(["export", "--weights", str(weights), "--out", "o", *calibrated]) == 2
    assert "--max-drop nan: points are from 0 to 100" in capsys.readouterr().err


def test_images_without_a_proposed_region(
    learned: Detector, parts: Path, scenes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "int8"
    shutil.copytree(parts, folder)
    model = deepcopy(learned.model)
    model.select = partial(model.select, min_size=1e4)
    use = read_calibration(learned, str(scenes / "JPEGImages"), 2, 1.0)
    with pytest.raises(ConfigError, match="proposes no region in the 2 images that calibrate"):
        quantize_parts(folder, replace(learned, model=model), use)
