"""Weights files of other systems, made from narrow networks in torchvision's names."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from resdet.backbones.weights.convert import Converted, convert
from resdet.backbones.weights.layouts import recognise
from torch import Tensor

Narrow = Callable[..., dict[str, Tensor]]
CHANNELS, CLASSES = 64, 3


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
