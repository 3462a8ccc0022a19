"""Networks under torch.compile, with CUDA graphs where asked for: `compile_parts`.

A CUDA graph launches all kernels of a part at once, for one shape of its input, and leaves the
output where the next launch leaves its own: outputs are copied, so that any number of results may
be kept. PyTorch's own graphs (its mode reduce-overhead) are, in older releases, bound to the thread
that imported them, and a server computes in another one; those here may be used from any.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import ConfigError

Call = Callable[[Tensor], Tensor]

GRAPHS = "reduce-overhead"
MODES = ("default", GRAPHS)
#: The device that has graphs; a network that is moved to another one is compiled without them.
GRAPH_DEVICE = "cuda"
#: The backend of torch.compile.
BACKEND = "inductor"
#: What the graphs of one part may be: so many, with so many bytes of inputs and outputs.
MOST_GRAPHS, MOST_BYTES = 16, 2 * 2**30
#: What compiling needs, by device.
NEEDED = {
    "cpu": "a C++ compiler (g++ or clang++; the variable CXX names another)",
    "cuda": "triton and a C compiler (gcc or clang; the variable CC names another)",
}


class Part(NamedTuple):
    """A method of a module that takes one tensor and gives one. The first dimension of what a CUDA
    graph takes is a multiple of ``rows``, whose surplus is dropped: rows must not depend on each
    other."""

    module: nn.Module
    method: str = "forward"
    rows: int = 1


@runtime_checkable
class HasParts(Protocol):
    """A network that says what of it can be compiled."""

    def parts_to_compile(self) -> list[Part]: ...


def parts_of(network: nn.Module) -> list[Part]:
    """The parts of all networks in ``network``."""
    found = (each for each in network.modules() if isinstance(each, HasParts))
    return [part for each in found for part in each.parts_to_compile()]


def compile_parts(network: nn.Module, mode: str = "default") -> None:
    """Let the `parts_of` a network be compiled when they are first called, in place, so that its
    tensors keep their names. ``mode`` is one of `MODES`."""
    for part in parts_of(network):
        setattr(part.module, part.method, Compiled(part, graphs=mode == GRAPHS))


def expect_compiler(device: torch.device) -> None:
    """Compile a small function; raises ConfigError where that fails."""
    try:
        small = torch.compile(lambda given: given.relu() + 1, backend=BACKEND)
        small(torch.zeros(9, device=device))
    except Exception as error:  # of the compiler of the machine, in many classes
        lines = [line for line in str(error).splitlines() if line and "backend=" not in line]
        reason = lines[0] if lines else type(error).__name__
        raise ConfigError(
            f"compile: PyTorch cannot compile for {device} here: {reason}; it needs "
            f"{NEEDED[device.type]} and the headers of Python; without the option nothing is "
            "compiled"
        ) from error


@dataclass(frozen=True)
class Recording:
    """What `record` made: ``replay`` computes ``found`` of what is in ``given``."""

    given: Tensor
    found: Tensor
    replay: Callable[[], None]
    pool: Any = None

    @property
    def bytes(self) -> int:
        return self.given.nbytes + self.found.nbytes


class Compiled:
    """A compiled part, in the place of its method.

    Each part has its own limit of eight compilations, which PyTorch sets for a function: the first
    shape gets its own one, others share one for all sizes. A copy, or what is read from a pickle,
    compiles again. With ``graphs`` each shape has a CUDA graph, up to `MOST_GRAPHS`, in prediction;
    the threads that call must use the same stream, as they do by default.
    """

    def __init__(self, part: Part, *, graphs: bool) -> None:
        self.part, self.graphs = part, graphs
        self._compute = _compiled(part)
        self._places: list[int] = []
        self._recorded: dict[tuple[object, ...], Recording] = {}
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"part": self.part, "graphs": self.graphs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @cached_property
    def _weights(self) -> tuple[Tensor, ...]:
        return tuple(self.part.module.parameters())

    def __call__(self, maps: Tensor) -> Tensor:
        fits = maps.device.type == GRAPH_DEVICE and len(maps) > 0
        if not self.graphs or not fits or torch.is_grad_enabled():
            return self._compute(maps)
        with self._lock:
            graph = self._graph_for(maps)
            if graph is None:
                return self._compute(maps)
            graph.given[: len(maps)].copy_(maps)
            graph.replay()
            return graph.found[: len(maps)].clone()

    def _graph_for(self, maps: Tensor) -> Recording | None:
        """The graph for inputs such as ``maps``; None where there are too many others."""
        places = [weight.data_ptr() for weight in self._weights]
        if places != self._places:  # moved to another device
            self._recorded, self._places = {}, places
        rows = -(-len(maps) // self.part.rows) * self.part.rows
        layout = _layout(maps)
        kind = maps.device.type
        precision = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        key = (rows, *maps.shape[1:], maps.dtype, layout, *precision)
        if key not in self._recorded:
            others = list(self._recorded.values())
            size = maps[:1].nbytes * rows
            if len(others) >= MOST_GRAPHS or sum(g.bytes for g in others) + size > MOST_BYTES:
                warnings.warn(
                    f"compile {GRAPHS}: there are graphs of {MOST_GRAPHS} shapes of a part's input "
                    f"at most, of {MOST_BYTES >> 30} GiB; further shapes are computed by the "
                    "compiled networks without a graph. Images of one size, in batches of one "
                    "size, have the fewest",
                    stacklevel=2,
                )
                return None
            with _for_recording(kind, precision):
                given = maps.new_zeros(rows, *maps.shape[1:]).contiguous(memory_format=layout)
                pool = others[0].pool if others else None
                self._recorded[key] = record(self._compute, given, pool)
        return self._recorded[key]


def _compiled(part: Part) -> Call:
    module, method = part.module, getattr(type(part.module), part.method)

    def compute(maps: Tensor) -> Tensor:
        return method(module, maps)

    # The limit of compilations is that of a code object, which all parts would share.
    compute.__code__ = compute.__code__.replace(co_name=f"{type(module).__name__}_{part.method}")
    compiled: Call = torch.compile(compute, backend=BACKEND)
    return compiled


def _layout(maps: Tensor) -> torch.memory_format:
    channels_last = maps.dim() == 4 and maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


@contextmanager
def _for_recording(kind: str, precision: tuple[bool, torch.dtype]) -> Iterator[None]:
    """Tensors that may be written to in and out of inference mode; no weights in half precision
    that autocast would keep, and free, beside the graph."""
    enabled, dtype = precision
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False),
    ):
        yield


#: Only one graph of a process can be recorded at a time.
_RECORDING = Lock()


def record(compute: Call, given: Tensor, pool: Any) -> Recording:
    """The CUDA graph of a call; graphs that share a ``pool`` overwrite each other's output."""
    with _RECORDING, torch.cuda.device(given.device):
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles, and lets the libraries choose their algorithms
                compute(given)
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile, such as one that pins memory.
        with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            found = compute(given)
        return Recording(given, found, graph.replay, graph.pool())
