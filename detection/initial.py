"""The weights a training starts from."""

from __future__ import annotations

from typing import Any

from .build import Detector


def fill_backbone(detector: Detector) -> list[str]:
    return ["from scratch"]


def fill_from_checkpoint(detector: Detector, saved: dict[str, Any], *, reset_head: bool) -> list[str]:
    detector.model.load_state_dict(saved["model"])
    return ["from checkpoint"]
