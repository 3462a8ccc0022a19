"""Writing of a module as a standard ONNX file, with the extra ``export``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..extras import expect_extra
from .graph import batched_nms

#: That of the operators; runtimes of the last years have it.
OPSET = 18


def write_onnx(
    module: nn.Module,
    example: Tensor,
    path: Path,
    *,
    outputs: Sequence[str],
    sides: Mapping[int, str],
) -> None:
    """Write ``module``, a function of one tensor called ``images``, to ``path``.

    ``sides`` names the dimensions that may have any size, by index; in ``example`` they are large
    and differ, since an exporter takes equal ones for the same. The file has operators of the
    standard alone.

    Raises ConfigError without the extra ``export``, and for a network that ONNX cannot hold.
    """
    expect_extra("export")
    import onnx
    import torchvision.ops  # noqa: F401  before the export, which else does not know RoIAlign

    dynamic = dict.fromkeys(sides, torch.export.Dim.DYNAMIC)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(dynamic,),
            custom_translation_table={torch.ops.resdet.batched_nms.default: _nms_in_onnx},
            input_names=["images"],
            output_names=list(outputs),
            external_data=False,
            verbose=False,
        )
    assert program is not None  # noqa: S101  narrows types
    model = program.model_proto
    _name_sides(model, sides)
    foreign = {node.domain for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    if foreign or model.functions:
        raise ConfigError(f"{path}: the graph needs operators of {', '.join(sorted(foreign))}")
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


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


def _name_sides(model: Any, sides: Mapping[int, str]) -> None:
    """Give the free dimensions of inputs and outputs names that tell something."""
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    names = {dimensions[index].dim_param: name for index, name in sides.items()}
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = names.get(dimension.dim_param, "found")
    del model.graph.value_info[:]  # shapes in the exporter's names, which runtimes work out


#: Registers the operator that `_nms_in_onnx` translates.
__all__ = ["OPSET", "batched_nms", "write_onnx"]
