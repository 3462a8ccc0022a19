"""What the processor computes, and the precision that follows from it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from resdet.backbones.speed import keep
from resdet.detection import processor
from resdet.detection.evaluation import prediction
from resdet.detection.evaluation.prediction import MANY, autocast, emulation, gain, resolved
from resdet.tools.cli import main

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

CPU = torch.device("cpu")


def forget() -> None:
    processor.cpu_flags.cache_clear()
    processor.computes_bf16.cache_clear()


@pytest.fixture
def cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The file of a processor with AVX-512 and nothing for bf16."""
    path = tmp_path / "cpuinfo"
    path.write_text("model name : x\nflags : fpu avx2 avx512f\n")
    monkeypatch.setattr(processor, "CPUINFO", path)
    forget()
    yield path
    forget()


def test_only_bf16_instructions_count(cpuinfo: Path) -> None:
    """AVX-512 alone emulates bf16."""
    assert resolved("auto", CPU) == "fp32" and not autocast(CPU, "auto")._enabled
    (warning,) = emulation("train.precision", "bf16", CPU)
    assert "train.precision=auto" in warning and "emulates" in warning
    assert not emulation("train.precision", "fp32", CPU)
    assert not emulation("train.precision", "auto", CPU)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_is_bf16_where_it_is_computed(cpuinfo: Path, name: str) -> None:
    cpuinfo.write_text(f"Features : asimd {name}\n")
    assert resolved("auto", CPU) == "bf16"
    context = autocast(CPU, "auto")
    assert context._enabled and context.fast_dtype == torch.bfloat16
    assert not emulation("train.precision", "bf16", CPU)


def test_a_system_without_cpuinfo_is_asked_through_torch(
    cpuinfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo.unlink()
    monkeypatch.setattr(
        torch.cpu,
        "get_capabilities",
        lambda: {"amx_bf16": False, "avx512_bf16": True, "l1d_cache_size": 3},
        raising=False,
    )
    assert processor.cpu_flags() == {"avx512_bf16"}
    forget()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert processor.cpu_flags() == frozenset() and resolved("auto", CPU) == "fp32"


def test_a_run_tells_its_precision_and_warns_of_emulation(
    cpuinfo: Path, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train-det", "--cfg", str(tiny_config), "--dry-run"]
    assert main([*words, "train.precision=auto"]) == 0
    told = capsys.readouterr().out
    assert "device: cpu x 1, fp32 (train.precision=auto)" in told and "WARNING" not in told
    assert main([*words, "--amp", "test.precision=bf16"]) == 0
    told = capsys.readouterr().out
    assert told.count("emulates them") == 2 and "WARNING: test.precision=bf16" in told


def test_eval_and_infer_warn_of_emulation(
    cpuinfo: Path, tiny_run: Path, scenes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = ["--weights", str(tiny_run / "weights" / "best.pt")]
    image = next((scenes / "JPEGImages").iterdir())
    for precision in ("bf16", "auto"):
        for words in (["eval", "--dry-run"], ["infer", str(image)]):
            out = ["--out", str(tmp_path / precision), f"test.precision={precision}"]
            assert main([*words, *weights, *out]) == 0
            told = capsys.readouterr().out
            assert told.count("WARNING: test.precision=bf16: cpu") == (precision == "bf16")


def test_many_images_in_fp32_are_told_what_is_faster(
    cpuinfo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = "test.precision"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for precision in ("fp32", "auto"):
        (line,) = gain(setting, precision, CPU, MANY)
        assert line.startswith("`resdet doctor --speed`")
        assert not gain(setting, precision, CPU, MANY - 1)
    assert not gain(setting, "bf16", CPU, MANY)
    keep(None)
    assert not gain(setting, "fp32", CPU, MANY)
    cpuinfo.write_text("flags : avx512_bf16\n")
    forget()
    factor = processor.bf16_gain()
    assert 0.05 < factor < 20
    monkeypatch.setattr(prediction, "bf16_gain", lambda: 1.84)
    (line,) = gain(setting, "fp32", CPU, MANY)
    assert line.startswith("test.precision=bf16") and "1.8 times" in line
    assert not gain(setting, "fp32", CPU, MANY - 1)
    assert not gain(setting, "bf16", CPU, MANY) and not gain(setting, "auto", CPU, MANY)
    monkeypatch.setattr(prediction, "bf16_gain", lambda: 1.1)
    assert not gain(setting, "fp32", CPU, MANY)


def test_auto_trains_as_what_it_means(resdet: Command, tiny_config: Path, tmp_path: Path) -> None:
    """Bit for bit, and the config keeps the word."""
    meant = resolved("auto", CPU)
    weights = []
    for precision in ("auto", meant):
        run = tmp_path / precision
        done = resdet(
            *("train-det", "--cfg", tiny_config, "--out", run),
            *("train.iterations=2", f"train.precision={precision}", f"test.precision={precision}"),
        )
        assert done.code == 0, done.err
        weights.append(torch.load(run / "weights" / "last.pt", weights_only=True)["model"])
    assert "precision: auto" in (tmp_path / "auto" / "config.yaml").read_text()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_commands_that_compute_keep_memory(kept: bool, in_thread: bool, tmp_path: Path) -> None:
    """Blocks of 64 MB, each of 16,384 pages of 4 kB; the fork server would have threads."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import resource, sys
from threading import Thread
import numpy as np
from resdet.tools import cli

def run(name, words):
    if {in_thread}:
        thread = Thread(target=measure)
        thread.start()
        thread.join()
    else:
        measure()

def measure():
    for turn in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(1 << 23)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

cli.run_tool = run
sys.argv = ["resdet", "{"infer" if kept else "doctor"}"]
cli.main()
""")
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (int(done.stdout) < 1000) is kept, done
