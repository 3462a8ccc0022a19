"""What a run ran on: versions and devices, for ``env.json``."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "opencv-python-headless",
    "albumentations",
    "pycocotools",
)


def describe_environment() -> dict[str, object]:
    """Versions of what computes, and the devices it may compute on."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "resdet": version("resdet"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "packages": {name: version(name) for name in PACKAGES},
    }
