"""Narrow networks in torchvision's names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.models import get_model


def narrow(model: str, *, seed: int) -> dict[str, Tensor]:
    """The state dict of a torchvision ResNet with a 16th of the channels and random numbers."""
    with torch.device("meta"):
        shapes = get_model(model).state_dict()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, like in shapes.items():
        shape = [side // 16 if side >= 64 and side != 1000 else side for side in like.shape]
        tensors[name] = torch.rand(shape, generator=generator) + 0.1
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7)
    return tensors


@pytest.fixture(scope="session")
def narrow_resnet() -> Callable[..., dict[str, Tensor]]:
    """``narrow_resnet("resnet50", seed=0)``."""
    return narrow
