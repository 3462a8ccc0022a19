"""``resdet ablate``: each row is what ``resdet eval`` says under the same switches."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from resdet.detection.config.files import load_config
from resdet.detection.errors import ConfigError
from resdet.detection.tasks.ablation import STEPS, switches
from resdet.tools.ablate import NAMES, chosen

if TYPE_CHECKING:
    from resdet.tests.conftest import Command


def ablate(resdet: Command, out: Path, *words: object) -> dict[str, dict[str, Any]]:
    done = resdet("ablate", "--out", out, "--resamples", 50, *words)
    assert done.code == 0, done.err
    assert (out / "ablation.png").stat().st_size > 10_000
    content = json.loads((out / "ablation.json").read_text())
    assert content["images"] == 6 and content["resamples"] == 50
    return {row["name"]: row for row in content["rows"]}


def scored(resdet: Command, out: Path, *words: object) -> float:
    done = resdet("eval", "--out", out, "--no-coco", *words)
    assert done.code == 0, done.err
    return json.loads((out / "metrics.json").read_text())["metrics"]["voc_ap50"]


def test_rows_are_cumulative_evaluations(
    resdet: Command, learned_run: Path, tiny_run: Path, tmp_path: Path
) -> None:
    first, second = (run / "weights" / "last.pt" for run in (learned_run, tiny_run))
    rows = ablate(resdet, tmp_path / "out", "--weights", first, "--weights", second)
    assert list(rows) == list(NAMES)
    assert rows["context"] == {
        "name": "context",
        "skipped": "not trained: give --context-weights",
    }
    words: list[object] = ["--weights", first]
    added = {
        "baseline": [],
        "voting": ["test.refine.rounds=1", "test.vote.iou=0.5"],
        "ensemble": ["test.pyramid=[32, 64, 96, 128, 160]", "--weights", second],
    }
    for name, more in added.items():
        words += more
        value = rows[name]["metrics"]["voc_ap50"]["value"]
        assert value == pytest.approx(scored(resdet, tmp_path / name, *words), abs=1e-9), name
    base = rows["baseline"]["metrics"]["voc_ap50"]["value"]
    assert base > 0
    for row in (row for row in rows.values() if "skipped" not in row):
        number, gain = row["metrics"]["voc_ap50"], row["gain"]["voc_ap50"]
        assert gain["value"] == pytest.approx(number["value"] - base, abs=1e-12)
        assert 0 <= number["low"] <= number["high"] <= 1
        assert row["seconds_per_image"] > 0
    assert rows["baseline"]["cost"] == 1
    assert len({row["testing"] for row in rows.values() if "testing" in row}) == 5
    assert rows["ensemble"]["weights"] == [str(first), str(second)]


def test_the_configs_own_values_are_the_ones_measured(
    resdet: Command, learned_run: Path, tmp_path: Path
) -> None:
    weights = ("--weights", learned_run / "weights" / "last.pt")
    options = ("--steps", "voting,multi-scale", "test.vote.iou=0.8", "test.pyramid=[64, 96]")
    rows = ablate(resdet, tmp_path, *weights, *options, "test.nms_iou=0.3")
    assert list(rows) == ["baseline", "voting", "multi-scale"]
    assert (
        "voting" not in rows["baseline"]["testing"] and "pyramid" not in rows["voting"]["testing"]
    )
    assert "box voting at 0.8" in rows["voting"]["testing"]
    assert "pyramid 64, 96" in rows["multi-scale"]["testing"]
    assert all("nms at 0.3" in row["testing"] for row in rows.values())


def test_context_is_measured_from_its_own_weights(
    resdet: Command, learned_run: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """Only the network is: the row is tested like the others, whatever its own config says."""
    run = tmp_path / "context"
    words = ("backbone.norm=group", "roi.context=true", "train.iterations=4", "test.nms_iou=0.9")
    done = resdet("train-det", "--cfg", tiny_config, "--out", run, *words)
    assert done.code == 0, done.err
    plain, context = learned_run / "weights" / "last.pt", run / "weights" / "last.pt"
    options = ("--weights", plain, "--context-weights", context)
    rows = ablate(resdet, tmp_path / "out", *options, "--steps", "voting,context")
    assert rows["context"]["weights"] == [str(context)]
    assert "global context" in rows["context"]["testing"]
    assert "nms at 0.5; box voting" in rows["context"]["testing"]

    own = ablate(resdet, tmp_path / "own", "--weights", context, "--steps", "context")
    assert own["context"]["skipped"].startswith("in every row")
    done = resdet("ablate", "--weights", plain, "--context-weights", plain)
    assert (done.code, done.err) == (2, f"error: {plain}: trained without roi.context\n")


@pytest.mark.parametrize("option", ["--weights", "--context-weights"])
def test_what_a_later_row_needs_is_loaded_first(
    resdet: Command, tiny_run: Path, learned_run: Path, tmp_path: Path, option: str
) -> None:
    """Hours of measuring would otherwise end in an error, and with it all rows be lost."""
    first, damaged = learned_run / "weights" / "last.pt", tmp_path / "damaged.pt"
    state = torch.load(tiny_run / "weights" / "last.pt", weights_only=False)
    classes = ["ape", *state["classes"][1:]]
    config = state["config"] | {"roi": state["config"]["roi"] | {"context": True}}
    torch.save(state | {"classes": classes, "config": config}, damaged)
    done = resdet("ablate", "--weights", first, option, damaged, "--out", tmp_path / "out")
    assert done.code != 0 and done.err.count("\n") == 1
    assert str(damaged) in done.err
    assert "baseline" not in done.out


def test_dry_run_and_limit(resdet: Command, learned_run: Path, tmp_path: Path) -> None:
    weights = ("--weights", learned_run / "weights" / "last.pt")
    done = resdet("ablate", *weights, "--dry-run", "--out", tmp_path)
    assert done.code == 0, done.err
    assert "voting: test.refine.rounds=1 test.vote.iou=0.5 test.pyramid=[]\n" in done.out
    assert "ensemble: one network only" in done.out
    assert not list(tmp_path.iterdir())
    words = ("--limit", 4, "--steps", "baseline", "--resamples", 9, "--out", tmp_path)
    done = resdet("ablate", *weights, *words)
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "ablation.json").read_text())["images"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "baseline,magic"), "error: --steps: no 'magic'; choose from baseline, "),
        (("--limit", 0), "error: --limit 0: expected at least 1"),
        (("--resamples", 0), "error: --resamples 0: expected at least 1"),
        (("--out", "/proc/nowhere"), "error: /proc/nowhere: cannot be written"),
        (("test.vote.iou=2",), "error: "),
    ],
)
def test_wrong_usage_is_one_line(
    resdet: Command, tiny_run: Path, words: tuple[object, ...], message: str
) -> None:
    done = resdet("ablate", "--weights", tiny_run / "weights" / "last.pt", *words)
    assert done.code == 2
    assert done.err.startswith(message) and done.err.count("\n") == 1


def test_the_steps_are_the_papers() -> None:
    """Table 9's order, and Table 9's pyramid for its 600 pixels."""
    names = ["baseline", "refinement", "voting", "context", "multi-scale", "ensemble"]
    assert [step.name for step in STEPS] == list(NAMES) == names
    config = load_config("voc_r101.yaml")
    assert config.image.short_side_test == 600
    assert switches(STEPS[:1], config) == [
        "test.refine.rounds=0",
        "test.vote.iou=null",
        "test.pyramid=[]",
    ]
    assert switches(STEPS, config)[-1] == "test.pyramid=[200, 400, 600, 800, 1000]"
    assert [step.name for step in chosen("ensemble, voting")] == ["baseline", "voting", "ensemble"]
    with pytest.raises(ConfigError, match="no 'magic'"):
        chosen("magic")


def test_images_and_objects_that_are_left_out_are_told_as_in_training(
    resdet: Command, learned_run: Path, scenes: Path, tmp_path: Path
) -> None:
    shutil.copytree(scenes, tmp_path / "scenes")
    names = (scenes / "ImageSets/Main/val.txt").read_text().split()
    missing = next((tmp_path / "scenes/JPEGImages").glob(f"{names[0]}.*"))
    missing.unlink()
    xml = tmp_path / "scenes/Annotations" / f"{names[1]}.xml"
    xml.write_text(re.sub("<xmin>.*?</xmin>", "<xmin>900</xmin>", xml.read_text(), count=1))
    skip = ("data.on_bad_image=skip", "data.on_bad_box=drop", f"data.val.0.root={tmp_path}/scenes")
    words = ("--steps", "baseline", "--resamples", 9, "--out", tmp_path / "out")
    weights = ("--weights", learned_run / "weights" / "last.pt")
    done = resdet("ablate", *weights, *words, *skip)
    assert done.code == 0, done.err
    assert "val: images: 5 (" in done.out and "skipped 1)" in done.out
    assert "boxes dropped 1\n" in done.out
    assert f"WARNING: data.val: {xml}: " in done.out and f"{names[0]}: " in done.out
    assert "note: 1 of 6 images skipped and not in these numbers: " in done.out
