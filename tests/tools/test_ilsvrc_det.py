"""The config of ILSVRC DET on a drawn data set of its layout: check, train, evaluate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from resdet.tests.datasets.formats.det_tree import HALVES, TRAIN, VAL, write_det

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

#: A network and a schedule of seconds; data, classes and metric stay those of the config.
SMALL = (
    "data.workers=0",
    "image.short_side_train=[96]",
    "image.short_side_test=96",
    "image.long_side_max=128",
    "backbone.depth=18",
    "backbone.width=8",
    "backbone.weights=null",
    "backbone.norm=batch",
    "backbone.frozen_stages=0",
    "rpn.channels=16",
    "rpn.post_nms_train=40",
    "rpn.post_nms_test=50",
    "roi.pool_size=4",
    "roi.batch_per_image=16",
    "train.iterations=4",
    "train.milestones=[3]",
    "train.batch_size=2",
    "train.eval_every=2",
    "train.checkpoint_every=2",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("det")
    write_det(root / "ILSVRC")
    for half in HALVES:
        (root / "ILSVRC" / "lists" / f"{half}.txt").rename(root / f"{half}.txt")
    return root


def test_from_the_data_as_distributed_to_its_map(
    resdet: Command, data: Path, tmp_path: Path
) -> None:
    words = ("--cfg", "ilsvrc_det_r101.yaml", f"data.root={data}", *SMALL)
    checked = resdet("check-data", *words)
    assert checked.code == 0, checked.out + checked.err
    assert f"train: {len(TRAIN) + 3} images" in checked.out
    assert "2 negative images are left out" in checked.out
    run = tmp_path / "run"
    trained = resdet("train-det", *words, "--out", run)
    assert trained.code == 0, trained.err
    evaluations = [
        entry
        for entry in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        if entry["kind"] == "eval"
    ]
    assert len(evaluations) == 2 and all("ilsvrc_ap" in entry for entry in evaluations)
    evaluated = resdet(
        "eval", "--weights", run / "weights" / "last.pt", "--out", tmp_path, "--no-coco"
    )
    assert evaluated.code == 0, evaluated.err
    assert "ILSVRC DET AP" in evaluated.out
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["images"] == len(HALVES["val2"]) == 3
    assert report["metrics"]["ilsvrc_ap"] == pytest.approx(evaluations[-1]["ilsvrc_ap"])
    assert len(report["classes"]) == 200
    rows = {row["name"]: row for row in report["per_class"]}
    assert rows["dog"]["objects"] == rows["domestic cat"]["objects"] == 2
    assert rows["zebra"]["ilsvrc_ap"] is None and rows["dog"]["ilsvrc_ap"] is not None


def test_a_missing_and_a_damaged_image_do_not_end_a_training(
    resdet: Command, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    images = tmp_path / "data" / "ILSVRC" / "Data" / "DET"
    (images / "train" / f"{TRAIN[0]}.JPEG").unlink()
    (images / "train" / f"{TRAIN[1]}.JPEG").write_bytes(b"no image")
    words = ("--cfg", "ilsvrc_det_r101.yaml", f"data.root={tmp_path / 'data'}", *SMALL)
    trained = resdet("train-det", *words, "train.iterations=1", "--out", tmp_path / "run")
    assert trained.code == 0, trained.err
    log = (tmp_path / "run" / "train.log").read_text()
    assert "missing_image 1" in log and "unreadable_image 1" in log
    refused = resdet("train-det", *words, "data.on_bad_image=error", "--dry-run")
    assert refused.code == 3 and "missing_image" in refused.err


def test_a_list_that_is_not_there_is_named(resdet: Command, data: Path) -> None:
    words = ("--cfg", "ilsvrc_det_r101.yaml", f"data.root={data}", *SMALL)
    done = resdet("train-det", *words, "data.val.0.list_file=val3.txt", "--dry-run")
    assert done.code == 2
    assert "data.val.0.list_file: not found, tried" in done.err and VAL[0] not in done.err
