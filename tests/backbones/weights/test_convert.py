"""Conversion: refused files, overruled conditions, and a trained classifier for a detector."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from resdet.backbones.base import ClassifierNet
from resdet.backbones.pixels import PIXELS, PixelNorm
from resdet.backbones.resnet import CifarResNet, ResNet
from resdet.backbones.weights.convert import convert, frozen_classifier
from resdet.backbones.weights.layouts import recognise
from resdet.backbones.weights.load import (
    check_binding,
    import_weights,
    load_into,
    read_converted,
    split_backbone,
    write_converted,
)
from resdet.detection.errors import ConfigError, WeightsError
from resdet.tests.backbones.weights.weights_files import (
    Narrow,
    detectron2_file,
    jwyang_file,
    mmdetection_file,
    read,
    renamed,
    to_msra,
    without_counters,
)
from torch import Tensor, nn

# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["layer5.0.conv1.weight", "conv1.weight.bogus", "res6_0_branch1_w"]
)
@pytest.mark.parametrize("layout", ["torchvision", "msra", "detectron2", "mmdetection", "jwyang"])
def test_an_extra_tensor_is_an_error(narrow_resnet: Narrow, layout: str, name: str) -> None:
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
def test_a_tensor_that_is_not_a_weight_is_an_error(narrow_resnet: Narrow, tensor: Tensor) -> None:
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


def test_anchors_that_do_not_fit_the_ratios(narrow_resnet: Narrow) -> None:
    file = mmdetection_file(narrow_resnet("resnet50", seed=0))
    with pytest.raises(WeightsError, match=r"15 anchors at .* do not fit 2 ratios"):
        convert(file, "mmdetection", ratios=2)


def test_overridden_conditions(narrow_resnet: Narrow) -> None:
    tensors = narrow_resnet("resnet50", seed=0)
    converted = convert(tensors, "torchvision", pixels="caffe", stride_in="3x3")
    assert (converted.pixels, converted.stride_in) == ("caffe", "3x3")
    assert convert(tensors, "torchvision", pixels="msra").stride_in == "1x1"
    with pytest.raises(WeightsError, match="unknown pixels 'bgr'; known: torchvision"):
        convert(tensors, "torchvision", pixels="bgr")
    with pytest.raises(WeightsError, match="unknown layout 'caffe'"):
        convert(tensors, "caffe")


# --- a trained classifier for a detector ---------------------------------------------------------


def state_of(network: nn.Module, *, prefix: str = "network.", pixels: str = "msra") -> dict:
    module = nn.Module()
    module.pixels = PixelNorm(PIXELS[pixels])
    module.network = network
    names = module.state_dict().items()
    return {name.removeprefix("network.") if not prefix else name: t for name, t in names}


def trained(depth: int, **options: str) -> ClassifierNet:
    """A classifier whose statistics are no longer those of a new norm."""
    backbone = ResNet(depth, width=4, norm="batch", **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = backbone.classifier(3)
        for _ in range(3):
            model.train()(torch.randn(4, 3, 64, 64) + 1)
    return model.eval()


def detector_parts(depth: int, norm: str, stride_in: str = "3x3") -> nn.ModuleDict:
    backbone = ResNet(depth, width=4, norm=norm, stride_in=stride_in)
    head = nn.ModuleDict({"res5": backbone.tail(stride=2)})
    return nn.ModuleDict({"trunk": backbone.trunk(), "roi_head": head})


@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize("depth", [18, 50])
def test_a_frozen_file_gives_the_detector_the_classifiers_features(
    depth: int, norm: str, tmp_path: Path
) -> None:
    model, path = trained(depth, stride_in="1x1"), tmp_path / "backbone.safetensors"
    frozen = frozen_classifier(
        state_of(model), stride_in="1x1", classes=("a", "b", "c"), notes=("a note",)
    )
    write_converted(frozen, path)
    found = import_weights(path)
    assert (found.kind, found.depth, found.width, found.pixels) == ("classifier", depth, 4, "msra")
    assert found.stride_in == (None if depth == 18 else "1x1")
    assert (found.classes, found.notes) == (("a", "b", "c"), ("a note",))
    assert not any("num_batches" in name for name in found.tensors)
    detector = detector_parts(depth, norm, "1x1").eval()
    load_into(detector, split_backbone(found.tensors, ResNet(18))[0])
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = detector["roi_head"]["res5"](detector["trunk"](images))
        torch.testing.assert_close(features, model.features(images))


def test_the_file_is_bound_to_pixels_and_stride(tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    write_converted(frozen_classifier(state_of(trained(50)), stride_in="3x3"), path)
    check_binding(read_converted(path), pixels="msra", stride_in="3x3")
    with pytest.raises(ConfigError, match=r"pixels is torchvision.*stride_in is 1x1"):
        check_binding(read_converted(path), pixels="torchvision", stride_in="1x1")


@pytest.mark.parametrize("prefix", ["", "network."])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_a_classifiers_checkpoint_is_read_directly(norm: str, prefix: str, tmp_path: Path) -> None:
    """Its batch counters are neither asked for nor in the way; the moving average goes first."""
    model, path = trained(18), tmp_path / "best.pt"
    average = state_of(model, prefix=prefix)
    raw = {name: torch.zeros_like(tensor) for name, tensor in average.items()}
    torch.save({"model": raw, "average": average, "task": "classification"}, path)
    found = import_weights(path)
    assert (found.layout, found.pixels, found.class_count) == ("resdet_classifier", "msra", 3)
    detector = detector_parts(18, norm)
    load_into(detector, split_backbone(found.tensors, ResNet(18))[0])
    assert torch.equal(detector["trunk"].res2[0].conv1.weight, model.res2[0].conv1.weight)
    mean = detector["roi_head"]["res5"][1].conv2.norm.running_mean
    assert torch.equal(mean, model.res5[1].conv2.norm.running_mean)


def other_nets() -> dict[str, tuple[nn.Module, str]]:
    def net(depth: int, shortcut: str) -> ClassifierNet:
        return ResNet(depth, width=4, norm="batch", shortcut=shortcut).classifier(2)

    group = ResNet(18, width=4, norm="group").classifier(2)
    return {
        "plain": (net(18, "none"), "a plain net or one with shortcuts A"),
        "A": (net(34, "A"), "a plain net or one with shortcuts A"),
        "A bottleneck": (net(50, "A"), "a plain net or one with shortcuts A"),
        "C": (net(18, "C"), "a net with shortcuts C"),
        "CIFAR": (CifarResNet(20).classifier(2), "a net without conv5_x"),
        "group": (group, "group norm"),
    }


@pytest.mark.parametrize("kind", list(other_nets()))
def test_networks_that_no_detector_can_start_from(kind: str, tmp_path: Path) -> None:
    network, reason = other_nets()[kind]
    with pytest.raises(WeightsError, match=reason):
        frozen_classifier(state_of(network), stride_in="3x3")
    path = tmp_path / "best.pt"
    torch.save({"model": state_of(network)}, path)

    def begin() -> None:
        tensors, _ = split_backbone(import_weights(path).tensors, ResNet(18), source=str(path))
        load_into(detector_parts(18, "group"), tensors)

    if kind == "group":  # a detector with group norm can begin with it
        begin()
        return
    with pytest.raises(WeightsError, match=rf"best\.pt: {reason}"):
        begin()


@pytest.mark.parametrize("shortcut", ["A", "C", "none"])
def test_other_shortcuts_are_still_read_as_classifiers(shortcut: str, tmp_path: Path) -> None:
    network = ResNet(18, width=4, norm="batch", shortcut=shortcut).classifier(2)
    path = tmp_path / "best.pt"
    torch.save({"model": state_of(network)}, path)
    load_into(network, import_weights(path).tensors)


def test_unknown_pixels() -> None:
    state: dict[str, Tensor] = state_of(trained(18))
    state["pixels.mean"] = torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(WeightsError, match="of no known pixels"):
        frozen_classifier(state, stride_in="3x3")
