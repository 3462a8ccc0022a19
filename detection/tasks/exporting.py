"""The export of a trained network, verified against its checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..export.folder import MODEL, new_folder, write_meta
from ..export.network import OnnxNetwork
from ..export.verify import Agreement, as_table
from ..export.writing import OPSET, write_onnx
from ..extras import expect_extra
from ..files import sha256_of
from .checkpoints import load_members, read_checkpoint
from .registry import TASKS


@dataclass(frozen=True)
class ExportSummary:
    """A written export: its folder, the size of its graph in bytes, and how well it agrees."""

    out: Path
    size: int
    agreements: tuple[Agreement, ...]


def export(
    weights: Sequence[Path], out: Path, overrides: Sequence[str] = (), *, trust_paths: bool = False
) -> ExportSummary:
    """Write the network of a checkpoint, as it is tested under ``overrides``, to the new folder
    ``out``.

    Raises:
        ConfigError: without the extra ``export``, for options that the graph cannot hold, or where
            ``out`` exists.
        WeightsError: unusable weights, or an export whose results differ from the checkpoint's.
    """
    versions = expect_extra("export")
    first = read_checkpoint(weights[0], *TASKS.values())
    task = first.task
    others = [read_checkpoint(path, task) for path in weights[1:]]
    members = load_members([first, *others], overrides=overrides, trust_paths=trust_paths)
    config: Any = members[0].config
    if config.test.precision not in ("fp32", "auto"):
        raise ConfigError(
            f"an export computes in fp32, the config says test.precision={config.test.precision}: "
            "add test.precision=fp32"
        )
    pipeline = task.pipeline(members).eval()
    graph = task.graph(pipeline)
    with new_folder(out) as folder:
        write_onnx(
            graph.module,
            graph.example,
            folder / MODEL,
            outputs=tuple(graph.outputs),
            sides=graph.sides,
        )
        network = OnnxNetwork(folder / MODEL)
        with torch.no_grad():
            agreements = graph.verify(network)
        shutil.copyfile(graph.runner, folder / graph.runner.name)
        write_meta(
            folder,
            {
                "task": task.name,
                "graphs": "one",
                "weights": [{"file": path.name, "sha256": sha256_of(path)} for path in weights],
                "model_sha256": sha256_of(folder / MODEL),
                "classes": list(members[0].classes),
                "input": graph.input,
                "outputs": graph.outputs,
                "settings": graph.settings,
                "testing": task.describe_testing(members, pipeline),
                "opset": OPSET,
                "versions": {**versions, **_versions("resdet", "torch", "torchvision")},
                "verification": as_table(agreements),
                "config": config.model_dump(mode="json"),
            },
        )
        size = (folder / MODEL).stat().st_size
    return ExportSummary(out, size, tuple(agreements))


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout on the path
            found[name] = "unknown"
    return found
