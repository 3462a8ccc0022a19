"""Untrained networks, small enough for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import check_dict
from resdet.detection.engine.checkpoint import save_checkpoint
from resdet.detection.models.faster_rcnn import FasterRCNN
from resdet.detection.tasks.detector_network import build_detector
from resdet.detection.tasks.registry import TASKS
from torch import nn

CLASSES = ["n00000001", "n00000002", "n00000003"]
CONFIGS = {
    "classification": {
        "network": {"depth": 18, "width": 8},
        "crop": {"kind": "paper", "size": 64, "short_sides": [64, 80]},
        "test": {"resize": 72, "size": 64, "short_sides": [48, 96]},
    },
    "localization": {
        "network": {"depth": 18, "width": 8, "norm": "batch"},
        "crop": {"kind": "paper", "size": 64, "short_sides": [64, 80]},
        "head": {"level": "conv4", "anchor_sizes": [16, 32], "anchor_ratios": [1.0]},
        "test": {"protocol": "dense", "resize": 72, "size": 64, "short_sides": [64, 80], "top": 2},
    },
    "localization_rcnn": {
        "network": {"depth": 18, "width": 8, "norm": "batch"},
        "region": {"size": 48, "padding": 8},
        "proposals": {"count": 6},
        "test": {"top": 2},
    },
}


def build_bottlenecks(**settings: object) -> tuple[DetectorConfig, FasterRCNN]:
    """A detector with bottlenecks, ``settings`` of its sections, and statistics like learned
    ones."""
    config = check_dict(
        DetectorConfig,
        {
            "backbone": {"depth": 50, "width": 8, "norm": "batch", **settings.pop("backbone", {})},
            "image": {"short_side_test": 64, "long_side_max": 128},
            "rpn": {"post_nms_test": 40},
            "test": {"score_threshold": 0.02},
            **settings,
        },
        "detector",
    )
    model = build_detector(config, 3).eval()
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            nn.init.normal_(layer.bias, 0, 0.1, generator=generator)
    for layer in (model.roi_head.cls_logits, model.roi_head.box_deltas):
        nn.init.normal_(layer.weight, std=0.02, generator=generator)
    return config, model


def write_detector(path: Path) -> Path:
    """The checkpoint of `build_bottlenecks`."""
    config, model = build_bottlenecks()
    state = {"step": 1, "model": model.state_dict(), "classes": CLASSES}
    save_checkpoint(path, {**state, "config": config.model_dump(mode="json")})
    return path


def write(name: str, path: Path, classes: list[str] = CLASSES) -> Path:
    """An untrained checkpoint whose outputs differ from class to class."""
    task = TASKS[name]
    config = check_dict(task.schema, {"task": name, **CONFIGS[name]}, name)
    model = task.build(config, len(classes))
    for layer in task.class_layers:
        nn.init.normal_(model.get_parameter(f"{layer}weight"), std=0.2)
    state = {
        "task": name,
        "step": 1,
        "model": model.state_dict(),
        "config": config.model_dump(mode="json"),
        "classes": classes,
    }
    save_checkpoint(path, state)
    return path
