"""Conversion of the values of other toolkits' weights: norms, rows of the RPN and sibling layers.

A anchors per cell · K classes. ``rows`` are the output channels of a weight or of a bias, so that
one function serves both. No function changes what the network computes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...detection.errors import WeightsError
from ..norm import EPS
from .layouts import Layout


def complete_norms(ours: dict[str, Tensor]) -> list[str]:
    """Convert folded norms to frozen ones; subtract Caffe's bias of conv1 from its norm's mean."""
    notes = []
    for name in [name for name in ours if name.endswith(".norm.scale")]:
        norm = name.removesuffix(".scale")
        if f"{norm}.shift" not in ours:
            raise WeightsError(f"{norm} has a scale and no shift")
        factors = ours.pop(name), ours.pop(f"{norm}.shift")
        ours |= {f"{norm}.{key}": value for key, value in norm_from_affine(*factors).items()}
    bias, mean = ours.pop("stem.conv1.bias", None), "stem.conv1.norm.running_mean"
    if bias is not None and mean in ours:
        if bias.shape != ours[mean].shape:
            raise WeightsError(f"conv1 has {len(bias)} biases for {len(ours[mean])} channels")
        if bias.any():
            notes.append("the bias of conv1 went into the mean of its norm")
        ours[mean] = ours[mean] - bias
    return notes


def convert_heads(ours: dict[str, Tensor], rules: Layout, ratios: int) -> list[str]:
    """Convert RPN and sibling layers to a sigmoid, size-major anchors and background last."""
    notes = []
    for name in [name for name in ours if name.startswith("rpn_head.logits.")]:
        if rules.rpn == "softmax":
            if not len(ours[name]) or len(ours[name]) % 2:
                raise WeightsError(f"{len(ours[name])} rows at {name} are no pairs of scores")
            ours[name] = sigmoid_rows(ours[name])
        if rules.anchor_order == "ratio_major":
            deltas = name.replace("logits", "deltas")
            anchors = len(ours[name])
            if not anchors or anchors % ratios or len(ours.get(deltas, ())) != 4 * anchors:
                raise WeightsError(f"{anchors} anchors at {name} do not fit {ratios} ratios x 4")
            ours[name] = size_major(ours[name], anchors=anchors, ratios=ratios)
            ours[deltas] = size_major(ours[deltas], anchors=anchors, ratios=ratios)
            notes.append(f"{name}, {deltas}: anchors reordered from ratio-major to size-major")
    for name in [name for name in ours if name.startswith("roi_head.cls_logits.")]:
        boxes = name.replace("cls_logits", "box_deltas")
        if rules.background == "first":
            ours[name] = background_last(ours[name])
            notes.append(f"{name}: background row moved from first to last")
        if boxes in ours:
            before = len(ours[boxes])
            ours[boxes] = object_boxes(
                ours[boxes], classes=len(ours[name]) - 1, background=rules.background
            )
            if len(ours[boxes]) < before:
                notes.append(f"{boxes}: the 4 rows of the background left out")
    return notes


def sigmoid_rows(rows: Tensor) -> Tensor:
    """(2A, ...) background rows then object rows of a softmax to the (A, ...) rows of a sigmoid.

    softmax(b, f)[1] = sigmoid(f - b).
    """
    background, foreground = rows.chunk(2)
    return foreground - background


def size_major(rows: Tensor, *, anchors: int, ratios: int) -> Tensor:
    """(A x c, ...) rows counted ratio x sizes + size, to size x ratios + ratio."""
    by_ratio = rows.unflatten(0, (ratios, anchors // ratios, len(rows) // anchors))
    return by_ratio.transpose(0, 1).flatten(0, 2)


def background_last(rows: Tensor) -> Tensor:
    """(K + 1, ...) with the background's row first, to last."""
    return rows.roll(-1, 0)


def object_boxes(rows: Tensor, *, classes: int, background: str) -> Tensor:
    """(4, ...), (4K, ...) or (4(K + 1), ...) to the first two; background boxes mean nothing.

    Raises:
        WeightsError: any other number of rows.
    """
    if len(rows) in (4, 4 * classes):
        return rows
    if len(rows) != 4 * (classes + 1):
        raise WeightsError(f"{len(rows)} box rows fit neither 4 nor {classes} classes x 4")
    return rows[4:] if background == "first" else rows[:-4]


def norm_from_affine(scale: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """The statistics (C,) of a frozen norm that multiplies by ``scale`` and adds ``shift``.

    Mean 0 and variance 1 - eps make it exact: 1 - eps + eps is 1 in float32 too.
    """
    return {
        "weight": scale,
        "bias": shift,
        "running_mean": torch.zeros_like(scale),
        "running_var": torch.ones_like(scale) - EPS,
    }
