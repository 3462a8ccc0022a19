"""Detectors and backbones from files: what a network starts from, or is used with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...backbones.weights.convert import Converted
from ...backbones.weights.fetch import resolve
from ...backbones.weights.layouts import LAYOUTS
from ...backbones.weights.load import check_binding, import_weights, load_into, split_backbone
from ..config.detector import DetectorConfig
from ..config.files import config_from_dict, override
from ..engine.checkpoint import expect_task, load_checkpoint, task_of
from ..errors import ConfigError, WeightsError
from .class_layers import ClassLayers, Stored, fit_classes, join_classes
from .detector import Detector, build_model

StoredDetector = Stored[DetectorConfig]


def _reorder(tensors: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    """The class layers' rows in a new order; the background stays last."""
    rows = torch.tensor(order)
    mapped = dict(tensors)
    for name, tensor in tensors.items():
        if name.startswith("roi_head.cls_logits."):
            mapped[name] = torch.cat([tensor[:-1][rows], tensor[-1:]])
        elif name.startswith("roi_head.box_deltas.") and len(tensor) == 4 * len(order):
            mapped[name] = tensor.unflatten(0, (-1, 4))[rows].flatten(0, 1)
    return mapped


#: The two sibling layers.
CLASS_LAYERS = ClassLayers(
    ("roi_head.cls_logits.", "roi_head.box_deltas."), _reorder, "class layers start anew"
)


def load_detector(
    path: Path,
    device: str | torch.device = "cpu",
    *,
    base: DetectorConfig | None = None,
    overrides: Sequence[str] = (),
) -> Detector:
    """A trained detector in evaluation mode, from a checkpoint or from ``convert-weights``'s file.

    ``base`` takes the place of the configuration inside; its network must be the same.

    Raises:
        WeightsError: unreadable, or it does not fit its configuration.
        ConfigError: ``base`` describes another network.
    """
    stored = read_stored(path)
    if base is not None:
        _expect_same_network(base, stored.config, path)
        stored = replace(stored, config=base)
    return _detector(stored, path, device, overrides)


def load_detectors(
    paths: Sequence[Path],
    device: str | torch.device = "cpu",
    *,
    base: DetectorConfig | None = None,
    overrides: Sequence[str] = (),
) -> Detector:
    """A detector, or an ensemble of several: the first one leads, with its configuration (or
    ``base``) and its order of classes, which the others are brought into by name.

    Raises:
        DataError: the classes of two of them differ.
        WeightsError, ConfigError: as `load_detector`.
    """
    first = load_detector(paths[0], device, base=base, overrides=overrides)
    others = []
    for path in paths[1:]:
        member = join_classes(read_stored(path), path, paths[0], first.classes, CLASS_LAYERS)
        others.append(_detector(member, path, device, overrides))
    return replace(first, others=tuple(others))


def _detector(
    stored: StoredDetector, path: Path, device: str | torch.device, overrides: Sequence[str]
) -> Detector:
    config = override(stored.config, overrides)
    model = build_model(config, len(stored.classes))
    load_into(model, stored.tensors, source=str(path))
    return Detector(model.to(device).eval(), config, stored.classes)


def read_stored(path: Path) -> StoredDetector:
    """A detector's file of either kind; a moving average is taken before the raw weights."""
    if path.suffix != ".safetensors":
        state = load_checkpoint(path)
        expect_task(state, "detection", path)
        config = config_from_dict(state["config"], label=str(path))
        return Stored(state.get("average") or state["model"], config, tuple(state["classes"]))
    converted = import_weights(path)
    if converted.kind != "detector":
        raise WeightsError(f"{path}: holds a {converted.kind}, not a detector")
    if LAYOUTS[converted.layout].own:
        raise WeightsError(
            f"{path}: made from a checkpoint of this toolkit, without the config that came with "
            "it; use the checkpoint itself"
        )
    _expect_our_anchors(converted, path)
    classes = converted.classes or tuple(f"class{i}" for i in range(converted.class_count))
    return Stored(converted.tensors, _config_of(converted), classes)


def _config_of(converted: Converted) -> DetectorConfig:
    """What a converted detector says of itself, on the defaults, which are detectron2's C4."""
    config = DetectorConfig()
    rpn_channels = len(converted.tensors["rpn_head.conv.weight"])
    backbone = config.backbone.model_dump() | {
        "depth": converted.depth,
        "width": converted.width,
        "pixels": converted.pixels,
        "stride_in": converted.stride_in or config.backbone.stride_in,
    }
    rpn = config.rpn.model_dump() | {"channels": rpn_channels}
    return DetectorConfig.model_validate(config.model_dump() | {"backbone": backbone, "rpn": rpn})


def _expect_our_anchors(converted: Converted, path: Path) -> None:
    if converted.anchors == "rounded":
        raise WeightsError(
            f"{path}: trained with rounded anchors centred at 16k + 7.5, which this network does "
            "not have; its boxes would be off by half a cell. Use it as backbone.weights"
        )


def _expect_same_network(base: DetectorConfig, stored: DetectorConfig, path: Path) -> None:
    """What shapes cannot tell apart must not differ either: stride, pixels, anchors, pooling."""
    keys = {
        "backbone": ("family", "depth", "width", "norm", "stride_in", "pixels"),
        "rpn": ("channels", "anchor_sizes", "anchor_ratios"),
        "roi": (
            "pool",
            "pool_size",
            "tail_stride",
            "class_agnostic_boxes",
            "box_weights",
            "context",
        ),
    }
    for section, names in keys.items():
        for name in names:
            wanted = getattr(getattr(stored, section), name)
            given = getattr(getattr(base, section), name)
            if wanted != given:
                raise ConfigError(
                    f"{path} was trained with {section}.{name}={wanted}, the config says {given}"
                )


def fill_backbone(detector: Detector) -> list[str]:
    """Put ``backbone.weights`` into trunk and conv5_x; what was done, in words.

    Raises:
        WeightsError: unreadable or not fitting.
        ConfigError: trained under other pixels or strides than the config says.
    """
    backbone = detector.config.backbone
    if backbone.weights is None:
        return [f"weights: random, seed {detector.config.train.seed}"]
    path = resolve(backbone.weights)
    converted = _with_own_stride(import_weights(path), path)
    check_binding(converted, pixels=backbone.pixels, stride_in=backbone.stride_in)
    if converted.kind == "classifier":
        tensors, notes = split_backbone(converted.tensors, source=str(path))
    else:
        kept = ("trunk.", "roi_head.res5.")
        tensors = {k: v for k, v in converted.tensors.items() if k.startswith(kept)}
        notes = ("RPN and sibling layers of the detector are left out",)
    heads = ("pixels.", "rpn_head.", *CLASS_LAYERS.prefixes)
    load_into(detector.model, tensors, allow_missing=heads, source=str(path))
    done = f"weights: {path} ({converted.layout}, {len(tensors)} tensors)"
    return [done, *converted.notes, *notes]


def _with_own_stride(converted: Converted, path: Path) -> Converted:
    """With the stride that a checkpoint of this toolkit has in its config; no tensor shows it."""
    if not (
        converted.bottlenecks and LAYOUTS[converted.layout].own and converted.stride_in is None
    ):
        return converted
    try:
        state = load_checkpoint(path)
    except WeightsError:  # tensors without a config, such as a state dict saved alone
        return converted
    section = {"detection": "backbone", "classification": "network"}[task_of(state, path)]
    settings = state["config"].get(section)
    stride = settings.get("stride_in") if isinstance(settings, dict) else None
    return replace(converted, stride_in=stride)


def fill_from_detector(detector: Detector, path: Path, *, reset_head: bool) -> list[str]:
    """Put a trained detector's weights into ``detector``; what was done, in words.

    The classes are compared by name: another order is mapped, other names are an error unless
    ``reset_head`` lets the class layers start anew.

    Raises:
        DataError: other classes, naming both lists and the difference.
        ConfigError: the checkpoint is of another network.
        WeightsError: unreadable or not fitting.
    """
    stored = read_stored(path)
    _expect_same_network(detector.config, stored.config, path)
    fitted = fit_classes(stored, path, detector.classes, CLASS_LAYERS, reset_head=reset_head)
    load_into(detector.model, fitted.tensors, allow_missing=fitted.missing, source=str(path))
    return [f"weights: {path}", *fitted.notes]
