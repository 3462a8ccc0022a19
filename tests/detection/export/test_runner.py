"""The files beside an export: the same results without PyTorch and without resdet."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from resdet.datasets.loading import transforms
from resdet.detection.config.files import check_dict, override
from resdet.detection.export.verify import compare
from resdet.detection.predictor import load
from resdet.detection.structures import Detections
from resdet.detection.tasks.registry import TASKS
from resdet.tests.datasets.image_corpus import png_header
from resdet.tests.detection.export.rehash import rehash

runner = pytest.importorskip(
    "resdet.detection.export.runner",
    reason="needs the extra: pip install 'resdet[onnx]'",
    exc_type=ImportError,
)

#: Runs a script where none of these packages can be imported.
_WITHOUT = """
import runpy, sys
for name in ("torch", "torchvision", "resdet", "onnx", "PIL", "scipy", "pydantic"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _WITHOUT, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_it_finds_what_infer_finds_without_torch(
    exported: Path, scenes: Path, tmp_path: Path
) -> None:
    images = sorted((scenes / "JPEGImages").iterdir())[:3]
    large = tmp_path / "large.jpg"  # shrinks below half
    cv2.imwrite(str(large), cv2.resize(cv2.imread(str(images[0])), (700, 500)))
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no image")
    huge = tmp_path / "huge.png"
    huge.write_bytes(png_header(40000, 40000))
    done = run(exported / "runner.py", damaged, huge, *images, large, "--conf", "0.1")
    assert done.returncode == 5, done.stderr
    first, second, *records = map(json.loads, done.stdout.splitlines())
    assert first == {
        "image": str(damaged),
        "error": f"{damaged}: not an image that OpenCV reads",
    }
    assert second["error"].startswith(f"{huge}: OpenCV does not decode it: pixels <= ")
    model = load(exported, score_threshold=0.1)
    count = 0
    for path, record in zip([*images, large], records, strict=True):
        wanted, found = model(path), record["detections"]
        assert [each["class"] for each in found] == list(wanted.names)
        assert np.allclose([each["score"] for each in found], wanted.scores, atol=1e-6)
        boxes = np.reshape([each["box"] for each in found], (-1, 4))
        assert np.allclose(boxes, wanted.boxes, atol=1e-3)
        count += len(found)
    assert count > 0


@pytest.mark.parametrize("blocks", ["basic", "bottlenecks"])
def test_a_detector_cut_at_its_crops(
    blocks: str, parts: Path, bottlenecks: tuple[Path, Path], scenes: Path
) -> None:
    parts = parts if blocks == "basic" else bottlenecks[1]
    images = sorted((scenes / "JPEGImages").iterdir())[:4]
    done = run(parts / "runner.py", *images, "--conf", "0.02")
    assert done.returncode == 0, done.stderr
    model, count = load(parts, score_threshold=0.02), 0
    for path, record in zip(images, map(json.loads, done.stdout.splitlines()), strict=True):
        wanted, rows = model(path), record["detections"]
        labels = [model.classes.index(row["class"]) for row in rows]
        found = Detections(
            torch.tensor([row["box"] for row in rows]).reshape(-1, 4),
            torch.tensor([row["score"] for row in rows]),
            torch.tensor(labels, dtype=torch.int64),
        )
        expected = Detections(wanted.boxes, wanted.scores, wanted.labels)
        total, lost, distance, apart = compare(found, expected)
        assert total == len(rows) and not lost and distance < 0.01 and apart < 1e-4
        count += total
    assert count > 20


def test_a_runner_without_the_part_that_its_model_needs(exported: Path, parts: Path) -> None:
    done = run(exported / "runner.py", "no.jpg", "--model", parts)
    reason = f"{parts}: is cut at its crops: apply it with {parts / 'runner.py'}"
    assert done.returncode == 2 and reason in done.stderr and "Traceback" not in done.stderr


def test_settings_that_it_does_not_compute(parts: Path, tmp_path: Path) -> None:
    shutil.copytree(parts, tmp_path / "parts")
    config = json.loads((parts / "meta.json").read_text())["config"]
    config["test"]["flip"] = True
    rehash(tmp_path / "parts", config=config)
    done = run(tmp_path / "parts" / "runner.py", tmp_path / "no.jpg")
    assert "exported with test.flip=True, and runner.py only knows False" in done.stderr


@pytest.mark.parametrize(
    "settings",
    [[], ["test.protocol=ten_crop"], ["test.protocol=multi_scale", "test.flip=true"]],
)
def test_a_classifier(
    files: dict[str, tuple[Path, Path]],
    settings: list[str],
    scenes: Path,
    tmp_path: Path,
) -> None:
    """The protocol is that of the export, which is not repeated for each: it is in meta.json."""
    source, image = files["classification"][1], next((scenes / "JPEGImages").iterdir())
    wanted = load(source, overrides=settings)(image)
    shutil.copytree(source, tmp_path / "out")
    rehash(tmp_path / "out", config=wanted_config(source, settings))
    done = run(tmp_path / "out" / "runner.py", image, "--top", "2")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["classes"]
    assert [row["class"] for row in rows] == list(wanted.names[:2])
    assert np.allclose([row["score"] for row in rows], wanted.scores[:2], atol=1e-5)


def wanted_config(source: Path, settings: list[str]) -> dict[str, Any]:
    meta = json.loads((source / "meta.json").read_text())
    task = TASKS[meta["task"]]
    return override(check_dict(task.schema, meta["config"], ""), settings).model_dump(mode="json")


@pytest.mark.parametrize("settings", [[], ["test.protocol=centre", "test.flip=true"]])
def test_a_localizer(
    files: dict[str, tuple[Path, Path]],
    settings: list[str],
    scenes: Path,
    tmp_path: Path,
) -> None:
    """Its boxes are those that `resdet` finds for the same classes."""
    source, image = files["localization"][1], next((scenes / "JPEGImages").iterdir())
    classifier = files["classification"][1]
    chosen = [*settings, f"test.classifiers=[{classifier}]", "test.top=3"]
    wanted = load(source, overrides=chosen, score_threshold=0.0)(image)
    shutil.copytree(source, tmp_path / "out")
    rehash(tmp_path / "out", config=wanted_config(source, settings))
    script = tmp_path / "out" / "runner.py"
    done = run(script, image, "--classes", *wanted.names)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["detections"]
    assert [row["class"] for row in rows] == list(wanted.names) and len(rows) == 3
    assert np.allclose([row["box"] for row in rows], wanted.boxes, atol=1e-2)
    assert run(script, image).returncode == 2
    unknown = run(script, image, "--classes", "z")
    assert unknown.returncode == 5 and "unknown classes ['z']" in unknown.stdout


def test_a_second_stage_has_no_runner(files: dict[str, tuple[Path, Path]]) -> None:
    folder = files["localization_rcnn"][1]
    assert not (folder / "runner.py").exists()
    with pytest.raises(ValueError, match=r"localization_rcnn is not in runner\.py"):
        runner.load(folder)


def test_folders_that_it_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = {"task": "detection", "classes": ["a"], "config": {}, "graphs": "one"}
    for name, meta, reason in (
        ("stage", {"task": "localization_rcnn"}, "localization_rcnn is not in runner.py, but in"),
        ("vino", {**detector, "outputs": ["model.xml"]}, "model.xml: runner.py reads ONNX graphs"),
        ("lacking", {**detector, "outputs": ["model.onnx"]}, "onnxruntime cannot read it: "),
        ("other", {}, "None is not in runner.py"),
        ("none", None, "No such file or directory: "),
    ):
        folder = tmp_path / name
        if meta is not None:
            folder.mkdir()
            (folder / "meta.json").write_text(json.dumps(meta))
        monkeypatch.setattr(sys, "argv", ["runner.py", "no.jpg", "--model", str(folder)])
        with pytest.raises(SystemExit) as end:
            runner.main()
        message = capsys.readouterr().err
        assert end.value.code == 2 and str(folder) in message and reason in message


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ((48, 64), (96, 128)),
        ((300, 400), (96, 128)),
        ((37, 124), (60, 100)),
        ((33, 50), (60, 100)),
        ((5, 1000), (600, 1000)),
        ((96, 128), (96, 128)),
    ],
)
def test_its_resize_is_that_of_training(size: tuple[int, int], sides: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted, _ = transforms.resize(pixels, *sides)
    assert np.array_equal(runner.resize(pixels, *sides), wanted)


def documented() -> str:
    """What the page says to programmers of other languages about the resize."""
    text = Path(__file__).parents[3].joinpath("docs", "export.md").read_text(encoding="utf-8")
    return text.partition("## The resize, for other languages")[2]


def test_the_sizes_of_the_documentation() -> None:
    row = r"\| (\d+) x (\d+) \| (\d+), (\d+) \| (\d+) x (\d+) \| (linear|area) \|"
    rows = re.findall(row, documented())
    assert {method for *_, method in rows} == {"linear", "area"}
    for *numbers, method in rows:
        height, width, short_side, long_side_max, *new = map(int, numbers)
        assert runner.resized_size((height, width), short_side, long_side_max) == tuple(new)
        assert (method == "area") == (min(new[0] / height, new[1] / width) < 0.5)


def test_the_vectors_of_the_documentation() -> None:
    vectors = re.findall(r"```json\n(.*?)```", documented(), re.DOTALL)
    assert len(vectors) == 2
    for vector in map(json.loads, vectors):
        pixels = np.repeat(np.array(vector["image"], np.uint8)[..., None], 3, axis=2)
        resized = runner.resize(pixels, vector["short_side"], vector["long_side_max"])
        assert resized[..., 0].tolist() == vector["resized"]
