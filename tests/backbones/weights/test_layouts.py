"""Each layout: recognised by its names, and converted to the same network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from resdet.backbones.resnet import ResNet
from resdet.backbones.weights.convert import Converted
from resdet.backbones.weights.layouts import recognise
from resdet.backbones.weights.load import load_into
from resdet.backbones.weights.reading import read_tensors
from resdet.detection.errors import WeightsError
from resdet.tests.backbones.weights.weights_files import (
    CLASSES,
    Narrow,
    detectron2_file,
    jwyang_file,
    mmdetection_file,
    read,
    renamed,
    to_detectron2,
    to_msra,
    without_counters,
)
from torch import Tensor


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def backbone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a classifier in torchvision's names is under a detector's names of ours."""
    return {
        f"roi_head.{name}" if name.startswith("res5") else f"trunk.{name}": tensor
        for name, tensor in read(tensors).tensors.items()
        if not name.startswith("fc.")
    }


# --- classifiers ------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_torchvision_logits(narrow_resnet: Narrow, depth: int) -> None:
    """Their code and ours compute the same from the same file."""
    tensors = narrow_resnet(f"resnet{depth}", seed=depth)
    for name, tensor in tensors.items():  # signs, and outputs that keep their size
        if tensor.dim() == 4:
            tensor.sub_(0.6).mul_(0.3)
        elif name.endswith(("bn2.weight", "bn3.weight")):
            tensor.mul_(0.3)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}").eval()
    converted = read(tensors)
    assert (converted.depth, converted.width, converted.class_count) == (depth, 4, 1000)
    ours = ResNet(depth, width=4, stride_in=converted.stride_in or "1x1").classifier()
    load_into(ours, converted.tensors)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = torch.func.functional_call(theirs, tensors, images)
        actual = ours.eval()(images)
    assert expected.std(0).max() > 1e-3
    torch.testing.assert_close(actual, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def test_torchvision_conditions(narrow_resnet: Narrow) -> None:
    tensors = narrow_resnet("resnet50", seed=0)
    converted = read(tensors)
    assert (converted.layout, converted.kind, converted.depth) == ("torchvision", "classifier", 50)
    assert (converted.pixels, converted.stride_in, converted.max_pool) == (
        "torchvision",
        "3x3",
        "pad1",
    )
    assert (converted.width, converted.stem_width, converted.anchors) == (4, 4, None)
    counters = [name for name in tensors if name.endswith("num_batches_tracked")]
    assert [name for name, _ in converted.unused] == counters
    assert len(converted.mapped) + len(counters) == len(tensors)
    weight = "res4.3.conv2.norm.running_var"
    assert torch.equal(converted.tensors[weight], tensors["layer3.3.bn2.running_var"])


def test_basic_blocks_have_no_stride_in(narrow_resnet: Narrow) -> None:
    converted = read(narrow_resnet("resnet18", seed=0))
    assert (converted.depth, converted.stride_in) == (18, None)


def test_detectron2s_converted_torchvision_file(narrow_resnet: Narrow) -> None:
    tensors = narrow_resnet("resnet50", seed=0)
    file = renamed(tensors, to_detectron2)
    assert "stem.fc.weight" in file and "res2.0.shortcut.norm.weight" in file
    converted = read(file)
    assert (converted.layout, converted.pixels) == ("detectron2_classifier", "torchvision")
    assert same(converted.tensors, read(tensors).tensors)


@pytest.mark.parametrize("letters", [False, True], ids=["res4_2", "res4b2"])
def test_msra(narrow_resnet: Narrow, letters: bool) -> None:
    tensors = without_counters(narrow_resnet("resnet50", seed=0))
    file = renamed(tensors, lambda name: to_msra(name, letters=letters))
    converted = read(file)
    assert (converted.layout, converted.pixels, converted.stride_in) == ("msra", "msra", "1x1")
    assert same(converted.tensors, read(tensors).tensors)
    assert converted.unused == ()


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_msra_conv1_bias_is_absorbed_by_the_mean(narrow_resnet: Narrow, value: float) -> None:
    """(conv + b) - mean = conv - (mean - b); R-50.pkl has the bias, R-101.pkl has not."""
    tensors = without_counters(narrow_resnet("resnet50", seed=0))
    file = renamed(tensors, to_msra)
    converted = read(file | {"conv1_b": torch.full((4,), value)})
    mean = converted.tensors["stem.conv1.norm.running_mean"]
    torch.testing.assert_close(mean, tensors["bn1.running_mean"] - value)
    assert any("conv1" in note for note in converted.notes) == (value != 0)


def test_msra_folded_norms_act_as_scale_and_shift(narrow_resnet: Narrow) -> None:
    file = {}
    for name, tensor in without_counters(narrow_resnet("resnet50", seed=0)).items():
        name = to_msra(name)
        if not name.endswith(("running_mean", "running_var")):
            file[name.replace("_bn_gamma", "_bn_s").replace("_bn_beta", "_bn_b")] = tensor
    converted = read(file)
    assert (converted.layout, converted.pixels, converted.stride_in) == (
        "msra_folded",
        "caffe",
        "1x1",
    )
    network = ResNet(50, width=4, stride_in="1x1").classifier()
    load_into(network, converted.tensors)
    norm = network.res5[2].conv3.norm
    x = torch.randn(1, 128, 2, 2)
    scale, shift = file["res5_2_branch2c_bn_s"], file["res5_2_branch2c_bn_b"]
    assert torch.equal(norm(x), x * scale[:, None, None] + shift[:, None, None])


def test_a_folded_norm_without_its_shift(narrow_resnet: Narrow) -> None:
    file = {"conv1_w": torch.ones(4, 3, 7, 7), "res_conv1_bn_s": torch.ones(4)}
    with pytest.raises(WeightsError, match=r"stem\.conv1\.norm has a scale and no shift"):
        read(file)


# --- detectors --------------------------------------------------------------------------------


def row_numbers(converted: Converted, layer: str) -> list[float]:
    """The rows a layer holds, which must be the same in its weight and bias."""
    bias = converted.tensors[f"{layer}.bias"]
    weight = converted.tensors[f"{layer}.weight"]
    assert torch.equal(weight.flatten(1).amax(1), bias)
    assert torch.equal(weight.flatten(1).amin(1), bias)
    return bias.tolist()


def has_backbone(converted: Converted, tensors: dict[str, Tensor]) -> bool:
    stages = ("trunk.", "roi_head.res5.")
    ours = {name: t for name, t in converted.tensors.items() if name.startswith(stages)}
    return same(ours, backbone(tensors))


def test_detectron2_keeps_every_row(narrow_resnet: Narrow) -> None:
    tensors = narrow_resnet("resnet50", seed=0)
    converted = read(detectron2_file(tensors))
    assert (converted.layout, converted.kind, converted.anchors) == (
        "detectron2",
        "detector",
        "float",
    )
    assert (converted.pixels, converted.stride_in) == ("msra", "1x1")
    assert has_backbone(converted, tensors)
    assert row_numbers(converted, "rpn_head.logits") == list(range(15))
    assert row_numbers(converted, "rpn_head.deltas") == list(range(60))
    assert row_numbers(converted, "roi_head.cls_logits") == [0, 1, 2, 3]
    assert row_numbers(converted, "roi_head.box_deltas") == list(range(12))
    assert converted.tensors["pixels.channels"].tolist() == [2, 1, 0]
    assert converted.class_count == CLASSES


def test_detectron2_file_may_state_its_pixels(narrow_resnet: Narrow) -> None:
    file = detectron2_file(narrow_resnet("resnet50", seed=0))
    file["pixel_mean"] = torch.tensor([123.675, 116.28, 103.53]).reshape(3, 1, 1)
    file["pixel_std"] = torch.tensor([58.395, 57.12, 57.375]).reshape(3, 1, 1)
    file["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(15, 4)
    converted = read(file)
    assert (converted.pixels, converted.stride_in) == ("torchvision", "3x3")
    assert len(converted.unused) == 3
    file["pixel_mean"] = torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(WeightsError, match=r"pixel_mean.*no known pixels"):
        read(file)


def test_mmdetection_anchors_are_reordered(narrow_resnet: Narrow) -> None:
    tensors = narrow_resnet("resnet50", seed=0)
    converted = read(mmdetection_file(tensors))
    assert (converted.layout, converted.pixels, converted.stride_in) == (
        "mmdetection",
        "msra",
        "1x1",
    )
    assert has_backbone(converted, tensors)
    order = [0, 5, 10, 1, 6, 11, 2, 7, 12, 3, 8, 13, 4, 9, 14]  # ratio x 5 + size, by size
    assert row_numbers(converted, "rpn_head.logits") == order
    rows = row_numbers(converted, "rpn_head.deltas")
    assert rows[:12] == [0, 1, 2, 3, 20, 21, 22, 23, 40, 41, 42, 43]
    assert rows[-4:] == [56, 57, 58, 59]
    assert row_numbers(converted, "roi_head.cls_logits") == [0, 1, 2, 3]
    assert row_numbers(converted, "roi_head.box_deltas") == list(range(12))


@pytest.mark.parametrize(
    ("boxes", "kept"), [(16, list(range(4, 16))), (12, list(range(12))), (4, list(range(4)))]
)
def test_jwyang(narrow_resnet: Narrow, boxes: int, kept: list[int]) -> None:
    tensors = narrow_resnet("resnet50", seed=0)
    converted = read(jwyang_file(tensors, boxes=boxes))
    assert (converted.layout, converted.pixels, converted.stride_in) == ("jwyang", "caffe", "1x1")
    assert (converted.max_pool, converted.anchors) == ("ceil", "rounded")
    assert any("16k + 7.5" in note for note in converted.notes)
    assert has_backbone(converted, tensors)
    # Object minus background is 15 in every row of a layer that holds its row numbers.
    assert row_numbers(converted, "rpn_head.logits") == [15] * 15
    assert row_numbers(converted, "rpn_head.deltas")[4:8] == [20, 21, 22, 23]
    assert row_numbers(converted, "roi_head.cls_logits") == [1, 2, 3, 0]
    assert row_numbers(converted, "roi_head.box_deltas") == kept


def test_the_golden_checkpoint_is_accounted_for(golden: Path) -> None:
    tensors = read_tensors(golden / "r50_c4_narrow.pkl")
    converted = read(tensors)
    assert (converted.layout, converted.depth, converted.class_count) == ("detectron2", 50, 4)
    assert (converted.width, converted.stem_width) == (8, 16)
    assert (converted.pixels, converted.stride_in, converted.unused) == ("msra", "1x1", ())
    for theirs, ours in converted.mapped:
        assert torch.equal(tensors[theirs], converted.tensors[ours])
    assert len(converted.mapped) == len(tensors)


def test_our_own_state_dicts_come_back(narrow_resnet: Narrow) -> None:
    first = read(detectron2_file(narrow_resnet("resnet50", seed=0)))
    again = read(first.tensors)
    assert (again.layout, again.pixels, again.stride_in) == ("resdet", "msra", None)
    assert same(again.tensors, first.tensors)
    classifier = read(narrow_resnet("resnet18", seed=0)).tensors
    pixels = {name: t for name, t in first.tensors.items() if name.startswith("pixels.")}
    again = read(classifier | pixels)
    assert (again.layout, again.pixels) == ("resdet_classifier", "msra")
    assert same(again.tensors, classifier)


# --- no layout --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["backbone.body.conv1.weight", "rpn.head.conv.weight"], "torchvision detection"),
        (["backbone.bottom_up.stem.conv1.weight"], "feature pyramid"),
        (["neck.lateral_convs.0.conv.weight", "backbone.conv1.weight"], "feature pyramid"),
        (["backbone.conv1.weight", "bbox_head.fc_cls.weight"], "mmdetection version 1"),
        (["features.0.weight", "features.2.weight"], "unknown layout.*features.0.weight.*known:"),
        ([], "unknown layout"),
    ],
)
def test_unknown_layouts_name_the_reason(names: list[str], reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        recognise(names)
