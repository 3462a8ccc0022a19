"""Graphs in int8, with onnxruntime's quantization: QuantizeLinear around convolutions.

Activations are uint8, their ranges those of calibration inputs; weights are int8, a scale for each
channel. What decides on positions and scores stays float: the first convolution, the outputs of
the RPN, and, outside the graphs, the sibling layers.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..processor import cpu_flags
from .folder import HEAD, RPN, TRUNK

#: Operators in int8; box arithmetic and activations of other kinds stay float.
OPERATORS = ("Conv", "Add", "MaxPool")
#: Instruction sets that multiply in int8: without one of them int8 gains little.
INT8_INSTRUCTIONS = frozenset(
    {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"}
)
#: {choice: {file: positions of its convolutions that stay float}}, the fastest first. Positions
#: count in the order of the graph; negative ones from its end.
CHOICES: Mapping[str, Mapping[str, range]] = {
    "conv1 and the outputs of the RPN float": {TRUNK: range(0, 1), RPN: range(1, 3)},
    "conv1, the RPN and the last two convolutions of conv5 float": {
        TRUNK: range(0, 1),
        RPN: range(0, 3),
        HEAD: range(-2, 0),
    },
}


def int8_instructions() -> list[str]:
    """Those of this processor."""
    return sorted(cpu_flags() & INT8_INSTRUCTIONS)


def quantize(source: Path, target: Path, inputs: Iterator[Tensor], floats: range) -> None:
    """Write the graph ``source``, of one input, to ``target`` in int8; the convolutions at the
    positions ``floats`` stay float. ``inputs`` calibrate the ranges."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
        reader: Any = _Reader(graph.input[0].name, inputs)
        excluded = [convolutions[index] for index in floats if index < len(convolutions)]
        if len(excluded) < len(convolutions):
            quantize_static(
                str(prepared),
                str(target),
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_exclude=excluded,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        else:
            target.write_bytes(source.read_bytes())


class _Reader:
    """Inputs called ``name`` as onnxruntime's calibration reads them, one by one."""

    def __init__(self, name: str, inputs: Iterator[Tensor]) -> None:
        self.name, self.inputs = name, inputs

    def get_next(self) -> dict[str, Any] | None:
        given = next(self.inputs, None)
        return None if given is None else {self.name: np.ascontiguousarray(given.numpy())}
