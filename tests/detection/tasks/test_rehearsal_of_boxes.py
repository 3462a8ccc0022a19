"""A dry run of detectors and localizers refuses what the run would refuse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from resdet.datasets.acquire.synthetic import make_scenes
from resdet.detection.config.files import read_config
from resdet.detection.errors import ConfigError
from resdet.detection.tasks.detector import DETECTION
from resdet.detection.tasks.localizer import LOCALIZATION
from resdet.detection.tasks.region_localizer import LOCALIZATION_RCNN
from resdet.tests.detection.tasks.test_rehearsal import overrides, trains, words_of
from resdet.tests.tools.test_train_loc import FIRST, SECOND, make_squares
from resdet.tools.cli import main

DETECTOR = """
data:
  train: [{format: voc, root: scenes, split: train}]
  val: [{format: voc, root: scenes, split: val}]
  classes: [circle, cross, ring, square, star, triangle]
  workers: 0
image: {short_side_train: [40], short_side_test: 40, long_side_max: 64}
backbone: {depth: 18, width: 4, norm: batch, frozen_stages: 0}
rpn: {channels: 4, anchor_sizes: [8, 16], post_nms_train: 20, post_nms_test: 10}
roi: {pool_size: 4, sampling_ratio: 1, batch_per_image: 8}
train: {iterations: 2, batch_size: 2, val_loss_batches: 1}
"""
#: Values of settings whose combinations matter to the first steps.
TRAIN: dict[str, Any] = {
    "train.batch_size": range(1, 6),
    "train.accumulate": range(1, 4),
    "train.epochs": (None, 0.3, 4),
    "train.precision": ("fp32", "bf16", "fp16", "auto"),
    "train.schedule": ("step", "cosine", "plateau"),
    "train.milestones": ([], [1], [1, 5]),
    "train.clip_norm": (None, 1.0),
    "train.ema_decay": (None, 0.0, 1.0),
    "train.patience": (None, 1),
    "data.val": ([], {"fraction": 0.5}),
    "data.max_pixels": (1, 10**6),
}
SIDES = ([1], [2], [16], [17, 40], [64])
DETECTORS = TRAIN | {
    "train.val_loss_batches": (0, 1, 3),
    "data.on_bad_image": ("error", "skip"),
    "image.short_side_train": SIDES,
    "image.short_side_test": (1, 17, 64),
    "image.long_side_max": (1, 30, 100),
    "image.flip": (0.0, 1.0),
    "image.augment": (
        [{"name": "RandomSizedBBoxSafeCrop", "params": {"height": 8, "width": 8}}],
        [{"name": "ColorJitter"}],
        [{"name": "CropAndPad", "params": {"px": -100}}],
    ),
    "backbone.depth": (18, 20, 50),
    "backbone.width": (1, 3, 4),
    "backbone.norm": ("batch", "group", "frozen"),
    "backbone.frozen_stages": (0, 2, 4),
    "rpn.anchor_sizes": ([0.01], [8, 1000], [1e5]),
    "rpn.anchor_ratios": ([0.01], [100.0]),
    "rpn.border_anchors": ("keep", "drop"),
    "rpn.positive_iou": (0.0, 0.7, 1.0),
    "rpn.negative_iou": (0.0, 0.3, 1.0),
    "rpn.low_quality_matches": (True, False),
    "rpn.batch_per_image": (1, 256),
    "rpn.positive_fraction": (0.0, 0.5, 1.0),
    "rpn.pre_nms_train": (1, 20),
    "rpn.post_nms_train": (1, 20),
    "rpn.pre_nms_test": (1, 20),
    "rpn.post_nms_test": (1, 20),
    "rpn.nms_iou": (0.0, 1.0),
    "rpn.min_size": (0.0, 1e6),
    "rpn.normalizer": ("fixed", "sampled"),
    "roi.pool": ("align", "pool"),
    "roi.pool_size": (1, 2, 7),
    "roi.sampling_ratio": (0, 1),
    "roi.tail_stride": (1, 2),
    "roi.batch_per_image": (1, 8),
    "roi.positive_fraction": (0.0, 1.0),
    "roi.positive_iou": (0.0, 0.5, 1.0),
    "roi.negative_iou_low": (0.0, 0.5, 1.0),
    "roi.append_ground_truth": (True, False),
    "roi.class_agnostic_boxes": (True, False),
    "roi.context": (True, False),
    "test.suppress.method": ("nms", "soft_nms", "wbf"),
    "test.refine.rounds": (0, 1),
    "test.vote.iou": (None, 0.0, 0.5),
    "test.scales": ([], [1, 30]),
    "test.pyramid": ([], [1, 30]),
    "test.flip": (True, False),
    "test.max_detections": (1, 100),
    "test.batch_size": (1, 3),
    "eval.metric": ("voc_ap50", "coco_ap", "ilsvrc_ap"),
}
LOCALIZERS = TRAIN | {
    "network.depth": (18, 20, 50),
    "network.width": (1, 3, 4),
    "network.norm": ("batch", "group"),
    "network.shortcut": ("A", "B", "C", "none"),
    "test.top": (1, 5),
}
FIRSTS = LOCALIZERS | {
    "crop.kind": ("paper", "resized"),
    "crop.size": (1, 16, 33, 64),
    "crop.short_sides": ([16, 16], [40, 20], [64, 64]),
    "crop.scale": ([0.0, 0.0], [0.5, 0.2], [0.1, 1.0]),
    "crop.least_visible": (0.0, 1.0),
    "crop.augment": ([{"name": "ColorJitter"}], [{"name": "HorizontalFlip"}]),
    "head.level": ("conv4", "conv5"),
    "head.anchor_sizes": ([0.01], [8, 1000]),
    "head.anchor_ratios": ([0.01], [1.0, 2.0]),
    "head.outputs": ("per_anchor", "shared"),
    "head.classes_in_loss": ("own", "every"),
    "head.positive_iou": (0.0, 1.0),
    "head.negative_iou": (0.0, 1.0),
    "head.low_quality_matches": (True, False),
    "head.per_image": (2, 1000),
    "test.protocol": ("centre", "dense"),
    "test.resize": (16, 72),
    "test.size": (1, 33, 64),
}
SECONDS = LOCALIZERS | {
    "region.size": (1, 16, 48),
    "region.padding": (0, 8, 30),
    "region.flip": (0.0, 1.0),
    "region.positive_iou": (0.0, 1.0),
    "region.positive_fraction": (0.0, 1.0),
    "region.classes_in_loss": ("own", "every"),
    "proposals.count": (1, 6),
    "proposals.nms_iou": (0.0, 1.0),
    "test.batch_size": (1, 4),
    "test.vote_iou": (None, 0.0, 1.0),
}
TASKS = {
    "detector": (DETECTION, DETECTORS),
    "first": (LOCALIZATION, FIRSTS),
    "second": (LOCALIZATION_RCNN, SECONDS),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rehearsal")
    make_scenes(folder / "scenes", train=4, val=2, size=(64, 80))
    make_squares(folder / "squares")
    words = ["train-loc", "--cfg", str(folder / "first.yaml"), "--out", str(folder / "run")]
    (folder / "first.yaml").write_text(FIRST)
    assert main([*words, "train.iterations=1"]) == 0
    proposing = f"proposals: {{weights: [{folder / 'run' / 'weights' / 'last.pt'}], "
    (folder / "detector.yaml").write_text(DETECTOR)
    (folder / "second.yaml").write_text(SECOND.replace("proposals: {", proposing))
    return folder


@pytest.mark.parametrize("name", list(TASKS))
def test_what_a_dry_run_accepts_trains(name: str, folder: Path) -> None:
    task, choices = TASKS[name]

    @settings(max_examples=6)
    @given(overrides(choices))
    def check(chosen: Mapping[str, Any]) -> None:
        try:
            config = read_config(task.schema, folder / f"{name}.yaml", words_of(chosen))
        except ConfigError:
            return
        with TemporaryDirectory(dir=folder) as prepared:
            trains(task, config, Path(prepared))

    check()


def test_an_augmentation_that_fails_on_the_images(folder: Path) -> None:
    augment = words_of({"image.augment": DETECTORS["image.augment"][-1]})
    config = read_config(DETECTION.schema, folder / "detector.yaml", augment)
    assert not trains(DETECTION, config, folder)


def test_regions_that_cannot_be_told_apart_are_refused_before_they_are_proposed(
    folder: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"region.positive_iou: must be greater than 0"):
        read_config(LOCALIZATION_RCNN.schema, folder / "second.yaml", ["region.positive_iou=0.0"])
