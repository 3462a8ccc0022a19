"""Compiling of a pipeline's networks for prediction: the option ``compile``."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import ConfigError
from ..export.network import ExportedNetwork
from ..models.compiled import GRAPHS, MODES, compile_parts, expect_compiler, parts_of


def compile_networks(pipeline: nn.Module, mode: str | None, device: torch.device) -> list[str]:
    """Let the networks of a pipeline, on ``device``, be compiled when they are first called, and
    say so in words; None leaves them as they are.

    Raises ConfigError for an unknown mode, for exported models, for CUDA graphs without a GPU, and
    where torch.compile does not work on this machine.
    """
    if mode is None:
        return []
    if mode not in MODES:
        raise ConfigError(f"compile {mode!r}: choose from {', '.join(MODES)}")
    for module in pipeline.modules():
        if isinstance(module, ExportedNetwork):
            raise ConfigError(
                f"compile: {module.path.parent} is an exported model, whose graph "
                f"{module.runtime} runs; PyTorch compiles checkpoints alone"
            )
    if mode == GRAPHS and device.type != "cuda":
        raise ConfigError(
            f"compile {GRAPHS}: CUDA graphs need a GPU, and the device is {device}; choose default"
        )
    if not parts_of(pipeline):
        raise ConfigError("compile: the networks of these weights have no part that is compiled")
    expect_compiler(device)
    compile_parts(pipeline, mode)
    return ["compiled, in CUDA graphs" if mode == GRAPHS else "compiled"]
