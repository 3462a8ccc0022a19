"""``resdet eval``: the number of training, from the checkpoint alone and with a config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from resdet.detection.engine.checkpoint import load_checkpoint, save_checkpoint
from resdet.detection.files import sha256_of
from resdet.tools.eval_files import page_command

if TYPE_CHECKING:
    from resdet.tests.conftest import Command


def logged(run: Path, step: int) -> dict[str, float]:
    entries = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return next(e for e in entries if e["kind"] == "eval" and e["step"] == step)


def scored(resdet: Command, weights: Path, out: Path, *words: object) -> dict[str, Any]:
    done = resdet("eval", "--weights", weights, "--out", out, *words)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"next: resdet report {out}"
    return json.loads((out / "metrics.json").read_text())["metrics"]


def test_the_page_of_an_evaluation_is_that_of_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "my run" / "eval"
    assert page_command(folder) == f"resdet report '{folder}'"
    folder.parent.mkdir()
    (folder.parent / "config.yaml").touch()
    assert page_command(folder) == f"resdet report '{folder.parent}'"
    assert page_command(folder.with_name("other")) == f"resdet report '{folder.with_name('other')}'"


def expect_same_numbers(metrics: dict[str, Any], entry: dict[str, float]) -> None:
    compared = 0
    for name, value in entry.items():
        if name in ("kind", "step", "time", "val_loss"):
            continue
        got = metrics[name]["value"] if isinstance(metrics[name], dict) else metrics[name]
        assert (got is None) == (value is None), name
        if value is not None:
            assert got == pytest.approx(value, abs=1e-6), name
            compared += 1
    assert compared == 2


def test_last_gives_the_number_of_the_last_step(
    resdet: Command, learned_run: Path, tmp_path: Path
) -> None:
    entry = logged(learned_run, 40)
    assert entry["voc_ap50"] > 0
    weights = learned_run / "weights" / "last.pt"
    expect_same_numbers(scored(resdet, weights, tmp_path), entry)
    assert json.loads((tmp_path / "metrics.json").read_text())["weights"] == [sha256_of(weights)]


def test_the_log_names_the_metric_and_how_it_was_tested(resdet: Command, learned_run: Path) -> None:
    log = (learned_run / "train.log").read_text()
    assert "evaluations: shorter side 96; nms at 0.5\n" in log
    best = max(logged(learned_run, step)["voc_ap50"] for step in (20, 40))
    assert f"best voc_ap50 {best:.4f}" in log


def test_best_with_a_config_and_a_moving_average(
    resdet: Command, learned_run: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """A short run goes on from the learned one with a moving average; best.pt holds it alone."""
    run = tmp_path / "run"
    settings = (
        "backbone.norm=group",
        "rpn.post_nms_test=100",
        "train.ema_decay=0.8",
        "train.iterations=4",
        "train.lr=0.002",
    )
    weights = learned_run / "weights" / "last.pt"
    words = ("train-det", "--cfg", tiny_config, "--weights", weights, "--out", run, *settings)
    done = resdet(*words)
    assert done.code == 0, done.err
    entry = logged(run, 4)
    assert entry["voc_ap50"] > 0
    for name in ("best.pt", "last.pt"):
        options = ("--cfg", run / "config.yaml")
        metrics = scored(resdet, run / "weights" / name, tmp_path / name, *options)
        expect_same_numbers(metrics, entry)


def test_another_network_in_the_config_is_refused(
    resdet: Command, tiny_run: Path, tiny_config: Path, tmp_path: Path
) -> None:
    config = tmp_path / "other.yaml"
    config.write_text(
        tiny_config.read_text()
        .replace("root: scenes", f"root: {tiny_config.parent}/scenes")
        .replace("[16, 32, 64]", "[24, 48, 96]")
    )
    weights = tiny_run / "weights" / "best.pt"
    done = resdet("eval", "--weights", weights, "--cfg", config)
    assert done.code == 2
    assert done.err.count("\n") == 1 and done.err.startswith(f"error: {weights} ")
    assert "rpn.anchor_sizes" in done.err


def test_classes_in_another_order_are_mapped_by_name(
    resdet: Command, learned_run: Path, tmp_path: Path
) -> None:
    order = "data.classes=[triangle, star, square, ring, cross, circle]"
    weights = learned_run / "weights" / "last.pt"
    expect_same_numbers(scored(resdet, weights, tmp_path, order), logged(learned_run, 40))


def test_other_classes_are_an_error_that_names_both_lists(
    resdet: Command, tiny_run: Path, tmp_path: Path
) -> None:
    done = resdet("eval", "--weights", tiny_run / "weights" / "best.pt", "data.classes=[cat, ring]")
    assert done.code == 3
    assert done.err.count("\n") == 1
    assert "['circle', 'cross', 'ring', 'square', 'star', 'triangle']" in done.err
    assert "['cat', 'ring']" in done.err


def test_the_report_folder_is_tried_before_the_work(resdet: Command, tiny_run: Path) -> None:
    weights = tiny_run / "weights" / "best.pt"
    done = resdet("eval", "--weights", weights, "--out", "/proc/nowhere")
    assert done.code == 2
    assert done.err.startswith("error: /proc/nowhere: cannot be written")


def test_beside_the_run_by_default(resdet: Command, tiny_run: Path) -> None:
    done = resdet("eval", "--weights", tiny_run / "weights" / "best.pt", "--no-coco")
    assert done.code == 0, done.err
    assert (tiny_run / "eval" / "metrics.json").is_file()


def test_what_is_meant_is_named(resdet: Command, tiny_run: Path, tmp_path: Path) -> None:
    """Some of the classes as a setting of the data, and detections in place of weights."""
    weights = tiny_run / "weights" / "best.pt"
    done = resdet("eval", "--weights", weights, "data.classes=[circle,cross]", "--dry-run")
    assert (done.code, done.out) == (3, "")
    assert done.err.endswith("; --classes circle,cross evaluates these alone\n")
    named = "data.classes=[circle,traffic light]"
    state = load_checkpoint(weights)
    state["classes"] = ["traffic light" if name == "cross" else name for name in state["classes"]]
    save_checkpoint(weights := tmp_path / "named.pt", state)
    done = resdet("eval", "--weights", weights, named, "--trust-paths", "--dry-run")
    assert done.err.endswith("; --classes 'circle,traffic light' evaluates these alone\n")
    found = tmp_path / "results.json"
    found.write_text("[]")
    done = resdet("eval", "--weights", found)
    assert done.code == 3
    assert f"`resdet eval --predictions {found} --annotations FILE` scores them" in done.err
