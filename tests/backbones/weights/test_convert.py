"""Each layout: recognised by its names, accounted for to the last tensor, and the same network."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from resdet.backbones.resnet import ResNet
from resdet.backbones.weights.convert import Converted, convert
from resdet.backbones.weights.layouts import recognise
from resdet.backbones.weights.load import load_into
from resdet.backbones.weights.pickles import read_tensors
from resdet.detection.errors import WeightsError
from torch import Tensor

Narrow = Callable[..., dict[str, Tensor]]


def to_detectron2(name: str) -> str:
    """detectron2's own renaming of torchvision's names (its convert-torchvision-to-d2 tool)."""
    if "layer" not in name:
        name = f"stem.{name}"
    for stage in (1, 2, 3, 4):
        name = name.replace(f"layer{stage}", f"res{stage + 1}")
    for index in (1, 2, 3):
        name = name.replace(f"bn{index}", f"conv{index}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def to_msra(name: str, *, letters: bool = False) -> str:
    """Names of R-50.pkl; ``letters`` writes blocks as Caffe does: res3b2, or res2c."""
    caffe = {"weight": "gamma", "bias": "beta"}
    if name.startswith("fc."):
        return f"fc1000_{name[3]}"
    if name == "conv1.weight":
        return "conv1_w"
    if name.startswith("bn1."):
        return f"res_conv1_bn_{caffe.get(name[4:], name[4:])}"
    layer, index, rest = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", name).groups()
    if letters and layer in "12":
        block = f"res{int(layer) + 1}{'abcdef'[int(index)]}"
    elif letters:
        block = f"res{int(layer) + 1}" + ("a" if index == "0" else f"b{index}")
    else:
        block = f"res{int(layer) + 1}_{index}"
    branches = {"conv1": "2a", "bn1": "2a", "conv2": "2b", "bn2": "2b", "conv3": "2c", "bn3": "2c"}
    module, _, stat = rest.rpartition(".")
    branch = branches.get(module, "1")
    if module.startswith("conv") or module == "downsample.0":
        return f"{block}_branch{branch}_w"
    return f"{block}_branch{branch}_bn_{caffe.get(stat, stat)}"


def to_mmdetection(name: str) -> str:
    return f"roi_head.shared_head.{name}" if name.startswith("layer4") else f"backbone.{name}"


def to_jwyang(name: str) -> str:
    for stage, slot in ((1, 4), (2, 5), (3, 6)):
        name = re.sub(rf"^layer{stage}\.", f"RCNN_base.{slot}.", name)
    name = re.sub(r"^layer4\.", "RCNN_top.0.", name)
    name = re.sub(r"^conv1\.", "RCNN_base.0.", name)
    return re.sub(r"^bn1\.", "RCNN_base.1.", name)


def renamed(tensors: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {rename(name): tensor for name, tensor in tensors.items()}


def without_counters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if "num_batches" not in name}


def read(tensors: dict[str, Tensor], **options: str) -> Converted:
    return convert(tensors, recognise(tensors), **options)


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


def test_basic_blocks_have_no_place_of_stride(narrow_resnet: Narrow) -> None:
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

CHANNELS, CLASSES = 64, 3


def heads(*, logits: int, boxes: int, channels: int = 32) -> dict[str, Tensor]:
    """The layers that a detector adds to a narrow R-50, numbered by row."""

    def rows(count: int) -> Tensor:
        return torch.arange(count, dtype=torch.float32)

    return {
        "conv.weight": torch.rand(channels, CHANNELS, 3, 3),
        "conv.bias": torch.rand(channels),
        "logits.weight": rows(logits)[:, None, None, None].expand(-1, channels, 1, 1),
        "logits.bias": rows(logits),
        "deltas.weight": rows(60)[:, None, None, None].expand(-1, channels, 1, 1),
        "deltas.bias": rows(60),
        "classes.weight": rows(CLASSES + 1)[:, None].expand(-1, 128),
        "classes.bias": rows(CLASSES + 1),
        "boxes.weight": rows(boxes)[:, None].expand(-1, 128),
        "boxes.bias": rows(boxes),
    }


def named_heads(layers: dict[str, Tensor], **names: str) -> dict[str, Tensor]:
    return {
        f"{names[layer.partition('.')[0]]}.{layer.partition('.')[2]}": tensor
        for layer, tensor in layers.items()
    }


def row_numbers(converted: Converted, layer: str) -> list[float]:
    """The rows a layer holds, which must be the same in its weight and bias."""
    bias = converted.tensors[f"{layer}.bias"]
    weight = converted.tensors[f"{layer}.weight"]
    assert torch.equal(weight.flatten(1).amax(1), bias)
    assert torch.equal(weight.flatten(1).amin(1), bias)
    return bias.tolist()


def detectron2_file(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    file = {
        name: tensor
        for name, tensor in renamed(without_counters(tensors), to_detectron2).items()
        if "fc" not in name
    }
    parts = {
        f"{'roi_heads' if name.startswith('res5') else 'backbone'}.{name}": tensor
        for name, tensor in file.items()
    }
    return parts | named_heads(
        heads(logits=15, boxes=4 * CLASSES),
        conv="proposal_generator.rpn_head.conv",
        logits="proposal_generator.rpn_head.objectness_logits",
        deltas="proposal_generator.rpn_head.anchor_deltas",
        classes="roi_heads.box_predictor.cls_score",
        boxes="roi_heads.box_predictor.bbox_pred",
    )


def mmdetection_file(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    file = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc")}
    return renamed(file, to_mmdetection) | named_heads(
        heads(logits=15, boxes=4 * CLASSES),
        conv="rpn_head.rpn_conv",
        logits="rpn_head.rpn_cls",
        deltas="rpn_head.rpn_reg",
        classes="roi_head.bbox_head.fc_cls",
        boxes="roi_head.bbox_head.fc_reg",
    )


def jwyang_file(tensors: dict[str, Tensor], *, boxes: int) -> dict[str, Tensor]:
    file = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc")}
    return renamed(file, to_jwyang) | named_heads(
        heads(logits=30, boxes=boxes),
        conv="RCNN_rpn.RPN_Conv",
        logits="RCNN_rpn.RPN_cls_score",
        deltas="RCNN_rpn.RPN_bbox_pred",
        classes="RCNN_cls_score",
        boxes="RCNN_bbox_pred",
    )


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


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["layer5.0.conv1.weight", "conv1.weight.bogus", "res6_0_branch1_w"]
)
@pytest.mark.parametrize("layout", ["torchvision", "msra", "detectron2", "mmdetection", "jwyang"])
def test_a_tensor_more_is_an_error(narrow_resnet: Narrow, layout: str, name: str) -> None:
    tensors = narrow_resnet("resnet50", seed=0)
    files = {
        "torchvision": tensors,
        "msra": renamed(without_counters(tensors), to_msra),
        "detectron2": detectron2_file(tensors),
        "mmdetection": mmdetection_file(tensors),
        "jwyang": jwyang_file(tensors, boxes=12),
    }
    assert recognise(files[layout]) == layout
    with pytest.raises(WeightsError, match=rf"1 tensors no .* has: {re.escape(name)}"):
        read(files[layout] | {name: torch.ones(1)})


def test_a_missing_tensor_is_an_error(narrow_resnet: Narrow) -> None:
    tensors = narrow_resnet("resnet50", seed=0)
    del tensors["layer3.5.bn2.running_var"]
    with pytest.raises(
        WeightsError, match=r"1 tensors are missing: res4\.5\.conv2\.norm\.running_var"
    ):
        read(tensors)


def test_an_unusual_depth_is_an_error(narrow_resnet: Narrow) -> None:
    tensors = narrow_resnet("resnet50", seed=0)
    cut = {name: t for name, t in tensors.items() if not name.startswith("layer3.5")}
    with pytest.raises(WeightsError, match=r"no ResNet has \(3, 4, 5, 3\) bottleneck blocks"):
        read(cut)


def test_a_value_that_is_not_finite_is_an_error(narrow_resnet: Narrow) -> None:
    tensors = narrow_resnet("resnet50", seed=0)
    tensors["layer1.0.bn1.running_var"][1] = torch.nan
    with pytest.raises(
        WeightsError, match=r"layer1\.0\.bn1\.running_var holds values that are not"
    ):
        read(tensors)


@pytest.mark.parametrize("tensor", [torch.tensor(1.0), torch.ones(4, dtype=torch.int64)])
def test_what_is_no_weight_is_an_error(narrow_resnet: Narrow, tensor: Tensor) -> None:
    tensors = narrow_resnet("resnet50", seed=0) | {"bn1.weight": tensor}
    with pytest.raises(WeightsError, match=r"bn1\.weight is .*, not weights"):
        read(tensors)


@pytest.mark.parametrize(
    ("name", "rows", "reason"),
    [
        ("RCNN_rpn.RPN_cls_score.weight", 7, "7 rows at .* are no pairs"),
        ("RCNN_rpn.RPN_cls_score.weight", 0, "0 rows at .* are no pairs"),
        ("RCNN_rpn.RPN_bbox_pred.bias", 15, "15 anchors at .* do not fit 3 ratios"),
        ("RCNN_bbox_pred.weight", 5, "5 box rows fit neither"),
    ],
)
def test_heads_with_other_rows(narrow_resnet: Narrow, name: str, rows: int, reason: str) -> None:
    file = jwyang_file(narrow_resnet("resnet50", seed=0), boxes=12)
    with pytest.raises(WeightsError, match=reason):
        read(file | {name: file[name][:1].expand(rows, *file[name].shape[1:])})


def test_two_tensors_for_one_name(narrow_resnet: Narrow) -> None:
    file = renamed(without_counters(narrow_resnet("resnet50", seed=0)), to_msra)
    file["res4b1_branch2a_w"] = file["res4_1_branch2a_w"]
    with pytest.raises(WeightsError, match=r"more than one tensor for res4\.1\.conv1\.weight"):
        read(file)


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
def test_files_that_are_no_resnet_of_ours(names: list[str], reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        recognise(names)


def test_anchors_that_do_not_fit_the_ratios(narrow_resnet: Narrow) -> None:
    file = mmdetection_file(narrow_resnet("resnet50", seed=0))
    with pytest.raises(WeightsError, match=r"15 anchors at .* do not fit 2 ratios"):
        convert(file, "mmdetection", ratios=2)


def test_overruled_conditions(narrow_resnet: Narrow) -> None:
    tensors = narrow_resnet("resnet50", seed=0)
    converted = convert(tensors, "torchvision", pixels="caffe", stride_in="3x3")
    assert (converted.pixels, converted.stride_in) == ("caffe", "3x3")
    assert convert(tensors, "torchvision", pixels="msra").stride_in == "1x1"
    with pytest.raises(WeightsError, match="unknown pixels 'bgr'; known: torchvision"):
        convert(tensors, "torchvision", pixels="bgr")
    with pytest.raises(WeightsError, match="unknown layout 'caffe'"):
        convert(tensors, "caffe")
