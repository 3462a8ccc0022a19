"""torchvision's compiled operators without torchvision's Python packages.

``import torchvision`` takes longer than a second, most of it for torch's compiler, and 170 MB. A
command that pools on a CPU needs one operator of it, NMS.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch


@cache
def operators() -> Any:
    """``torch.ops.torchvision``, loaded from its library file if there is exactly one, else by
    importing torchvision. Raises ImportError where that fails.
    """
    if "torchvision" not in sys.modules:
        with suppress(OSError):  # what is wrong with the file, the import says better
            _load_library()
    if not hasattr(torch.ops.torchvision, "nms"):
        import torchvision.extension  # noqa: F401  loads them
    return torch.ops.torchvision


def _load_library() -> None:
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder).glob("_C*.so")]
    if len(files) == 1:  # of two, torchvision might load the other one as well
        torch.ops.load_library(files[0])
