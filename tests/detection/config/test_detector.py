"""The schema: how strict it is, and that its defaults are the ones it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from resdet.detection.config.base import TrainConfig
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import config_from_dict, load_config, override, read_stored
from resdet.detection.errors import ConfigError
from resdet.detection.tasks.detector_network import eval_transform

VOC = "{format: voc, root: /r, split: s}"
DEPTHS = "18, 34, 50, 101 or 152 for family resnet"


def load(folder: Path, text: str) -> DetectorConfig:
    path = folder / "a.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        # no type becomes another
        ("train: {iterations: true}", "train.iterations", "must be a valid integer (got true)"),
        ("train: {iterations: '1'}", "train.iterations", "must be a valid integer (got '1')"),
        ("train: {iterations: 1.0}", "train.iterations", "must be a valid integer (got 1.0)"),
        ("train: {iterations: 1e3}", "train.iterations", "must be a valid integer (got 1000.0)"),
        ("train: {iterations: null}", "train.iterations", "must be a valid integer (got null)"),
        ("train: {iterations: [1]}", "train.iterations", "must be a valid integer (got [1])"),
        ("train: {iterations: 010}", "train.iterations", "must be a valid integer (got '010')"),
        ("train: {iterations: 1_000}", "train.iterations", "must be a valid integer (got '1_000')"),
        ("train: {lr: '0.1'}", "train.lr", "must be a valid number (got '0.1')"),
        ("train: {lr: true}", "train.lr", "must be a valid number (got true)"),
        ("roi: {class_agnostic_boxes: 1}", "roi.class_agnostic_boxes", "must be a valid boolean"),
        ("roi: {class_agnostic_boxes: yes}", "roi.class_agnostic_boxes", "must be a valid boolean"),
        ("backbone: {weights: 5}", "backbone.weights", "must be a valid string (got 5)"),
        ("backbone: {depth: '18'}", "backbone.depth", f"must be {DEPTHS} (got '18')"),
        ("backbone: {depth: 20}", "backbone.depth", f"must be {DEPTHS} (got 20)"),
        ("backbone: {depth: 18.0}", "backbone.depth", "must be a valid integer (got 18.0)"),
        ("backbone: {family: vgg}", "backbone.family", "must be 'resnet' (got 'vgg')"),
        ("backbone: {family: cifar}", "backbone.family", "must be 'resnet' (got 'cifar')"),
        ("backbone: {family: [resnet]}", "backbone.family", "must be a valid string"),
        (
            "backbone: {pixels: imagenet}",
            "backbone.pixels",
            "must be 'torchvision', 'msra' or 'caffe' (got 'imagenet')",
        ),
        (
            "image: {long_side_max: 3}",
            "image.long_side_max",
            "must be greater than or equal to 32 (got 3)",
        ),
        (
            "image: {short_side_test: 4}",
            "image.short_side_test",
            "must be greater than or equal to 32 (got 4)",
        ),
        ("test: {scales: [4, 64]}", "test.scales.0", "must be greater than or equal to 32 (got 4)"),
        (
            "image: {short_side_test: 1200}",
            "image.short_side_test",
            "1200 is above image.long_side_max 1000, so that no image would have it",
        ),
        (
            "image: {short_side_train: [600, 1200]}",
            "image.short_side_train.1",
            "1200 is above image.long_side_max 1000, so that no image would have it",
        ),
        (
            "image: {short_side_train: [24]}",
            "image.short_side_train.0",
            "must be greater than or equal to 32 (got 24)",
        ),
        ("data: {root: 5}", "data.root", ""),
        ("data: {classes: cat}", "data.classes", ""),
        ("data: {classes: [1]}", "data.classes.0", "must be a valid string (got 1)"),
        ("data: {classes: [null]}", "data.classes.0", "must be a valid string (got null)"),
        ("data: {train: {format: voc}}", "data.train", ""),
        ("data: {train: [{root: /r, split: s}]}", "data.train.0", ""),
        ("rpn: {anchor_sizes: 32}", "rpn.anchor_sizes", ""),
        # nothing outside its range
        ("rpn: {anchor_sizes: []}", "rpn.anchor_sizes", "tuple should have at least 1 item"),
        (
            "rpn: {anchor_sizes: [32, 0]}",
            "rpn.anchor_sizes.1",
            "must be greater than or equal to 0.01 (got 0)",
        ),
        ("rpn: {nms_iou: 1.5}", "rpn.nms_iou", "must be less than or equal to 1 (got 1.5)"),
        ("rpn: {nms_iou: -0.1}", "rpn.nms_iou", "must be greater than or equal to 0 (got -0.1)"),
        ("roi: {box_weights: [1, 2, 3]}", "roi.box_weights.3", "is required"),
        ("roi: {box_weights: [1, 2, 3, 4, 5]}", "roi.box_weights", ""),
        (
            "train: {iterations: 0}",
            "train.iterations",
            "must be greater than or equal to 1 (got 0)",
        ),
        ("train: {lr: 0}", "train.lr", "must be greater than 0 (got 0)"),
        (
            "backbone: {frozen_stages: 5}",
            "backbone.frozen_stages",
            "must be less than or equal to 4",
        ),
        ("train: {milestones: [2, 2]}", "train", "milestones must rise: [2, 2]"),
        ("rpn: null", "rpn", "must be an object (got null)"),
    ],
)
def test_refused(tmp_path: Path, text: str, key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    first = str(caught.value).splitlines()[0]
    wanted = re.escape(f"{tmp_path}/a.yaml:1: {key}") + r"[.\w]*: " + re.escape(reason)
    assert re.match(wanted, first), first


@pytest.mark.parametrize(
    "text",
    [
        "backbone: {width: 100000}",
        "rpn: {channels: 1000000}",
        f"rpn: {{anchor_sizes: {[32] * 1000}}}",
        "rpn: {anchor_ratios: [1.0e-300]}",
        "rpn: {post_nms_test: 100000000}",
        "roi: {pool_size: 5000}",
        "roi: {sampling_ratio: 1000}",
        "roi: {box_weights: [1.0e-300, 1, 1, 1]}",
        "test: {refine: {rounds: 1000000}}",
        f"test: {{scales: {list(range(100, 1100))}}}",
        "test: {pyramid: [1000000]}",
        "test: {max_detections: 100000000}",
        "image: {short_side_test: 1000000}",
        "data: {workers: 100000}",
    ],
)
def test_limits_that_no_use_reaches(tmp_path: Path, text: str) -> None:
    """Such a checkpoint would ask for hours or for all memory."""
    with pytest.raises(ConfigError, match=r"(must be|should have).* (at most|than)"):
        load(tmp_path, text)


def test_a_list_with_a_wrong_item_is_not_too_short(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "rpn: {anchor_sizes: [0], anchor_ratios: []}")
    sizes, ratios = str(caught.value).splitlines()
    assert "anchor_sizes.0: must be greater than or equal to 0.01" in sizes
    assert "anchor_ratios: tuple should have at least 1 item" in ratios


def test_scales_may_be_above_the_longer_side_which_grows_with_them(tmp_path: Path) -> None:
    config = load(tmp_path, "test: {scales: [600, 1200]}")
    assert eval_transform(config, 1200).long_side_max == 2000


def test_overrides_answer_for_their_own_sides() -> None:
    """A stored config may be older than a rule; what a test does not use stays as it is."""
    stored = config_from_dict({"image": {"short_side_test": 1200, "short_side_train": [24]}})
    assert override(stored, ["test.nms_iou=0.3"]).image == stored.image
    assert override(stored, ["image.short_side_test=900"]).image.short_side_test == 900
    with pytest.raises(ConfigError, match=r"^override image.long_side_max=1100: .*1200 is above"):
        override(stored, ["image.long_side_max=1100"])
    with pytest.raises(ConfigError, match=r"short_side_train\.1: .* \(got 8\)$"):
        override(stored, ["image.short_side_train=[64, 8]"])
    smaller = ["image.long_side_max=500", "image.short_side_test=300"]
    assert override(DetectorConfig(), smaller).image.short_side_train == (600,)


def test_a_run_may_be_older_than_a_rule(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("image: {short_side_test: 1200}")
    assert read_stored(DetectorConfig, path).image.short_side_test == 1200


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e999"])
def test_only_finite_numbers(tmp_path: Path, number: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a finite number$"):
        load(tmp_path, f"train: {{lr: {number}}}")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_only_finite_numbers_from_a_checkpoint(number: float) -> None:
    with pytest.raises(ConfigError, match="must be a finite number"):
        config_from_dict({"train": {"lr": number}})


@pytest.mark.parametrize(
    ("text", "section", "field", "value"),
    [
        ("train: {lr: 1e-3}", "train", "lr", 0.001),
        ("train: {lr: 1}", "train", "lr", 1.0),
        ("train: {milestones: [1, 5]}", "train", "milestones", (1, 5)),
        ("train: {milestones: []}", "train", "milestones", ()),
        ("train: {clip_norm: null}", "train", "clip_norm", None),
        ("backbone: {stride_in: 1x1}", "backbone", "stride_in", "1x1"),
        ("data: {classes: [no, on, y, 007, 12:30:45]}", "data", "classes",
         ("no", "on", "y", "007", "12:30:45")),
        ("data: {classes: ['null', '1']}", "data", "classes", ("null", "1")),
        ("data: {root: /a/b}", "data", "root", Path("/a/b")),
        ("rpn: {anchor_sizes: [8, 1.5]}", "rpn", "anchor_sizes", (8.0, 1.5)),
    ],
)  # fmt: skip
def test_accepted(tmp_path: Path, text: str, section: str, field: str, value: object) -> None:
    loaded = getattr(getattr(load(tmp_path, text), section), field)
    assert loaded == value
    assert type(loaded) is type(value) or isinstance(value, Path)


def test_a_config_cannot_be_changed() -> None:
    config = DetectorConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.train.lr = 1.0  # type: ignore[misc]  # what the test is about
    with pytest.raises(ValidationError, match="frozen"):
        config.train = TrainConfig()  # type: ignore[misc]  # what the test is about


def test_an_empty_mapping_is_all_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "{}") == DetectorConfig() == load(tmp_path, "train: {}\ndata: {}")


def test_sources_choose_their_fields_by_format(tmp_path: Path) -> None:
    coco = "{format: coco, images: /i, annotations: /a}"
    config = load(tmp_path, f"data: {{train: [{VOC}, {coco}]}}")
    found: list[dict[str, Any]] = [source.model_dump(mode="json") for source in config.data.train]
    assert found == [
        {
            "format": "voc",
            "root": "/r",
            "split": "s",
            "coordinates": "one_based",
            "annotated": True,
        },
        {"format": "coco", "images": "/i", "annotations": "/a", "annotated": True},
    ]


def test_defaults_of_the_paper_and_of_detectron2() -> None:
    """The values a reader would look up first, typed in from the sources the schema names."""
    config = DetectorConfig()
    assert config.backbone.depth == 101
    assert (config.backbone.norm, config.backbone.frozen_stages) == ("frozen", 2)
    assert config.rpn.anchor_sizes == (32, 64, 128, 256, 512)
    assert config.rpn.anchor_ratios == (0.5, 1, 2)
    assert (config.rpn.positive_iou, config.rpn.negative_iou) == (0.7, 0.3)
    assert (config.rpn.pre_nms_train, config.rpn.post_nms_train) == (12000, 2000)
    assert (config.rpn.pre_nms_test, config.rpn.post_nms_test) == (6000, 300)
    assert (config.roi.batch_per_image, config.roi.positive_fraction) == (512, 0.25)
    assert config.roi.box_weights == (10, 10, 5, 5)
    assert (config.train.lr, config.train.base_batch_size) == (0.02, 16)
    assert (config.train.momentum, config.train.weight_decay) == (0.9, 0.0001)
    assert (config.test.nms_iou, config.test.max_detections) == (0.5, 100)
