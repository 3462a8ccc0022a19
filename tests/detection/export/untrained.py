"""Untrained classifiers and localizers, small enough for tests."""

from __future__ import annotations

from pathlib import Path

from resdet.detection.config.files import check_dict
from resdet.detection.engine.checkpoint import save_checkpoint
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
