"""The convert-weights command: tensors, header, summary and exit codes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from resdet.backbones.weights.load import read_converted
from resdet.tools.cli import run_tool
from torch import Tensor
from torchvision.models import resnet18


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with torch.device("meta"):
        shapes = resnet18(num_classes=3).state_dict()
    tensors: dict[str, Tensor] = {
        name: torch.rand([max(1, side // 16) if side >= 64 else side for side in like.shape])
        for name, like in shapes.items()
    }
    path = tmp_path / "r18.pth"
    torch.save({"state_dict": tensors, "epoch": 1}, path)
    return path


def convert(*words: object) -> int:
    return run_tool("convert-weights", [str(word) for word in words])


def test_golden_checkpoint(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = golden / "r50_c4_narrow.pkl", tmp_path / "out.safetensors"
    assert convert(path, out, "--class-names", "a, b,c,d") == 0
    written = read_converted(out)
    assert (written.kind, written.layout, written.depth) == ("detector", "detectron2", 50)
    assert (written.pixels, written.stride_in, written.anchors) == ("msra", "1x1", "float")
    assert written.classes == ("a", "b", "c", "d")
    with path.open("rb") as file:
        arrays = pickle.load(file)["model"]  # noqa: S301  the project's own reference file
    assert len(written.mapped) == len(arrays)
    for theirs, ours in written.mapped:
        assert torch.equal(written.tensors[ours], torch.from_numpy(arrays[theirs]))
    said = capsys.readouterr().out
    assert "mapped  275 tensors" in said
    assert "4 a, b, c, d" in said
    (tested,) = [line for line in said.splitlines() if line.strip().startswith("tested at")]
    assert "image.short_side_test=800 image.long_side_max=1333" in tested
    assert "rpn.post_nms_test=1000 test.score_threshold=0.05" in tested


def test_the_summary_lists_unused_tensors(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(source, tmp_path / "out.safetensors", "--verbose") == 0
    said = capsys.readouterr().out
    assert "left out  20 tensors: a counter" in said
    assert "layer1.0.bn1.num_batches_tracked: a counter" in said
    assert "layer2.0.downsample.0.weight -> res3.0.shortcut.weight" in said


def test_an_existing_file_is_kept_unless_forced(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    assert convert(source, out) == 2
    assert out.read_text() == "mine"
    assert convert(source, out, "--force") == 0
    assert read_converted(out).depth == 18


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--class-names", "a,b"], 2, "2 names for 3 classes"),
        (["--class-names", "a,b,a"], 2, "a is not allowed"),
        (["--class-names", "a,,b"], 2, "an empty name is not allowed"),
        (["--ratios", "0"], 2, "--ratios 0: expected at least 1"),
        (["--layout", "caffe"], 3, "unknown layout 'caffe'"),
        (["--layout", "msra"], 3, "tensors no MSRA classifier"),
        (["--pixels", "bgr"], 3, "unknown pixels 'bgr'"),
    ],
)
def test_wrong_options(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    reason: str,
) -> None:
    out = tmp_path / "out.safetensors"
    assert convert(source, out, *words) == code
    assert reason in capsys.readouterr().err
    assert not out.exists()


def test_wrong_files(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(source, tmp_path / "out.pth") == 2
    assert convert(tmp_path / "none.pth", tmp_path / "out.safetensors") == 3
    source.write_bytes(source.read_bytes()[:100])
    assert convert(source, tmp_path / "out.safetensors") == 3
    assert "r18.pth: cannot read weights" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
