"""The settings that belong to the weights of detectors: of converted files, and of our own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...backbones.weights.convert import Converted
from ...backbones.weights.layouts import LAYOUTS
from ..config.detector import DetectorConfig
from ..config.files import override
from ..engine.checkpoint import load_checkpoint
from ..errors import WeightsError


def config_of(converted: Converted) -> DetectorConfig:
    """The config of a converted detector: the settings of testing that belong to its layout; all
    other defaults are those of detectron2's C4."""
    config = DetectorConfig()
    rpn_channels = len(converted.tensors["rpn_head.conv.weight"])
    backbone = config.backbone.model_dump() | {
        "depth": converted.depth,
        "width": converted.width,
        "pixels": converted.pixels,
        "stride_in": converted.stride_in or config.backbone.stride_in,
    }
    rpn = config.rpn.model_dump() | {"channels": rpn_channels}
    config = config.model_validate(config.model_dump() | {"backbone": backbone, "rpn": rpn})
    return override(config, [f"{name}={value}" for name, value in converted.testing])


def with_own_stride(converted: Converted, path: Path) -> Converted:
    """``converted`` with the stride position from the config of a checkpoint of this toolkit."""
    own = LAYOUTS[converted.layout].own
    if not (converted.bottlenecks and own and converted.stride_in is None):
        return converted
    try:
        state = load_checkpoint(path)
    except WeightsError:  # tensors without a config, such as a state dict saved alone
        return converted
    settings = state["config"].get("backbone") or state["config"].get("network")
    stride = settings.get("stride_in") if isinstance(settings, dict) else None
    return replace(converted, stride_in=stride)
