"""The shipped configs: they load, are documented, and have the values of their sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from resdet.datasets.formats.coco import CocoSource
from resdet.datasets.formats.ilsvrc_layout import IlsvrcSource
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import (
    dump_config,
    find_config,
    load_config,
    read_config,
    shipped_configs,
    stated_task,
)
from resdet.detection.config.localizer import LocalizerConfig, RegionLocalizerConfig
from resdet.detection.config.paths import missing_paths
from resdet.detection.tasks.classifier_network import train_crop
from resdet.detection.tasks.detector import DETECTION

VOC_CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
)

CLASSIFIERS = [name for name in shipped_configs() if stated_task(name) == "classification"]
LOCALIZERS = {
    name: RegionLocalizerConfig if stated_task(name).endswith("rcnn") else LocalizerConfig
    for name in shipped_configs()
    if stated_task(name).startswith("localization")
}
DETECTORS = [name for name in shipped_configs() if name not in (*CLASSIFIERS, *LOCALIZERS)]
every_config = pytest.mark.parametrize("name", DETECTORS)
#: Its backbone is trained by another shipped config, on crops of 64 pixels.
QUICK = "quickstart_pretrained_r18.yaml"
every_localizer = pytest.mark.parametrize("name", LOCALIZERS)
every_classifier = pytest.mark.parametrize("name", CLASSIFIERS)


def header(name: str) -> str:
    lines = find_config(name).read_text(encoding="utf-8").splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(lines[:end])


def test_shipped_detectors() -> None:
    assert set(shipped_configs()) >= {
        "bccd_r101.yaml",
        "bccd_r18.yaml",
        "cards_r18.yaml",
        "coco_r101.yaml",
        "quickstart_pretrained_r18.yaml",
        "quickstart_r18.yaml",
        "voc0712_coco_r101.yaml",
        "voc0712_r101.yaml",
        "voc0712_r101_paper.yaml",
        "voc2012_coco_r101.yaml",
        "voc2012_r101.yaml",
        "voc_r101.yaml",
    }


@every_config
def test_a_config_survives_dumping_and_loading(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert load_config(copy) == config
    assert load_config(Path(name).stem) == config


@every_config
def test_header_has_command_and_result(name: str) -> None:
    text = header(name)
    assert f"resdet train-det --cfg {name} data.root=" in text
    assert "Hardware, time, result: untested" in text or "mAP" in text


@every_config
def test_a_config_is_complete_and_consistent(name: str) -> None:
    config = load_config(name)
    assert config.data.train
    assert config.data.val
    assert config.data.classes is not None
    assert len(set(config.data.classes)) == len(config.data.classes)
    assert max(config.train.milestones, default=0) < config.train.iterations
    assert config.train.schedule == "cosine" or config.train.milestones
    assert config.train.warmup_iterations < config.train.iterations / 2
    assert min(config.image.short_side_train) <= config.image.short_side_test
    assert max(config.image.short_side_train) <= config.image.long_side_max
    if config.backbone.weights and name != QUICK:  # trained on the 7 x 7 cells conv5 ends with
        assert (config.roi.pool_size, config.roi.tail_stride) in ((14, 2), (7, 1))


@every_config
def test_weights_pixels_stride_and_norm_match(name: str) -> None:
    config = load_config(name)
    backbone = config.backbone
    if config.train.start_from:
        assert backbone.weights is None
        coco = load_config("coco_r101").backbone
        assert backbone.model_dump(exclude={"weights"}) == coco.model_dump(exclude={"weights"})
        assert config.train.start_from.name == "coco_r101.pt" and "coco_r101.pt" in header(name)
    elif backbone.weights is None:
        assert backbone.norm != "frozen"
        assert backbone.frozen_stages == 0
    elif backbone.weights.startswith("torchvision:"):
        assert backbone.weights == f"torchvision:ResNet{backbone.depth}_Weights.IMAGENET1K_V1"
        assert (backbone.pixels, backbone.stride_in) == ("torchvision", "3x3")
    elif name == QUICK:
        network = classifier("quickstart_cls_r18").network
        assert (backbone.depth, backbone.width) == (network.depth, network.width)
        assert (backbone.pixels, backbone.stride_in) == (network.pixels, network.stride_in)
        assert backbone.norm == "frozen"
    else:
        assert Path(backbone.weights).name == "R-101.pkl"
        assert (backbone.pixels, backbone.stride_in) == ("msra", "1x1")
        assert "R-101.pkl" in header(name)


def test_the_alternatives_to_the_weights_are_named_and_fit() -> None:
    """The configs train with SGD at 0.02, for which IMAGENET1K_V2 has no published result."""
    text = find_config("voc_r101").read_text(encoding="utf-8")
    for alternative in ("R-101.pkl", "ResNet101_Weights.IMAGENET1K_V2"):
        assert re.search(rf"^ +#.*{alternative}", text, re.MULTILINE)
    words = ["weights=R-101.pkl", "pixels=msra", "stride_in=1x1"]
    backbone = load_config("voc_r101", [f"backbone.{word}" for word in words]).backbone
    assert backbone.model_dump() == load_config("coco_r101").backbone.model_dump()


def test_the_quickstart_detectors_have_equal_settings() -> None:
    pretrained, scratch = load_config(QUICK), load_config("quickstart_r18")
    train = pretrained.train.model_copy(update={"lr": scratch.train.lr})
    alike = {"backbone": scratch.backbone, "train": train}
    assert pretrained.model_copy(update=alike) == scratch


@every_config
def test_data_root_prefixes_all_data(name: str) -> None:
    config = load_config(name, ["data.root=/nowhere"])
    messages = [line for line in missing_paths(config) if line.startswith("data.")]
    assert len(messages) >= 2
    assert all("tried /nowhere/" in line for line in messages)


def test_classes_are_in_the_usual_order() -> None:
    for name in ("voc_r101", "voc0712_r101", "voc0712_r101_paper"):
        assert load_config(name).data.classes == tuple(VOC_CLASSES.split())
    coco = load_config("coco_r101").data.classes
    assert coco is not None
    assert len(coco) == 80
    assert (coco[0], coco[9], coco[-1]) == ("person", "traffic light", "toothbrush")


def splits(config: DetectorConfig) -> list[tuple[str, str, str]]:
    return [
        (part, source.root.name, source.split)
        for part, sources in (("train", config.data.train), ("val", config.data.val))
        for source in sources
        if not isinstance(source, CocoSource)
    ]


def test_voc_splits() -> None:
    test = ("val", "VOC2007", "test")
    assert splits(load_config("voc_r101")) == [("train", "VOC2007", "trainval"), test]
    for name in ("voc0712_r101", "voc0712_r101_paper"):
        assert splits(load_config(name)) == [
            ("train", "VOC2007", "trainval"),
            ("train", "VOC2012", "trainval"),
            test,
        ]


def test_the_paper_config_has_the_values_of_the_papers() -> None:
    config = load_config("voc0712_r101_paper")
    assert config.image.short_side_train == (600,)
    assert config.image.short_side_test == 600
    assert config.rpn.anchor_sizes == (128, 256, 512)
    assert config.rpn.anchor_ratios == (0.5, 1, 2)
    assert config.rpn.border_anchors == "drop"
    assert config.rpn.batch_per_image == 256
    assert config.rpn.post_nms_train == 2000
    assert config.rpn.post_nms_test == 300
    assert config.rpn.smooth_l1_beta == pytest.approx(1 / 9)
    assert config.roi.pool == "pool"
    assert config.roi.batch_per_image == 128
    assert config.train.weight_decay == 0.0005
    assert config.train.lr / config.train.base_batch_size == 0.001
    assert config.data.difficult == "exclude"
    assert config.eval.metric == "voc_ap50_11point"


def test_coco_is_detectron2s_recipe() -> None:
    config = load_config("coco_r101")
    assert config.image.short_side_train == (640, 672, 704, 736, 768, 800)
    assert (config.image.short_side_test, config.image.long_side_max) == (800, 1333)
    assert config.rpn.post_nms_test == 1000
    assert (config.rpn.smooth_l1_beta, config.roi.smooth_l1_beta) == (0, 0)
    assert (config.train.iterations, config.train.milestones) == (270_000, (210_000, 250_000))
    assert (config.train.lr, config.train.batch_size) == (0.02, 16)
    assert config.test.score_threshold == 0.05
    assert config.eval.metric == "coco_ap"


@pytest.mark.parametrize("name", ["bccd_r18.yaml", "bccd_r101.yaml", "cards_r18.yaml"])
def test_the_small_data_sets_are_found(name: str, shared_data: Path) -> None:
    config = load_config(name, [f"data.root={shared_data}", "backbone.weights=null"])
    assert missing_paths(config) == []
    for _, folder, split in splits(config):
        assert (shared_data / folder / "ImageSets" / "Main" / f"{split}.txt").is_file()


# -------------------------------------------------------------------------------- classifiers


def classifier(name: str, *overrides: str) -> ClassifierConfig:
    return read_config(ClassifierConfig, name, overrides)


def test_shipped_classifiers() -> None:
    expected = {f"imagenet_r{depth}.yaml" for depth in (18, 34, 50, 101, 152)}
    expected |= {"imagenet_plain18.yaml", "imagenet_plain34.yaml", "cifar10_r20.yaml"}
    expected |= {"imagenet_modern_r50.yaml", "imagenet_modern_r101.yaml"}
    expected |= {"caltech40_r18.yaml", "caltech40_r34.yaml", "caltech40_plain34.yaml"}
    expected |= {"quickstart_cls_r18.yaml"}
    assert set(CLASSIFIERS) >= expected


@every_classifier
def test_a_classifier_config_is_complete(name: str, tmp_path: Path) -> None:
    config = classifier(name)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert classifier(str(copy)) == config
    assert f"resdet train-cls --cfg {name} data.root=" in header(name)
    assert "Hardware, time, result: untested" in header(name) or "top-1" in header(name)
    assert config.data.source is not None
    assert missing_paths(classifier(name, "data.root=/nowhere"))[0].startswith("data.source.root")
    assert max(config.train.milestones, default=0) < config.train.iterations
    assert config.network.norm == "batch" and config.network.weights is None
    train_crop(config)  # raises where sizes do not fit


def test_paper_and_modern_recipes() -> None:
    for depth in (18, 34, 50, 101, 152):
        config = classifier(f"imagenet_r{depth}")
        assert (config.network.depth, config.network.shortcut) == (depth, "B")
        assert (config.train.lr, config.train.momentum, config.train.weight_decay) == (
            0.1,
            0.9,
            1e-4,
        )
        assert (config.train.batch_size, config.train.iterations) == (256, 600_000)
        assert (config.crop.kind, config.crop.short_sides, config.crop.size) == (
            "paper",
            (256, 480),
            224,
        )
        assert config.test.short_sides == (224, 256, 384, 480, 640)
        assert isinstance(config.data.source, IlsvrcSource)
    for depth in (18, 34):
        plain = classifier(f"imagenet_plain{depth}")
        assert plain.network == classifier(f"imagenet_r{depth}").network.model_copy(
            update={"shortcut": "none"}
        )
    for depth in (50, 101):
        modern = classifier(f"imagenet_modern_r{depth}")
        assert (modern.network.depth, modern.crop.kind) == (depth, "resized")
        assert modern.train.schedule == "cosine" and modern.train.label_smoothing == 0.1
        assert modern.train.ema_decay and not modern.train.decay_norm


def test_plain_and_residual_nets_of_caltech40_have_equal_settings(shared_data: Path) -> None:
    plain, residual = (classifier(f"caltech40_{name}") for name in ("plain34", "r34"))
    assert plain.network.shortcut == "none" and residual.network.shortcut == "B"
    alike = {"network": residual.network}
    assert plain.model_copy(update=alike) == residual
    assert missing_paths(classifier("caltech40_r18", f"data.root={shared_data}")) == []


# --------------------------------------------------------------------------------- localizers


def test_shipped_localizers() -> None:
    assert set(LOCALIZERS) >= {
        "ilsvrc_loc_r101.yaml",
        "ilsvrc_rcnn_r101.yaml",
        "pets_loc_r18.yaml",
        "pets_rcnn_r18.yaml",
    }


@every_localizer
def test_a_localizer_config_is_complete(name: str, tmp_path: Path) -> None:
    config = read_config(LOCALIZERS[name], name)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert read_config(LOCALIZERS[name], copy) == config
    assert f"resdet train-loc --cfg {name} data.root=" in header(name)
    assert "Hardware, time, result: untested" in header(
        name
    ) or "error given the true class" in header(name)
    assert config.data.source is not None and config.network.norm == "frozen"
    assert config.train.warmup_iterations < config.train.iterations / 2
    assert max(config.train.milestones, default=0) < config.train.iterations


def test_localizer_configs_have_the_values_of_the_paper() -> None:
    first = read_config(LocalizerConfig, "ilsvrc_loc_r101.yaml")
    assert (first.crop.kind, first.crop.size) == ("paper", 224)
    assert (first.train.batch_size, first.head.per_image) == (256, 8)
    second = read_config(RegionLocalizerConfig, "ilsvrc_rcnn_r101.yaml")
    assert (second.proposals.count, second.region.size) == (200, 224)
    assert second.train.batch_size == 256


@pytest.mark.parametrize("name", ["voc0712_coco_r101", "voc2012_coco_r101"])
def test_the_classes_of_voc_are_found_among_coco_s(name: str) -> None:
    config, coco = load_config(name), load_config("coco_r101")
    assert config.data.classes is not None and coco.data.classes is not None
    assert " ".join(config.data.classes) == VOC_CLASSES
    names = [config.train.start_classes.get(each, each) for each in config.data.classes]
    assert set(names) <= set(coco.data.classes)
    assert len(set(names)) == 20
    for section, keys in DETECTION.network_settings.items():
        for key in keys:
            mine, theirs = (getattr(getattr(each, section), key) for each in (config, coco))
            assert mine == theirs, f"{section}.{key}"
