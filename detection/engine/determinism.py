"""Training whose results on a GPU are the same in every run, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(enabled: bool, device: torch.device) -> Iterator[None]:
    """Within the context, operations on a GPU add in a fixed order; a CPU does so anyway.

    Operations without such a version warn by name: max pooling backwards, for one, which runs if
    the first stage is trained, and RoIPool backwards.
    """
    if not enabled or device.type == "cpu":
        yield
        return
    # Read by cuBLAS at its first call; other values let it choose among streams' workspaces.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warning_only = torch.is_deterministic_algorithms_warn_only_enabled()
    tuned, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warning_only)
        torch.backends.cudnn.benchmark = tuned
