"""Weights from files: what is loaded into a network, and which files are refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import resdet
import torch
from resdet.backbones.weights.convert import Converted, convert
from resdet.backbones.weights.load import write_converted
from resdet.backbones.weights.reading import read_state
from resdet.detection.config.detector import BackboneConfig, DetectorConfig, RoiConfig, RpnConfig
from resdet.detection.config.files import override
from resdet.detection.engine.checkpoint import save_checkpoint
from resdet.detection.errors import ConfigError, DataError, WeightsError
from resdet.detection.structures import Annotation, Batch, Detections, Geometry, Sample
from resdet.detection.tasks.checkpoints import load_members, load_trained, read_checkpoint
from resdet.detection.tasks.detector import DETECTION, Detector
from resdet.detection.tasks.detector_network import build_detector, build_pipeline
from resdet.tools.cli import main
from torch import Tensor
from torchvision.models.resnet import BasicBlock, ResNet

CLASSES = ("cat", "dog", "owl")
#: Test settings of detectron2 and mmdetection that are not our defaults.
AT_800 = (
    "image.short_side_test=800",
    "image.long_side_max=1333",
    "rpn.post_nms_test=1000",
    "test.score_threshold=0.05",
)


def configured(**backbone: object) -> DetectorConfig:
    """A narrow network; every detection is kept, so that a limit cannot hide one."""
    return DetectorConfig(
        backbone=BackboneConfig.model_validate({"depth": 18, "width": 8} | backbone),
        rpn=RpnConfig(channels=16, anchor_sizes=(16.0, 32.0), post_nms_test=30),
        roi=RoiConfig(pool_size=4, sampling_ratio=1),
        test=DetectorConfig().test.model_copy(update={"max_detections": 10_000}),
    )


def detector(config: DetectorConfig, *, seed: int, classes: Sequence[str] = CLASSES) -> Detector:
    """Random weights whose scores are far apart, so that rounding does not change an order."""
    train = config.train.model_copy(update={"seed": seed})
    model = build_detector(config.model_copy(update={"train": train}), len(classes)).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("norm.weight"):
            tensor.fill_(0.5)  # untrained, features would double in every block
        elif name.endswith(("norm.bias", "norm.running_mean")):
            tensor.normal_(0, 0.1, generator=generator)
        elif name.startswith("roi_head.cls_logits."):
            tensor.normal_(0, 1, generator=generator)
        elif name.startswith("roi_head.box_deltas."):
            tensor.normal_(0, 0.3, generator=generator)
    return Detector(model, config, tuple(classes))


def narrow_torchvision() -> ResNet:
    """ResNet-18 with an eighth of the channels and batch statistics as after some training."""
    torch.manual_seed(7)
    model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=5)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            inputs = module.in_channels if module.in_channels == 3 else module.in_channels // 8
            shape = (module.out_channels // 8, inputs, *module.kernel_size)
            module.weight = torch.nn.Parameter(torch.randn(shape) * 0.1)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.__init__(module.num_features // 8)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.2, 0.8)
    return model.eval()


def scene(*, seed: int = 3) -> Batch:
    pixels = torch.randint(
        256, (96, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return Batch.collate([Sample(pixels, Annotation.empty(), Geometry((96, 128)), "noise")])


def predict(one: Detector) -> Detections:
    return build_pipeline([one]).predict(scene())[0]


def expect_equal(one: Detections, other: Detections) -> None:
    assert len(one) > 20
    assert torch.equal(one.labels, other.labels)
    torch.testing.assert_close(one.scores, other.scores)
    torch.testing.assert_close(one.boxes, other.boxes)


def load(path: Path, base: DetectorConfig | None = None, overrides: Sequence[str] = ()) -> Detector:
    """As a command does with one ``--weights``."""
    (one,) = load_members([read_checkpoint(path, DETECTION)], base=base, overrides=overrides)
    return one


def start_from(one: Detector, path: Path, *, reset_head: bool) -> list[str]:
    """As a training with ``--weights`` does."""
    return load_trained(one, read_checkpoint(path, DETECTION), reset_head=reset_head)


def state_of(one: Detector) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in one.model.state_dict().items()}


def saved(one: Detector, path: Path, **more: object) -> Path:
    identity = {"config": one.config.model_dump(mode="json"), "classes": list(one.classes)}
    state = {"model": one.model.state_dict(), "step": 1, **identity, **more}
    save_checkpoint(path, state)
    return path


# ------------------------------------------------------------------------------- backbones


def test_without_backbone_weights_the_notes_name_the_seed() -> None:
    one = detector(configured(), seed=4)
    before = state_of(one)
    assert DETECTION.load_pretrained(one) == ["weights: random, seed 0"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(one).items())


def test_a_torchvision_file_fills_trunk_and_res5_and_nothing_else(tmp_path: Path) -> None:
    source = narrow_torchvision()
    path = tmp_path / "resnet18.pth"
    torch.save(source.state_dict(), path)
    one = detector(configured(weights=str(path)), seed=4)
    before = state_of(one)
    notes = DETECTION.load_pretrained(one)
    assert str(path) in notes[0] and "torchvision" in notes[0]
    assert any("fc.weight" in note for note in notes)
    after = state_of(one)
    for name, tensor in after.items():
        filled = name.startswith(("trunk.", "roi_head.res5."))
        assert torch.equal(tensor, before[name]) != filled, name
    theirs = source.state_dict()
    for ours, name in {
        "trunk.stem.conv1.weight": "conv1.weight",
        "trunk.stem.conv1.norm.running_var": "bn1.running_var",
        "trunk.res4.1.conv2.weight": "layer3.1.conv2.weight",
        "trunk.res3.0.shortcut.weight": "layer2.0.downsample.0.weight",
        "roi_head.res5.0.conv1.weight": "layer4.0.conv1.weight",
        "roi_head.res5.1.conv2.norm.running_mean": "layer4.1.bn2.running_mean",
    }.items():
        assert torch.equal(after[ours], theirs[name]), ours


def test_the_loaded_trunk_computes_what_torchvision_does(tmp_path: Path) -> None:
    source = narrow_torchvision()
    path = tmp_path / "resnet18.pth"
    torch.save(source.state_dict(), path)
    one = detector(configured(weights=str(path)), seed=4)
    DETECTION.load_pretrained(one)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = one.model.trunk(x)
        stem = source.maxpool(source.relu(source.bn1(source.conv1(x))))
        theirs = source.layer3(source.layer2(source.layer1(stem)))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        res5 = one.model.roi_head.res5(ours)
        torch.testing.assert_close(res5, source.layer4(theirs), rtol=1e-4, atol=1e-5)


def test_other_pixels_or_stride_name_the_setting_that_fixes_it(tmp_path: Path) -> None:
    one = detector(configured(depth=50, stride_in="1x1"), seed=1)
    path = tmp_path / "r50.safetensors"
    tensors = {
        name.removeprefix("trunk.").removeprefix("roi_head."): tensor
        for name, tensor in state_of(one).items()
        if name.startswith(("trunk.", "roi_head.res5."))
    }
    msra = convert(tensors, "detectron2_classifier", pixels="msra")
    write_converted(msra, path)

    def fill(**backbone: object) -> Detector:
        settings = {"depth": 50, "weights": str(path)} | backbone
        filled = detector(configured(**settings), seed=2)
        DETECTION.load_pretrained(filled)
        return filled

    with pytest.raises(ConfigError, match=r"set backbone\.pixels=msra backbone\.stride_in=1x1$"):
        fill()
    with pytest.raises(ConfigError, match=r"set backbone\.stride_in=1x1$"):
        fill(pixels="msra")
    with pytest.raises(ConfigError, match=r"set backbone\.pixels=msra$"):
        fill(stride_in="1x1")
    filled = state_of(fill(pixels="msra", stride_in="1x1"))
    name = "trunk.res4.5.conv3.weight"
    assert torch.equal(filled[name], tensors["res4.5.conv3.weight"])


def test_a_detector_gives_its_backbone_alone(tmp_path: Path) -> None:
    source = detector(configured(), seed=1)
    path = saved(source, tmp_path / "best.pt")
    one = detector(configured(weights=str(path)), seed=2, classes=("bee",))
    before = state_of(one)
    assert any("left out" in note for note in DETECTION.load_pretrained(one))
    for name, tensor in state_of(one).items():
        origin = state_of(source) if name.startswith(("trunk.", "roi_head.res5.")) else before
        assert torch.equal(tensor, origin[name]), name


def test_backbones_that_do_not_fit_or_exist(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(narrow_torchvision().state_dict(), path)
    wide = detector(configured(weights=str(path), width=16), seed=0)
    before = state_of(wide)
    with pytest.raises(ConfigError, match=r"resnet18\.pth: .*set backbone\.width=8$"):
        DETECTION.load_pretrained(wide)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(wide).items())
    missing = detector(configured(weights=str(tmp_path / "none.pth")), seed=0)
    with pytest.raises(WeightsError, match=r"none\.pth: no such weights file"):
        DETECTION.load_pretrained(missing)


# ------------------------------------------------------------------------------- detectors


def test_the_same_classes_give_the_same_detections(tmp_path: Path) -> None:
    source = detector(configured(), seed=1)
    path = saved(source, tmp_path / "best.pt")
    one = detector(configured(), seed=2)
    assert start_from(one, path, reset_head=True) == [f"weights: {path}"]
    expect_equal(predict(one), predict(source))


@pytest.mark.parametrize("agnostic", [False, True])
def test_reordered_classes_give_the_same_detections_under_the_names(
    tmp_path: Path, agnostic: bool
) -> None:
    config = configured()
    roi = config.roi.model_copy(update={"class_agnostic_boxes": agnostic})
    config = config.model_copy(update={"roi": roi})
    source = detector(config, seed=1)
    path = saved(source, tmp_path / "best.pt")
    one = detector(config, seed=2, classes=("owl", "cat", "dog"))
    notes = start_from(one, path, reset_head=False)
    assert any("reordered by name" in note for note in notes)
    expected, found = predict(source), predict(one)
    for name in CLASSES:
        of_source = expected[expected.labels == source.classes.index(name)]
        of_one = found[found.labels == one.classes.index(name)]
        assert len(of_source) > 5
        torch.testing.assert_close(of_one.scores, of_source.scores)
        torch.testing.assert_close(of_one.boxes, of_source.boxes)


def test_without_a_common_class_both_lists_are_named(tmp_path: Path) -> None:
    path = saved(detector(configured(), seed=1), tmp_path / "best.pt")
    one = detector(configured(), seed=2, classes=("ant", "bee"))
    before = state_of(one)
    with pytest.raises(DataError) as caught:
        start_from(one, path, reset_head=False)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    for part in (
        "['cat', 'dog', 'owl']",
        "['ant', 'bee']",
        "lacking ['ant', 'bee']",
        "too many ['cat', 'dog', 'owl']",
        "train.start_classes",
        "--reset-head",
    ):
        assert part in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(one).items())


def of_class(found: Detections, one: Detector, name: str) -> Detections:
    return found[found.labels == one.classes.index(name)]


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize(
    "classes", [("cat", "dog", "owl", "bee"), ("bee", "owl", "ant", "cat", "dog")]
)
def test_new_classes_leave_the_detections_of_the_others_as_they_are(
    tmp_path: Path, classes: tuple[str, ...], agnostic: bool
) -> None:
    config = configured()
    roi = config.roi.model_copy(update={"class_agnostic_boxes": agnostic})
    config = config.model_copy(update={"roi": roi})
    source = detector(config, seed=1)
    path = saved(source, tmp_path / "best.pt")
    one = detector(config, seed=2, classes=classes)
    notes = start_from(one, path, reset_head=False)
    new = [name for name in classes if name not in CLASSES]
    assert [note for note in notes if "is new" in note] == [
        f"class {name!r} is new: its rows are initialised" for name in new
    ]
    assert f"class rows kept: 3 of {len(classes)}" in notes
    expected, found = predict(source), predict(one)
    for name in CLASSES:
        before, after = of_class(expected, source, name), of_class(found, one, name)
        assert len(before) > 5
        torch.testing.assert_close(after.scores, before.scores, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(after.boxes, before.boxes)
    for name in new:
        assert of_class(found, one, name).scores.max() < 1e-8


def test_a_new_class_can_be_learned(tmp_path: Path) -> None:
    """It starts at the background, from where a few large steps on its rows carry it to the top."""
    path = saved(detector(configured(), seed=1), tmp_path / "best.pt")
    one = detector(configured(), seed=2, classes=(*CLASSES, "bee"))
    start_from(one, path, reset_head=False)
    layer = one.model.roi_head.cls_logits
    features = torch.rand(8, layer.in_features, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(100):
        loss = torch.nn.functional.cross_entropy(layer(features), torch.full((8,), 3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert layer(features).argmax(dim=1).tolist() == [3] * 8


def test_a_subset_keeps_its_rows(tmp_path: Path) -> None:
    source = detector(configured(), seed=1)
    path = saved(source, tmp_path / "best.pt")
    one = detector(configured(), seed=2, classes=("owl", "cat"))
    notes = start_from(one, path, reset_head=False)
    assert notes[1:] == ["classes of the weights left out: 1 (dog)", "class rows kept: 2 of 2"]
    theirs, ours = state_of(source), state_of(one)
    for kind in ("weight", "bias"):
        logits, deltas = f"roi_head.cls_logits.{kind}", f"roi_head.box_deltas.{kind}"
        assert torch.equal(ours[logits], theirs[logits][[2, 0, 3]])
        assert torch.equal(ours[deltas], torch.cat([theirs[deltas][8:12], theirs[deltas][:4]]))


def mapped(**names: str) -> DetectorConfig:
    config = configured()
    train = config.train.model_copy(update={"start_classes": names})
    return config.model_copy(update={"train": train})


def test_classes_of_other_names_are_mapped(tmp_path: Path) -> None:
    source = detector(configured(), seed=1)
    path = saved(source, tmp_path / "best.pt")
    one = detector(mapped(kitten="cat", hound="dog"), seed=2, classes=("hound", "owl", "kitten"))
    assert start_from(one, path, reset_head=False)[1:] == [
        "class 'hound' takes the rows of 'dog' (train.start_classes)",
        "class 'kitten' takes the rows of 'cat' (train.start_classes)",
        f"classes of {path} reordered by name",
    ]
    expected, found = predict(source), predict(one)
    for name, there in {"hound": "dog", "kitten": "cat", "owl": "owl"}.items():
        before, after = of_class(expected, source, there), of_class(found, one, name)
        torch.testing.assert_close(after.scores, before.scores)
        torch.testing.assert_close(after.boxes, before.boxes)


def test_a_near_name_is_pointed_out(tmp_path: Path) -> None:
    path = saved(detector(configured(), seed=1), tmp_path / "best.pt")
    one = detector(configured(), seed=2, classes=("cat", "dog", "owls"))
    notes = start_from(one, path, reset_head=False)
    assert (
        "class 'owls' is new: its rows are initialised; to take those of 'owl', map it in "
        "train.start_classes"
    ) in notes


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"bee": "cat"}, "the data have no class 'bee'"),
        ({"cat": "kat"}, "the weights have no class 'kat'; did you mean 'cat'?"),
    ],
)
def test_a_map_that_does_not_fit(tmp_path: Path, names: dict[str, str], reason: str) -> None:
    path = saved(detector(configured(), seed=1), tmp_path / "best.pt")
    with pytest.raises(ConfigError, match=re.escape(reason)):
        start_from(detector(mapped(**names), seed=2), path, reset_head=False)


def test_reset_head_re_initialises_the_class_layers_alone(tmp_path: Path) -> None:
    source = detector(configured(), seed=1)
    path = saved(source, tmp_path / "best.pt")
    one = detector(configured(), seed=2, classes=("cat", "bee"))
    before = state_of(one)
    assert any("re-initialised" in note for note in start_from(one, path, reset_head=True))
    layers = ("roi_head.cls_logits", "roi_head.box_deltas")
    fresh = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    for name, tensor in state_of(one).items():
        origin = before if name in fresh else state_of(source)
        assert torch.equal(tensor, origin[name]), name


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("backbone", "pixels", "msra"),
        ("backbone", "stride_in", "1x1"),
        ("backbone", "width", 16),
        ("rpn", "anchor_sizes", (16.0, 64.0)),
        ("roi", "tail_stride", 1),
        ("roi", "context", True),
        ("roi", "box_weights", (1.0, 1.0, 1.0, 1.0)),
    ],
)
def test_another_network_is_refused_naming_the_setting(
    tmp_path: Path, section: str, key: str, value: object
) -> None:
    config = configured()
    path = saved(detector(config, seed=1), tmp_path / "best.pt")
    changed = getattr(config, section).model_copy(update={key: value})
    other = config.model_copy(update={section: changed})
    one = detector(other, seed=2)
    for attempt in (
        lambda: start_from(one, path, reset_head=True),
        lambda: load(path, base=other),
    ):
        with pytest.raises(ConfigError, match=rf"{section}\.{key}=") as caught:
            attempt()
        assert str(path) in str(caught.value) and str(value) in str(caught.value)


# ----------------------------------------------------------------------------------- files


def test_a_checkpoint_is_loaded_with_its_config_and_classes(tmp_path: Path) -> None:
    source = detector(configured(), seed=1)
    path = saved(source, tmp_path / "best.pt")
    loaded = load(path)
    assert loaded.classes == CLASSES and loaded.config == source.config
    assert not loaded.model.training
    expect_equal(predict(loaded), predict(source))
    few = load(path, overrides=["test.max_detections=7"])
    assert len(predict(few)) == 7


def test_the_moving_average_goes_before_the_raw_weights(tmp_path: Path) -> None:
    raw, average = detector(configured(), seed=1), detector(configured(), seed=2)
    path = saved(raw, tmp_path / "last.pt", average=average.model.state_dict())
    expect_equal(predict(load(path)), predict(average))
    without = saved(raw, tmp_path / "none.pt", average=None)
    expect_equal(predict(load(without)), predict(raw))


def in_detectron2_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    rules = (
        (r"^trunk\.", "backbone."),
        (r"^rpn_head\.logits", "proposal_generator.rpn_head.objectness_logits"),
        (r"^rpn_head\.deltas", "proposal_generator.rpn_head.anchor_deltas"),
        (r"^rpn_head\.", "proposal_generator.rpn_head."),
        (r"^roi_head\.cls_logits", "roi_heads.box_predictor.cls_score"),
        (r"^roi_head\.box_deltas", "roi_heads.box_predictor.bbox_pred"),
        (r"^roi_head\.res5", "roi_heads.res5"),
    )
    renamed = {}
    for name, tensor in tensors.items():
        if not name.startswith("pixels."):
            for pattern, target in rules:
                name = re.sub(pattern, target, name)
            renamed[name] = tensor
    return renamed


@pytest.fixture
def converted() -> tuple[Detector, Converted]:
    """A narrow detectron2 C4 network, whose defaults ours are, and what its file becomes."""
    backbone = BackboneConfig(depth=50, width=8, pixels="msra", stride_in="1x1")
    config = DetectorConfig(backbone=backbone, rpn=RpnConfig(channels=16))
    source = detector(config, seed=1)
    tensors = in_detectron2_names(state_of(source))
    return source, replace(convert(tensors, "detectron2", pixels="msra"), classes=CLASSES)


def test_a_converted_detector_gives_equal_outputs(
    converted: tuple[Detector, Converted], tmp_path: Path
) -> None:
    source, file = converted
    path = tmp_path / "c4.safetensors"
    write_converted(file, path)
    checkpoint = read_checkpoint(path, DETECTION)
    assert checkpoint.classes == CLASSES
    assert checkpoint.config.backbone == source.config.backbone
    assert checkpoint.config == override(source.config, AT_800)
    words = ["image.short_side_test=600", "image.long_side_max=1000", "rpn.post_nms_test=300"]
    loaded = load(path, overrides=[*words, "test.score_threshold=0"])
    assert loaded.config == source.config and loaded.own == checkpoint.config
    expect_equal(predict(loaded), predict(source))
    again = detector(source.config, seed=2)
    start_from(again, path, reset_head=False)
    expect_equal(predict(again), predict(source))


@pytest.mark.parametrize("layout", ["detectron2", "mmdetection"])
def test_a_converted_detector_is_tested_as_in_its_own_toolkit(
    converted: tuple[Detector, Converted], tmp_path: Path, layout: str
) -> None:
    """detectron2's Base-RCNN-C4 and defaults, mmdetection's faster-rcnn_r50-caffe-c4."""
    path = tmp_path / "c4.safetensors"
    write_converted(replace(converted[1], layout=layout), path)
    plain = resdet.load(path)
    assert plain.testing == "shorter side 800; nms at 0.5"
    config = read_checkpoint(path, DETECTION).config
    assert (config.image.short_side_test, config.image.long_side_max) == (800, 1333)
    assert (config.rpn.pre_nms_test, config.rpn.post_nms_test) == (6000, 1000)
    assert config.test.score_threshold == 0.05 and config.test.max_detections == 100
    assert config.test.nms_iou == 0.5
    words = ["image.short_side_test=96", "rpn.post_nms_test=300", "test.max_detections=100"]
    assert resdet.load(path, overrides=words).testing == (
        "shorter side 96; nms at 0.5; overridden: image.short_side_test 96 (weights: 800), "
        "rpn.post_nms_test 300 (weights: 1000)"
    )


def test_a_config_in_place_of_a_checkpoints_own_is_told(tmp_path: Path) -> None:
    path = tmp_path / "own.pt"
    one = detector(configured(), seed=1)
    saved(one, path)
    base = override(one.config, ["test.nms_iou=0.3", "test.refine.rounds=1"])
    members = load_members([read_checkpoint(path, DETECTION)], base=base)
    told = DETECTION.describe_testing(members, DETECTION.pipeline(members))
    assert told.endswith("; overridden: test.nms_iou 0.3 (weights: 0.5)")
    members = load_members([read_checkpoint(path, DETECTION)], base=one.config)
    assert "overridden" not in DETECTION.describe_testing(members, DETECTION.pipeline(members))


def test_classes_without_names_are_numbered(
    converted: tuple[Detector, Converted], tmp_path: Path
) -> None:
    path = tmp_path / "c4.safetensors"
    write_converted(replace(converted[1], classes=()), path)
    assert read_checkpoint(path, DETECTION).classes == ("class0", "class1", "class2")


def test_converted_files_that_are_no_detector_of_ours(
    converted: tuple[Detector, Converted], tmp_path: Path
) -> None:
    source, file = converted
    path = tmp_path / "c4.safetensors"
    write_converted(replace(file, anchors="rounded"), path)
    with pytest.raises(WeightsError, match=r"c4\.safetensors: .*16k \+ 7\.5.*backbone\.weights"):
        load(path)
    backbone = source.config.backbone.model_copy(update={"weights": str(path)})
    user = source.config.model_copy(update={"backbone": backbone})
    DETECTION.load_pretrained(detector(user, seed=2))  # as the message advises
    torch.save(narrow_torchvision().state_dict(), tmp_path / "r18.pth")
    classifier = convert(narrow_torchvision().state_dict(), "torchvision")
    write_converted(classifier, path)
    with pytest.raises(WeightsError, match=r"holds a classifier, not a detector"):
        load(path)
    with pytest.raises(WeightsError, match=r"r18\.pth: not a checkpoint .*convert-weights"):
        load(tmp_path / "r18.pth")


def test_a_converted_checkpoint_of_ours_has_lost_its_config(tmp_path: Path) -> None:
    """Its anchors and box weights would be guessed."""
    path = tmp_path / "ours.safetensors"
    write_converted(convert(state_of(detector(configured(), seed=1)), "resdet"), path)
    with pytest.raises(WeightsError, match=r"ours\.safetensors: .*use the checkpoint itself"):
        load(path)


def test_a_command_reads_a_checkpoint_once(
    learned_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = list[str]()

    def counted(path: Path) -> object:
        reads.append(path.name)
        return read_state(path)

    monkeypatch.setattr("resdet.detection.engine.checkpoint.read_state", counted)
    best = learned_run / "weights" / "best.pt"
    resdet.load(best)
    assert main(["eval", "--weights", str(best), "--dry-run"]) == 0
    assert main(["train-det", "--resume", str(learned_run), "--dry-run"]) == 0
    assert reads == ["best.pt", "best.pt", "last.pt"]
