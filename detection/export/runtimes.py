"""The runtimes of exported graphs: each opens a file, on the CPU, and runs it on arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import WeightsError
from ..extras import require_extra


class Session(Protocol):
    """An opened graph, which several threads may run; `Runtime.open` makes it."""

    def run(self, arrays: Sequence[NDArray], outputs: Sequence[str] | None) -> list[NDArray]:
        """The ``outputs`` of the graph, or all in their order, for its inputs in their order."""


@dataclass(frozen=True)
class Runtime:
    """``package`` is its name and that of the module, ``extra`` brings it."""

    package: str
    extra: str
    open: Callable[[Path], Session]


class _OnnxSession:
    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._inputs = [each.name for each in self._session.get_inputs()]

    def run(self, arrays: Sequence[NDArray], outputs: Sequence[str] | None) -> list[NDArray]:
        found = self._session.run(outputs, dict(zip(self._inputs, arrays, strict=True)))
        return list(map(np.asarray, found))


class _OpenVinoSession:
    def __init__(self, path: Path) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",  # else processors with bf16 or fp16 round
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        self._model: Any = core.compile_model(core.read_model(path), "CPU", settings)
        self._outputs = [each.any_name for each in self._model.outputs]
        self._own = threading.local()  # a request runs one thread's inputs at a time

    def run(self, arrays: Sequence[NDArray], outputs: Sequence[str] | None) -> list[NDArray]:
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        found = self._own.request.infer(list(arrays), share_inputs=True)
        return [found[name] for name in outputs or self._outputs]


#: {ending of a graph's file: its runtime}.
RUNTIMES: Mapping[str, Runtime] = {
    ".onnx": Runtime("onnxruntime", "onnx", _OnnxSession),
    ".xml": Runtime("openvino", "openvino", _OpenVinoSession),
}


def open_graph(path: Path) -> Session:
    """Raises ConfigError without the extra of its runtime, WeightsError for a file that is no
    graph."""
    runtime = RUNTIMES[path.suffix]
    require_extra(runtime.extra)
    try:
        return runtime.open(path)
    except Exception as error:  # the runtimes' exceptions have no common base of their own
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: {runtime.package} cannot read it: {reason}") from error
