"""Writing of a module as a standard ONNX file, with the extra ``export``, or as OpenVINO's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..extras import expect_extra, require_extra
from .folder import FORMATS
from .graph import batched_nms

#: That of the operators; runtimes of the last years have it.
OPSET = 18


@dataclass(frozen=True)
class Graph:
    """A module that is to be an ONNX graph, with its inputs and outputs in order.

    ``examples`` are inputs by name, from which the module is traced, and ``sides`` the names of
    their dimensions that may have any size, by index: in the examples they are large and differ,
    since an exporter takes equal ones for the same. ``outputs`` say what each output is.
    """

    module: nn.Module
    examples: Mapping[str, Tensor]
    sides: Mapping[str, Mapping[int, str]]
    outputs: Mapping[str, str]


def write_onnx(graph: Graph, path: Path) -> None:
    """Write ``graph`` to ``path``, with operators of the standard alone.

    Raises ConfigError without the extra ``export``, and for a network that ONNX cannot hold.
    """
    expect_extra("export")
    import onnx
    import torchvision.ops  # noqa: F401  before the export, which else does not know RoIAlign

    dynamic = tuple(
        dict.fromkeys(graph.sides.get(name, ()), torch.export.Dim.DYNAMIC)
        for name in graph.examples
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.examples.values()),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dynamic,
            custom_translation_table={torch.ops.resdet.batched_nms.default: _nms_in_onnx},
            input_names=list(graph.examples),
            output_names=list(graph.outputs),
            external_data=False,
            verbose=False,
        )
    assert program is not None  # noqa: S101  narrows types
    model = program.model_proto
    _name_sides(model, graph.sides)
    _drop_notes(model)
    foreign = {node.domain for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    if foreign or model.functions:
        raise ConfigError(f"{path}: the graph needs operators of {', '.join(sorted(foreign))}")
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_graph(graph: Graph, folder: Path, name: str, form: str) -> None:
    """Write ``graph`` to its file in ``folder``, in one of `FORMATS`; raises as `write_onnx`, and
    ConfigError without the extra ``openvino`` for that format."""
    path = folder / f"{name}{FORMATS['onnx']}"
    write_onnx(graph, path)
    if form == "openvino":
        convert_to_openvino(path, folder / f"{name}{FORMATS[form]}")
        path.unlink()


def convert_to_openvino(source: Path, target: Path) -> None:
    """Write the ONNX graph ``source`` to ``target`` and the .bin beside it; raises ConfigError
    without the extra ``openvino``."""
    require_extra("openvino")
    import openvino

    model = openvino.Core().read_model(source)
    openvino.save_model(model, target, compress_to_fp16=False)


def _nms_in_onnx(boxes: Any, scores: Any, limit: int, iou: float, above: float) -> Any:
    """`batched_nms` in ONNX: NonMaxSuppression, whose columns are (set, class, box)."""
    from onnxscript import opset18

    op: Any = opset18  # its annotations know the types of one graph only, not of its constants
    rows = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        op.Constant(value_ints=[limit]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[above]),
    )
    return op.Gather(rows, op.Constant(value_ints=[0, 2]), axis=1)


def _name_sides(model: Any, sides: Mapping[str, Mapping[int, str]]) -> None:
    """Give the free dimensions of inputs and outputs names that tell something."""
    names: dict[str, str] = {}
    for value in model.graph.input:
        dimensions = value.type.tensor_type.shape.dim
        for index, name in sides.get(value.name, {}).items():
            names.setdefault(dimensions[index].dim_param, name)
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = names.get(dimension.dim_param, "found")
    del model.graph.value_info[:]  # shapes in the exporter's names, which runtimes work out


def _drop_notes(model: Any) -> None:
    """Remove what the exporter notes of each node: the lines of code that it comes from, with the
    paths of this machine."""
    graph = model.graph
    parts = (*graph.node, *graph.initializer, *graph.input, *graph.output)
    for part in (model, graph, *parts):
        del part.metadata_props[:]


#: Registers the operator that `_nms_in_onnx` translates.
__all__ = ["OPSET", "Graph", "batched_nms", "convert_to_openvino", "write_graph", "write_onnx"]
