"""How a GPU computes in training: in which order, by which algorithms, and with which products."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..config.base import TrainConfig
from ..evaluation.prediction import resolved


@contextmanager
def gpu_settings(
    settings: TrainConfig, device: torch.device, *, fixed_size: bool = False
) -> Iterator[None]:
    """Within the context, a GPU computes as ``settings`` say; a CPU is not concerned.

    ``deterministic``: operations add in a fixed order, as on a CPU. Those without such a version
    warn by name: max pooling backwards, for one, which runs if the first stage is trained, and
    RoIPool backwards. Otherwise, where all images have a ``fixed_size``, cuDNN measures its
    algorithms at the first batch and takes the fastest. ``tf32``: which products are rounded.
    """
    if device.type == "cpu":
        yield
        return
    before = _flags()
    if settings.deterministic:
        # Read by cuBLAS at its first call; other values let it choose among streams' workspaces.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        order = True, True
    else:
        order = before[:2]
    tuned = fixed_size and not settings.deterministic
    _set_flags(*order, tuned, settings.tf32 != "none", settings.tf32 == "all")
    try:
        yield
    finally:
        _set_flags(*before)


def describe_precision(settings: TrainConfig, device: torch.device) -> str:
    """The precision of training in words."""
    words = resolved(settings.precision, device)
    if words == "fp32" and device.type != "cpu":
        words += {
            "none": " without TF32",
            "convolutions": ", convolutions in TF32",
            "all": ", convolutions and matrix products in TF32",
        }[settings.tf32]
    return words + " (train.precision=auto)" * (settings.precision == "auto")


def _flags() -> tuple[bool, bool, bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )


def _set_flags(
    fixed_order: bool, warn_only: bool, tuned: bool, convolutions: bool, products: bool
) -> None:
    torch.use_deterministic_algorithms(fixed_order, warn_only=warn_only)
    torch.backends.cudnn.benchmark = tuned
    with warnings.catch_warnings():  # of newer names, which torch's compiler does not read yet
        warnings.simplefilter("ignore", UserWarning)
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.backends.cuda.matmul.allow_tf32 = products
