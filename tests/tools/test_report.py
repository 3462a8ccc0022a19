"""The report command: the page of complete, incomplete and damaged run folders."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import config_from_dict, dump_config
from resdet.detection.engine.log import RunLog
from resdet.detection.errors import ConfigError
from resdet.detection.evaluation.detection import evaluate
from resdet.detection.evaluation.page import Page
from resdet.detection.evaluation.report import write_report
from resdet.detection.structures import Annotation, Detections, Record
from resdet.tools import report
from resdet.tools.run_evaluation import read_scores
from resdet.tools.run_page import MAX_DRAWN, build_page
from rich.console import Console

EVIL = "<script>alert(1)</script>"


def save_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((60, 80, 3), 128, np.uint8)).save(path)


@pytest.fixture(scope="module")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the real writers: the log, the evaluation, the config."""
    folder = tmp_path_factory.mktemp("made") / "run"
    with RunLog(folder, total_steps=40, console=Console(quiet=True)) as log:
        log.step(20, {"loss": 1.0, "lr": 0.02, "images_per_s": 3.5})
        log.evaluation(20, {"voc_ap50": 0.125})
    (folder / "config.yaml").write_text(dump_config(DetectorConfig()))
    (folder / "env.json").write_text('{"torch": "9.9"}')
    truth = Annotation(
        torch.tensor([[0.0, 0, 50, 50]]), torch.tensor([0]), torch.zeros(1, dtype=torch.bool)
    )
    record = Record("a", folder / "a.jpg", (60, 80), truth)
    found = Detections(truth.boxes, torch.tensor([0.9]), truth.labels)
    write_report(evaluate({"a": found}, [record], [EVIL, "other"]), folder / "eval")
    save_image(folder / "plots" / "of an earlier version.png")
    (folder / "plots" / "labels.svg").write_text('<svg viewBox="0 0 200 50"></svg>')
    save_image(folder / "samples" / "train_batch.jpg")
    return folder


@pytest.fixture
def run_dir(made_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made_run, tmp_path / "my run")


@pytest.fixture
def infer_dir(tmp_path: Path) -> Path:
    """What infer writes: a record an image, and the drawings."""
    folder = tmp_path / "infer"
    save_image(folder / "drawn" / "sub" / "a.jpg")
    box = {"label": EVIL, "score": 0.9, "box": [0, 0, 9, 9]}
    records = [
        {
            "file": "sub/a.jpg",
            "width": 64,
            "height": 48,
            "detections": [box, box],
            "drawn": "drawn/sub/a.jpg",
        },
        {"file": "b.jpg", "error": "b.jpg: empty file"},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "detections.jsonl").write_text(lines)
    return folder


def titles(page: Page) -> list[str]:
    return [section.title for section in page.sections]


def make(run_dir: Path, detections: Path | None = None, out: Path | None = None) -> int:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    words = ["--detections", detections] if detections else []
    words += ["--out", out] if out else []
    return report.run(parser.parse_args([str(run_dir), *map(str, words)]))


def test_the_page_of_a_complete_run(run_dir: Path, infer_dir: Path) -> None:
    page = build_page(run_dir, infer_dir)
    assert page.title == "my run"
    assert page.headline is not None
    assert page.headline.value == 1.0
    assert "IoU >= 0.5" in page.headline.definition
    assert [row[0] for row in page.per_class.rows] == [EVIL, "other"]
    assert titles(page) == [
        "Curves",
        "Plots",
        "Samples",
        "Detections",
    ]
    assert page.subject == "detector: Faster R-CNN, ResNet-101 C4, width 64; images evaluated: 1"
    facts = dict(page.facts)
    assert facts["detector"] == "Faster R-CNN, ResNet-101 C4, width 64"
    assert facts["training speed"] == "3.5 images/s (median)"
    assert facts["images evaluated"] == "1"
    assert dict(page.details)["env.json"] == '{"torch": "9.9"}'
    assert str(run_dir / "results.csv") in dict(page.files)
    [plots] = [section for section in page.sections if section.title == "Plots"]
    vector, bitmap = plots.images
    assert (vector.width, vector.height) == (1080, 270)
    assert vector.uri.startswith("data:image/svg+xml") and bitmap.uri.startswith("data:image/jpeg")
    drawn = page.sections[-1]
    assert drawn.images[0].caption == f"sub/a.jpg: 2 {EVIL}"
    assert drawn.text.startswith("1 of 1 images in ")
    assert drawn.text.endswith("; 1 could not be used")


def test_the_command_writes_the_page_and_escapes_names(
    run_dir: Path, infer_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(run_dir, infer_dir) == 0
    html = (run_dir / "report.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script>alert" not in html
    assert f"open in a browser: {run_dir / 'report.html'} (0." in capsys.readouterr().out
    assert make(run_dir, out=run_dir / "new" / "page.html") == 0
    assert (run_dir / "new" / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_missing_parts_are_skipped_with_a_note(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", total_steps=40, console=Console(quiet=True)) as log:
        log.evaluation(20, {"voc_ap50": 0.125})
    page = build_page(tmp_path / "run")
    assert titles(page) == ["Curves"]
    assert page.headline is not None
    assert page.headline.value == 0.125
    notes = "\n".join(page.notes)
    for missing in ("eval/metrics.json", "config.yaml", "env.json", "samples", "at step 20"):
        assert missing in notes


def test_damaged_parts_are_skipped_with_a_note(run_dir: Path) -> None:
    (run_dir / "eval" / "metrics.json").write_text('{"metrics": [')
    (run_dir / "config.yaml").write_text("train: {lr: fast}")
    (run_dir / "samples" / "train_batch.jpg").write_text("no image")
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"kind"')
    page = build_page(run_dir)
    assert titles(page) == ["Curves", "Confusion", "Plots"]
    notes = "\n".join(page.notes)
    for damaged in ("metrics.json: cannot", "train.lr", "train_batch.jpg", "metrics.jsonl:3"):
        assert damaged in notes
    assert page.headline is not None
    assert page.headline.value == 0.125  # from the training's own evaluation


def test_images_outside_of_the_run_and_its_data_are_not_opened(
    run_dir: Path, tmp_path: Path
) -> None:
    """Of a stranger's run, images.json may name any image."""
    for name in ("private/a.jpg", "data/a.jpg", "my run/a.jpg"):
        save_image(tmp_path / name)
    source = {"format": "voc", "root": str(tmp_path / "data"), "split": "train"}
    data = {"train": [source], "val": [source], "classes": [EVIL, "other"]}
    (run_dir / "config.yaml").write_text(dump_config(config_from_dict({"data": data})))
    path = run_dir / "eval" / "images.json"
    content = json.loads(path.read_text())
    missed = content["images"][0] | {"wrong": 1}
    missed["detections"] = {key: [] for key in missed["detections"]}

    def shown(file: Path, **options: bool) -> bool:
        path.write_text(json.dumps(content | {"images": [missed | {"file": str(file)}]}))
        errors = build_page(run_dir, **options).errors
        assert errors is not None
        ((_, _, shot),) = errors.cases
        assert bool(shot.uri) != ("outside of the run and its data" in shot.why)
        return bool(shot.uri)

    (run_dir / "link.jpg").symlink_to(tmp_path / "private" / "a.jpg")
    for place in ("private/a.jpg", "data/../private/a.jpg", "my run/link.jpg"):
        assert not shown(tmp_path / place) and shown(tmp_path / place, trust=True)
    assert shown(tmp_path / "data" / "a.jpg") and shown(run_dir / "a.jpg")


def test_damaged_records_of_images_are_told_once(run_dir: Path) -> None:
    path = run_dir / "eval" / "images.json"
    path.write_text('{"version": 1, "task": "detection", "images": [{"nokind": 1}]}')
    (note,) = (note for note in build_page(run_dir).notes if "images.json" in note)
    assert note.count(str(path)) == 1 and "nokind" not in note


def test_a_class_that_is_not_found_is_told_first(run_dir: Path) -> None:
    path = run_dir / "eval" / "metrics.json"
    raw = json.loads(path.read_text())
    raw["per_class"][1] |= {"objects": 83, "voc_ap50": 0.01}
    path.write_text(json.dumps(raw))
    scores = read_scores(run_dir, [])
    assert scores is not None
    assert scores.advice.startswith("hardly found at all: other (83 objects). To do:")


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"metrics": 1, "definitions": []}'])
def test_other_json_is_not_an_evaluation(run_dir: Path, content: str) -> None:
    (run_dir / "eval" / "metrics.json").write_text(content)
    notes: list[str] = []
    assert read_scores(run_dir, notes) is None
    assert "cannot be used" in notes[0]


def test_drawings_are_shown_despite_damaged_records(run_dir: Path, infer_dir: Path) -> None:
    (infer_dir / "detections.jsonl").write_text("{\n")
    page = build_page(run_dir, infer_dir)
    assert page.sections[-1].images[0].caption == "drawn/sub/a.jpg"
    assert any("detections.jsonl" in note for note in page.notes)


def test_the_page_of_an_eval_folder(run_dir: Path) -> None:
    page = build_page(run_dir / "eval")
    assert page.headline is not None
    assert page.headline.value == 1.0
    assert titles(page) == []
    assert page.errors is not None and page.errors.curves[0].ap == 1.0
    assert page.confused is not None and page.confused.matrix[0][1][0] == (1, 1.0)
    (run_dir / "eval" / "images.json").unlink()  # of an earlier version
    assert titles(build_page(run_dir / "eval")) == ["Precision and recall", "Confusion"]


def test_many_drawings_are_limited_and_counted(run_dir: Path, infer_dir: Path) -> None:
    for number in range(MAX_DRAWN + 5):
        save_image(infer_dir / "drawn" / f"{number:03}.jpg")
    drawn = build_page(run_dir, infer_dir).sections[-1]
    assert len(drawn.images) == MAX_DRAWN
    assert drawn.text.startswith(f"{MAX_DRAWN} of {MAX_DRAWN + 6} images")


def test_a_folder_that_is_not_a_run_is_a_config_error(tmp_path: Path, run_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing: not a run folder"):
        build_page(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="not a run folder"):
        build_page(tmp_path)
    with pytest.raises(ConfigError, match="not an output folder of infer with drawings"):
        build_page(run_dir, tmp_path)


def test_a_page_that_cannot_be_written_is_a_config_error(run_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"page\.html: cannot be written"):
        make(run_dir, out=run_dir / "config.yaml" / "page.html")


def test_the_confused_classes_are_named_without_missed_and_invented_objects(
    tmp_path: Path,
) -> None:
    found = {"counts": [[3, 2, 9], [1, 4, 0], [7, 0, 0]], "score": 0.25}  # the last: no object
    content = {
        "metrics": {},
        "definitions": {},
        "per_class": [],
        "images": 1,
        "classes": ["a", "b"],
        "confusion": found,
        "errors": {"dap": {"classification": 0.1}},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    scores = read_scores(tmp_path, [])
    assert scores is not None and scores.confused is not None
    assert "b as a (2), a as b (1). To do" in scores.advice
    assert [each.count for each in scores.confused.pairs] == [2, 1]
    assert dict(scores.confused.matrix)["no object"][0][0] == 9


@pytest.mark.parametrize(("mean", "told"), [(0.864, True), (0.95, False), (None, False)])
def test_a_localizer_beside_the_mean_box(tmp_path: Path, mean: float | None, told: bool) -> None:
    content = {
        "metrics": {"true_class_error": 0.9},
        "definitions": {"true_class_error": "share"},
        "per_class": [
            {"name": "a", "top1_localization_error": None, "true_class_error": error}
            for error in (0.8, 1.0)
        ],
        "images": 10,
        "classes": ["a"],
        "baseline": {"true_class_error": mean},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    scores = read_scores(tmp_path, [])
    assert scores is not None
    assert ("mean box of each class" in scores.advice) == told
    (metric,) = scores.metrics
    assert metric.definition.startswith("share") and ("0.864" in metric.definition) == told
    # The bars, and the order, are those of the error that was measured.
    assert scores.per_class.columns[scores.per_class.bar_column] == "true_class_error"
    assert [row[1] for row in scores.per_class.rows] == [1.0, 0.8]
