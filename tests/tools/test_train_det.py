"""``resdet train-det``: starting, resuming and refusing runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from resdet.tools.cli import main

if TYPE_CHECKING:
    from resdet.tests.conftest import Command, Finished


def expect_refused(done: Finished, *parts: str, code: int = 2) -> None:
    assert done.code == code, done
    assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    for part in parts:
        assert part in done.err


def test_a_run_folder_holds_everything(tiny_run: Path) -> None:
    names = {str(path.relative_to(tiny_run)) for path in tiny_run.rglob("*") if path.is_file()}
    assert names >= {
        "config.yaml",
        "env.json",
        "metrics.jsonl",
        "results.csv",
        "train.log",
        "plots/curves.png",
        "plots/labels.svg",
        "samples/train_batch0.jpg",
        "samples/val_detections.jpg",
        "weights/best.pt",
        "weights/last.pt",
        "weights/last-1.pt",
    }


def test_the_saved_config_runs_again_to_the_same_weights(
    resdet: Command, tiny_run: Path, tmp_path: Path
) -> None:
    config = tiny_run / "config.yaml"
    done = resdet("train-det", "--cfg", config, "--out", tmp_path / "again")
    assert done.code == 0, done.err
    one, other = (
        torch.load(run / "weights" / "last.pt", weights_only=True)["model"]
        for run in (tiny_run, tmp_path / "again")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "again" / "config.yaml").read_text() == config.read_text()


def test_print_config_is_a_config(resdet: Command, tiny_config: Path, tmp_path: Path) -> None:
    words = ("train-det", "--cfg", tiny_config, "--print-config", "--amp", "--seed", "7")
    printed = resdet(*words)
    assert printed.code == 0 and "seed: 7" in printed.out and "precision: bf16" in printed.out
    path = tmp_path / "printed.yaml"
    path.write_text(printed.out)
    assert resdet("train-det", "--cfg", path, "--print-config").out == printed.out


def test_dry_run_looks_at_data_and_weights_and_leaves_nothing(
    resdet: Command, tiny_config: Path, tiny_run: Path, tmp_path: Path
) -> None:
    words = ("train-det", "--cfg", tiny_config, "--dry-run")
    done = resdet(*words, cwd=tmp_path)
    assert done.code == 0 and "images: 12" in done.out and "weights: random" in done.out
    assert "dry run: data and settings can be used" in done.out.splitlines()[-1]
    weights = tiny_run / "weights" / "best.pt"
    done = resdet(*words, "--weights", weights, cwd=tmp_path)
    assert done.code == 0 and f"weights: {weights}" in done.out
    expect_refused(resdet(*words, "--weights", tmp_path / "none.pt"), "none.pt", code=3)
    expect_refused(resdet(*words, "--out", tiny_run), "not empty")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (("backbone.norm=frozen",), "backbone.norm=batch"),
        (("backbone.frozen_stages=1",), "backbone.frozen_stages=0"),
        (
            ("backbone.norm=frozen", "backbone.frozen_stages=2"),
            "backbone.norm=batch backbone.frozen_stages=0",
        ),
    ],
)
def test_layers_fixed_at_random_are_a_warning(
    resdet: Command,
    tiny_config: Path,
    settings: tuple[str, ...],
    remedy: str,
) -> None:
    """Shown by the dry run, and gone with the remedy that it names."""
    words = ("train-det", "--cfg", tiny_config, *settings)
    dry = resdet(*words, "--dry-run")
    assert dry.code == 0 and dry.out.count("WARNING: no pretrained weights") == 1
    assert all(setting in dry.out for setting in settings)
    assert f"train all of it: {remedy}\n" in dry.out
    mended = resdet(*words, *remedy.split(), "--dry-run")
    assert mended.code == 0 and "WARNING" not in mended.out


def test_the_warning_of_fixed_random_layers_is_logged(
    resdet: Command, tiny_config: Path, tmp_path: Path
) -> None:
    """Not where the run starts from a checkpoint."""
    words = ("train-det", "--cfg", tiny_config, "backbone.norm=frozen", "train.iterations=1")
    done = resdet(*words, "--out", tmp_path / "run")
    assert done.code == 0 and "WARNING: no pretrained weights" in done.out
    assert "WARNING: no pretrained weights" in (tmp_path / "run" / "train.log").read_text()
    started = resdet(*words, "--weights", tmp_path / "run" / "weights" / "best.pt", "--dry-run")
    assert started.code == 0 and "WARNING" not in started.out


def test_an_occupied_folder_is_refused(resdet: Command, tiny_config: Path, tiny_run: Path) -> None:
    before = (tiny_run / "metrics.jsonl").read_bytes()
    done = resdet("train-det", "--cfg", tiny_config, "--out", tiny_run)
    expect_refused(done, f"{tiny_run}: not empty", "--resume")
    assert (tiny_run / "metrics.jsonl").read_bytes() == before


def test_resume_by_folder_by_file_and_the_latest(
    resdet: Command, tiny_config: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "tiny" / "20200101-000000"
    shutil.copytree(tiny_run, run)
    folder = resdet("train-det", "--resume", run)
    assert folder.code == 0 and "done: 8 steps" in folder.out
    file = resdet("train-det", "--resume", "last.pt", cwd=run / "weights")
    assert file.code == 0 and f"run folder: {run}" in file.out
    latest = resdet(
        "train-det", "--cfg", tiny_config, "train.iterations=9", "--resume", cwd=tmp_path
    )
    assert latest.code == 0 and "done: 9 steps" in latest.out
    out = resdet("train-det", "--resume", "--out", run, "train.iterations=9")
    assert out.code == 0, out.err


def test_what_cannot_be_resumed(
    resdet: Command, tiny_config: Path, tiny_run: Path, tmp_path: Path
) -> None:
    expect_refused(resdet("train-det", "--resume", cwd=tmp_path), "--cfg to find the latest")
    words = ("train-det", "--cfg", tiny_config, "--resume")
    expect_refused(resdet(*words, cwd=tmp_path), "no run with a checkpoint", str(tmp_path))
    best = tiny_run / "weights" / "best.pt"
    expect_refused(resdet("train-det", "--resume", best), "best.pt", "needs last.pt", code=3)
    missing = tmp_path / "weights" / "last.pt"
    expect_refused(resdet("train-det", "--resume", missing), str(missing), "no such", code=3)
    changed = resdet("train-det", "--resume", tiny_run, "train.lr=0.5")
    expect_refused(changed, "train.lr=0.5 (was 0.02)")
    both = resdet("train-det", "--resume", tiny_run, "--weights", best)
    expect_refused(both, "--weights")
    expect_refused(resdet("train-det", "--cfg", tiny_config, "--reset-head"), "--weights")
    expect_refused(resdet("train-det"), "no config")


def test_the_printed_config_names_the_files_it_is_made_of(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    middle, top = tmp_path / "middle.yaml", tmp_path / "top.yaml"
    middle.write_text(f"base: {tiny_config}\ntrain: {{seed: 3}}\n")
    top.write_text("base: middle.yaml\ntrain: {lr: 0.5}\n")
    assert main(["train-det", "--cfg", str(top), "--print-config"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"# {top}, on top of {middle}, on top of {tiny_config}"
    assert "  seed: 3" in rest and "  lr: 0.5" in rest
