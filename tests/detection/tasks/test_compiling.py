"""The option ``compile`` of prediction; `test_compiled.py` has what compiles."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from resdet.detection.errors import ConfigError
from resdet.detection.models import compiled
from resdet.detection.models.compiled import GRAPHS, MODES, Part, Recording, compile_parts, parts_of
from resdet.detection.predictor import load
from resdet.tests.detection.export.untrained import write
from resdet.tools import arguments
from resdet.tools.cli import main

SIZES = ((96, 128), (128, 96), (96, 128), (90, 90))


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """Graphs that overwrite their outputs, as those of CUDA do."""
    graphs = []

    def record(compute: compiled.Call, given: torch.Tensor, pool: Any) -> Recording:
        found = compute(given).clone()

        def replay() -> None:
            found.copy_(compute(given))

        graphs.append(Recording(given, found, replay))
        return graphs[-1]

    def plain(part: Part) -> compiled.Call:
        return partial(getattr(type(part.module), part.method), part.module)

    monkeypatch.setattr(compiled, "BACKEND", "eager")
    monkeypatch.setattr(compiled, "_compiled", plain)  # tracing takes seconds for each shape
    monkeypatch.setattr(compiled, "record", record)
    monkeypatch.setattr(compiled, "GRAPH_DEVICE", "cpu")
    return graphs


def images(sizes: Sequence[tuple[int, int]] = SIZES) -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def expect_equal(found: Sequence[Any], expected: Sequence[Any]) -> None:
    assert sum(len(each.scores) for each in expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.names == other.names
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)
        if hasattr(one, "boxes"):
            torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=0)


OPTIONS = {
    "plain": [],
    "views": ["test.scales=[64,96]", "test.flip=true", "test.vote.iou=0.6"],
    "rounds": ["test.pyramid=[64,96]", "test.refine.rounds=1"],
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_detections(
    tiny_run: Path, recorded: list[Recording], options: str, batch_size: int
) -> None:
    """In graphs, of a model and of an ensemble."""
    weights = tiny_run / "weights" / "best.pt"
    given = weights if options == "plain" else [weights, tiny_run / "weights" / "last.pt"]
    overrides = [*OPTIONS[options], "test.score_threshold=0.01"]
    plain, model = (load(given, "cpu", overrides) for _ in range(2))
    compile_parts(model.pipeline, GRAPHS)
    expected = plain.predict(images(), batch_size=batch_size)
    expect_equal(model.predict(images(), batch_size=batch_size), expected)
    tail = [graph.given for graph in recorded if graph.given.shape[1] >= 32]
    assert tail and all(len(each) % 50 == 0 for each in tail)


@pytest.mark.parametrize("protocol", ["one_crop", "ten_crop", "multi_scale"])
def test_classes(tmp_path: Path, recorded: list[Recording], protocol: str) -> None:
    weights = write("classification", tmp_path / "a.pt")
    overrides = [f"test.protocol={protocol}"]
    plain, model = (load(weights, "cpu", overrides) for _ in range(2))
    compile_parts(model.pipeline, GRAPHS)
    expect_equal(model.predict(images()), plain.predict(images()))
    assert recorded


def test_a_localizer_and_its_classifier(tmp_path: Path, recorded: list[Recording]) -> None:
    classifier = write("classification", tmp_path / "classifier.pt")
    weights = write("localization", tmp_path / "first.pt")
    overrides = [f"test.classifiers=[{classifier}]"]
    plain, model = (load(weights, "cpu", overrides) for _ in range(2))
    assert [part.method for part in parts_of(model.pipeline)] == ["forward", "features"]
    compile_parts(model.pipeline, GRAPHS)
    expect_equal(model.predict(images()), plain.predict(images()))
    assert recorded


def test_load_says_what_it_does(tiny_run: Path) -> None:
    plain, model = (load(tiny_run, "cpu", compile=mode) for mode in (None, "default"))
    assert "compiled" in model.testing and "compiled" not in plain.testing
    expect_equal(model.predict(images()), plain.predict(images()))


def test_refusals(tiny_run: Path) -> None:
    with pytest.raises(ConfigError, match="CUDA graphs need a GPU, and the device is cpu"):
        load(tiny_run, "cpu", compile=GRAPHS)
    with pytest.raises(ConfigError, match="compile 'fast': choose from default, reduce-overhead"):
        load(tiny_run, "cpu", compile="fast")


def test_commands(tiny_run: Path, scenes: Path, tmp_path: Path, capsys: Any) -> None:
    """`infer` and `eval`, which find what they find without it."""
    words = ["--weights", str(tiny_run / "weights" / "best.pt"), "--device", "cpu"]
    found = scenes / "JPEGImages"
    texts = []
    for mode in ([], ["--compile", "default"]):
        out = tmp_path / f"out{len(mode)}"
        assert main(["infer", *words, *mode, str(found), "--out", str(out / "i"), "--no-draw"]) == 0
        assert main(["eval", *words, *mode, "--out", str(out / "e"), "--no-coco"]) == 0
        texts.append(capsys.readouterr().out)
        assert ("compiled" in texts[-1]) == bool(mode)
    records = [(tmp_path / f"out{n}" / "i" / "detections.jsonl").read_text() for n in (0, 2)]
    assert len(records[0].splitlines()) == len(records[1].splitlines()) > 0
    maps = [re.findall(r"voc_ap50\D*([\d.]+)", text) for text in texts]
    assert maps[0] == maps[1]


def test_the_modes_of_the_option() -> None:
    parser = arguments.argparse.ArgumentParser()
    arguments.add_compile_argument(parser)
    (action,) = [each for each in parser._actions if each.dest == "compile"]
    assert tuple(action.choices or ()) == MODES


def test_without_a_compiler_nothing_begins(tiny_run: Path, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--weights", tiny_run, scenes / "JPEGImages", "--out", out, "--device", "cpu")
    places = {"CXX": tmp_path / "none", "TORCHINDUCTOR_CACHE_DIR": tmp_path / "cache"}
    done = subprocess.run(
        [sys.executable, "-m", "resdet.tools.infer", *map(str, words), "--compile", "default"],
        env=os.environ | {name: str(place) for name, place in places.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot compile for cpu here: InvalidCxxCompiler" in done.stderr
    assert "it needs a C++ compiler" in done.stderr and "Traceback" not in done.stderr
    assert not out.exists()
