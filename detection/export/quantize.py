"""Graphs in int8: onnxruntime's quantization of ONNX graphs, NNCF's of OpenVINO's.

Activations are uint8, their ranges those of calibration inputs; weights are int8, a scale for each
channel. What decides on positions and scores stays float: the first convolution, the outputs of
the RPN, and, outside the graphs, the sibling layers.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import WeightsError
from ..extras import require_extra
from ..processor import cpu_flags
from .folder import FORMATS, HEAD, RPN, TRUNK
from .network import ExportedNetwork

#: Operators in int8; box arithmetic and activations of other kinds stay float.
OPERATORS = ("Conv", "Add", "MaxPool")
#: Instruction sets that multiply in int8: without one of them int8 gains little.
INT8_INSTRUCTIONS = frozenset(
    {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"}
)
#: {choice: {graph: positions of its convolutions that stay float}}, the fastest first. Positions
#: count in the order of the graph; negative ones from its end.
CHOICES: Mapping[str, Mapping[str, range]] = {
    "conv1 and the outputs of the RPN float": {TRUNK: range(0, 1), RPN: range(1, 3)},
    "conv1, the RPN and the last two convolutions of conv5 float": {
        TRUNK: range(0, 1),
        RPN: range(0, 3),
        HEAD: range(-2, 0),
    },
}


#: Largest difference of a graph's outputs from those in float, as a share of them: it finds graphs
#: that do not work. What smaller ones do to detections, only annotated images tell.
ERROR_BOUND = 0.5


class Inputs(Sized, Protocol):
    """Inputs of a graph, in their order, at most as often as its length; they may be asked for
    again."""

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]: ...


def int8_instructions() -> list[str]:
    """Those of this processor."""
    return sorted(cpu_flags() & INT8_INSTRUCTIONS)


def quantize(source: Path, target: Path, inputs: Inputs, floats: range) -> None:
    """Write the graph ``source`` to ``target`` in int8; the convolutions at the
    positions ``floats`` stay float. ``inputs`` calibrate the ranges. Raises ConfigError without
    the extra of the format."""
    (_quantize_onnx if source.suffix == FORMATS["onnx"] else _quantize_openvino)(
        source, target, inputs, floats
    )


def _quantize_onnx(source: Path, target: Path, inputs: Inputs, floats: range) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
        reader: Any = _Reader([each.name for each in graph.input], iter(inputs))
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


def _quantize_openvino(source: Path, target: Path, inputs: Inputs, floats: range) -> None:
    require_extra("nncf")
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(source)
    names = [
        each.get_friendly_name()
        for each in model.get_ordered_ops()
        if each.get_type_name() == "Convolution"
    ]
    excluded = [names[index] for index in floats if index < len(names)]
    if len(excluded) < len(names):
        arrays = _Arrays(inputs)
        model = nncf.quantize(
            model,
            nncf.Dataset(arrays),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(names=excluded),
        )
    openvino.save_model(model, target, compress_to_fp16=False)


def int8_error(int8: Path, floats: Path, inputs: Iterable[tuple[Tensor, ...]]) -> float:
    """The largest difference of the outputs of two graphs for one of ``inputs``: the root mean
    square of the difference, as a share of that of the output of ``floats``.

    Raises WeightsError for outputs of other shapes, or whose difference is not finite or above
    `ERROR_BOUND`.
    """
    networks, largest = (ExportedNetwork(int8), ExportedNetwork(floats)), 0.0
    for given in inputs:
        for found, wanted in zip(*(network(*given) for network in networks), strict=True):
            if found.shape != wanted.shape:
                raise WeightsError(
                    f"int8: {int8.name} gives {tuple(found.shape)} in place of "
                    f"{tuple(wanted.shape)}; nothing was written"
                )
            size = float(wanted.square().mean().sqrt())
            error = float((found - wanted).square().mean().sqrt()) / max(size, 1e-12)
            if not error <= ERROR_BOUND:
                raise WeightsError(
                    f"int8: the outputs of {int8.name} differ by {error:.0%} from those in float, "
                    f"more than {ERROR_BOUND:.0%}; nothing was written; calibrate on more images, "
                    "and on images like those it is for"
                )
            largest = max(largest, error)
    return largest


class _Arrays:
    """Inputs as arrays, as often as they are asked for."""

    def __init__(self, inputs: Iterable[tuple[Tensor, ...]]) -> None:
        self.inputs = inputs

    def __iter__(self) -> Iterator[tuple[NDArray, ...]]:
        return map(_as_arrays, self.inputs)


class _Reader:
    """Inputs with their ``names`` as onnxruntime's calibration reads them, one by one."""

    def __init__(self, names: Sequence[str], inputs: Iterator[tuple[Tensor, ...]]) -> None:
        self.names, self.inputs = names, inputs

    def get_next(self) -> dict[str, NDArray] | None:
        given = next(self.inputs, None)
        return None if given is None else dict(zip(self.names, _as_arrays(given), strict=True))


def _as_arrays(given: tuple[Tensor, ...]) -> tuple[NDArray, ...]:
    return tuple(np.ascontiguousarray(each.numpy()) for each in given)
