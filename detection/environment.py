"""The content of ``env.json``: versions and devices of a run."""

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
    """Versions of Python and packages, and the available devices."""
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
