"""The export of a trained network, verified against its checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..export.folder import graph_file, new_folder, write_meta
from ..export.verify import Agreement, as_table
from ..export.writing import OPSET, write_graph
from ..extras import expect_extra
from ..files import sha256_of
from .checkpoints import load_members, read_checkpoint
from .quantizing import quantize_parts, read_calibration
from .registry import TASKS


@dataclass(frozen=True)
class ExportSummary:
    """A written export: its folder, its size in bytes, how well it agrees, and its description of
    int8 if it is that."""

    out: Path
    size: int
    agreements: tuple[Agreement, ...]
    int8: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Int8:
    """Calibration by ``images`` of ``source``, as in `read_calibration`; see `Calibration`.
    ``overrides`` change a config that is the source."""

    source: str
    images: int = 128
    max_drop: float = 1.0
    overrides: Sequence[str] = ()


def export(
    weights: Sequence[Path],
    out: Path,
    overrides: Sequence[str] = (),
    *,
    graphs: str = "one",
    form: str = "onnx",
    int8: Int8 | None = None,
    trust_paths: bool = False,
) -> ExportSummary:
    """Write the network of a checkpoint, as it is tested under ``overrides``, to the new folder
    ``out``, in one of `FORMATS`. With ``graphs`` "two", a detector is cut at its crops; ``int8``
    does so too, and quantizes the graphs.

    Raises:
        ConfigError: without the extras of the format, for options that the graph cannot hold, or
            where ``out`` exists.
        WeightsError: unusable weights, or an export whose results differ from the checkpoint's,
            or, in int8, are worse by more than allowed.
    """
    versions = expect_extra("export")
    if form == "openvino":
        versions |= expect_extra("nncf" if int8 else "openvino")
    if len(weights) > 1:
        raise ConfigError("--weights: the networks of an ensemble are exported one by one")
    first = read_checkpoint(weights[0], *TASKS.values())
    task = first.task
    (loaded,) = load_members([first], overrides=overrides, trust_paths=trust_paths)
    config: Any = loaded.config
    if config.test.precision not in ("fp32", "auto"):
        raise ConfigError(
            f"an export computes in fp32, the config says test.precision={config.test.precision}: "
            "add test.precision=fp32"
        )
    graphs = "two" if int8 else graphs
    if graphs not in task.graph_counts:
        option = "--int8: it needs" if int8 else "--graphs two:"
        raise ConfigError(f"{option} a cut at the crops of a detector, not of {task.noun}")
    exported = task.export(loaded, graphs)
    calibration = (
        read_calibration(loaded, int8.source, int8.images, int8.max_drop, int8.overrides)
        if int8
        else None
    )
    with new_folder(out) as folder:
        for name, graph in exported.graphs.items():
            write_graph(graph, folder, name, form)
        if exported.write_rest is not None:
            exported.write_rest(folder)
        with torch.no_grad():
            agreements = exported.verify(folder)
        quantized = quantize_parts(folder, loaded, calibration) if calibration else None
        hashes = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
        for runner in exported.runners if form == "onnx" else ():  # the format that they run
            shutil.copyfile(runner, folder / runner.name)
        files = {name: graph_file(folder, name).name for name in exported.graphs}
        write_meta(
            folder,
            {
                "task": task.name,
                "graphs": graphs,
                "weights": [{"file": path.name, "sha256": sha256_of(path)} for path in weights],
                "sha256": hashes,
                "classes": list(loaded.classes),
                "input": exported.input,
                "outputs": {files[name]: each.outputs for name, each in exported.graphs.items()},
                "settings": exported.settings,
                "opset": OPSET,
                "versions": {**versions, **_versions("resdet", "torch", "torchvision")},
                "verification": as_table(agreements),
                **({"int8": quantized} if quantized else {}),
                "config": config.model_dump(mode="json"),
            },
        )
        size = sum(path.stat().st_size for path in folder.iterdir())
    return ExportSummary(out, size, tuple(agreements), quantized)


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a checkout on the path
            found[name] = "unknown"
    return found
