"""The file beside an export: the same detections without PyTorch and without resdet."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from resdet.datasets.loading import transforms
from resdet.detection.predictor import load

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
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _WITHOUT, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_it_finds_what_infer_finds_without_torch(
    exported: Path, scenes: Path, tmp_path: Path
) -> None:
    images = sorted((scenes / "JPEGImages").iterdir())[:3]
    large = tmp_path / "large.jpg"  # shrinks below half
    cv2.imwrite(str(large), cv2.resize(cv2.imread(str(images[0])), (700, 500)))
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no image")
    done = run(exported / "runner.py", *images, large, damaged, "--conf", "0.1")
    assert done.returncode == 5, done.stderr
    *records, failure = map(json.loads, done.stdout.splitlines())
    assert failure == {
        "image": str(damaged),
        "error": f"{damaged}: not an image that OpenCV reads",
    }
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
