"""Compiled networks, with CUDA graphs imitated on a CPU: an output is where the next one comes."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from resdet.detection.errors import ConfigError
from resdet.detection.models import compiled
from resdet.detection.models.compiled import (
    GRAPHS,
    Part,
    Recording,
    compile_parts,
    expect_compiler,
)
from torch import Tensor, nn


class Net(nn.Module):
    """Two convolutions, the second one in rows."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU())
        self.second = nn.Conv2d(channels, 2, 1)

    def parts_to_compile(self) -> list[Part]:
        return [Part(self.first), Part(self.second, rows=4)]

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the graphs, which compute by the compiler's tracing alone."""
    shapes = []

    def record(compute: compiled.Call, given: Tensor, pool: Any) -> Recording:
        shapes.append(tuple(given.shape))
        found = compute(given).clone()

        def replay() -> None:
            found.copy_(compute(given))

        return Recording(given, found, replay)

    monkeypatch.setattr(compiled, "BACKEND", "eager")
    monkeypatch.setattr(compiled, "record", record)
    monkeypatch.setattr(compiled, "GRAPH_DEVICE", "cpu")
    return shapes


def drawn(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=layout)


def pair(mode: str = GRAPHS) -> tuple[Net, Net]:
    """A network, and its compiled copy."""
    plain = Net().eval()
    other = copy.deepcopy(plain)
    compile_parts(other, mode)
    return plain, other


def test_results_that_are_kept_are_not_overwritten(recorded: list) -> None:
    plain, graphed = pair()
    images = [drawn(1, 3, 6, 8), drawn(1, 3, 6, 8), drawn(3, 3, 8, 6), drawn(1, 3, 6, 8)]
    with torch.inference_mode():
        kept = [(graphed.first(each), graphed(each)) for each in images]
        for (features, found), each in zip(kept, images, strict=True):
            torch.testing.assert_close(features, plain.first(each))
            torch.testing.assert_close(found, plain(each))
    # The rows of the second part come in fours.
    assert recorded == [(1, 3, 6, 8), (4, 4, 6, 8), (3, 3, 8, 6), (4, 4, 8, 6)]


def test_with_gradients_and_out_of_inference_mode(recorded: list) -> None:
    plain, graphed = pair()
    image = drawn(2, 3, 6, 8, layout=torch.channels_last)
    assert graphed(image).requires_grad and not recorded
    with torch.inference_mode():
        graphed(image)
    with torch.no_grad():  # the same graph
        found = graphed(image)
    torch.testing.assert_close(found, plain(image).detach())
    assert len(recorded) == 2
    assert graphed(image[:0]).shape == (0, 2, 6, 8)


def test_on_a_device_without_graphs(recorded: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "GRAPH_DEVICE", "cuda")
    plain, graphed = pair()
    image = drawn(1, 3, 6, 8)
    with torch.no_grad():
        torch.testing.assert_close(graphed(image), plain(image))
    assert not recorded


def test_each_precision_has_its_graphs(recorded: list) -> None:
    plain, graphed = pair()
    image = drawn(1, 3, 6, 8)
    for enabled in (False, True, False):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            expected, found = plain(image), graphed(image)
        assert found.dtype == (torch.bfloat16 if enabled else torch.float32)
        torch.testing.assert_close(found, expected)
    assert len(recorded) == 4


def test_weights_that_moved_have_new_graphs(recorded: list) -> None:
    plain, graphed = pair()
    image = drawn(1, 3, 6, 8)
    with torch.no_grad():
        graphed(image)
        for network in (plain, graphed):
            network.second.weight.data = torch.ones(2, 4, 1, 1)
        torch.testing.assert_close(graphed(image), plain(image))
    assert recorded == [(1, 3, 6, 8), (4, 4, 6, 8), (4, 4, 6, 8)]


def test_too_many_shapes_are_told_once_and_run_without_graphs(
    recorded: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "MOST_GRAPHS", 2)
    plain, graphed = pair()
    with torch.no_grad(), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for width in (8, 9, 10, 11, 8):
            image = drawn(1, 3, 6, width)
            torch.testing.assert_close(graphed(image), plain(image))
    assert len(recorded) == 4 and len(told) == 1
    assert "graphs of 2 shapes of a part's input at most" in str(told[0].message)
    monkeypatch.setattr(compiled, "MOST_BYTES", 600)  # those of one image
    graphed = pair()[1]
    with torch.no_grad(), pytest.warns(UserWarning, match="without a graph"):
        graphed(drawn(1, 3, 6, 8))


def test_threads_share_a_graph(recorded: list) -> None:
    plain, graphed = pair()
    images = [drawn(1, 3, 32, 40) for _ in range(24)]

    def run(image: Tensor) -> Tensor:
        with torch.inference_mode():
            return graphed(image)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, images))
    with torch.no_grad():
        for each, image in zip(found, images, strict=True):
            torch.testing.assert_close(each, plain(image))
    assert len(recorded) == 2


def pickled(network: Net) -> Net:
    return pickle.loads(pickle.dumps(network))  # noqa: S301  of our own


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copy_compiles_by_itself(recorded: list, copied: Any) -> None:
    plain, graphed = pair()
    image = drawn(1, 3, 6, 8)
    with torch.no_grad():
        graphed(image)
        other = copied(graphed)
        torch.testing.assert_close(other(image), plain(image))
        assert len(recorded) == 4
        other.second.weight.zero_()
        torch.testing.assert_close(graphed(image), plain(image))
    assert list(other.state_dict()) == list(plain.state_dict())


def test_parts_do_not_share_the_limit_of_compilations(recorded: list) -> None:
    from torch._dynamo.utils import counters  # late: it takes seconds

    networks = nn.ModuleList(Net(channels) for channels in range(1, 6)).eval()
    compile_parts(networks)
    counters.clear()
    with torch.no_grad():
        for count, width in ((1, 6), (2, 7), (3, 8)):
            for network in networks:
                network(drawn(count, 3, 6, width))
    assert counters["frames"]["total"] == counters["frames"]["ok"]
    # Three sizes are one compilation for the first one, and one for all others.
    assert counters["stats"]["unique_graphs"] == 2 * 2 * len(networks)


# ---------------------------------------------------------------------------------- the compiler


@pytest.fixture(scope="module")
def compiler() -> Iterator[None]:
    try:
        expect_compiler(torch.device("cpu"))
    except ConfigError as error:
        pytest.skip(str(error))
    yield


@pytest.mark.usefixtures("compiler")
def test_the_code_of_the_compiler() -> None:
    plain, other = pair("default")
    images = [drawn(1, 3, 6, 8), drawn(3, 3, 7, 9), drawn(2, 3, 12, 10)]
    with torch.inference_mode():
        kept = [other(each) for each in images]
        for found, image in zip(kept, images, strict=True):
            torch.testing.assert_close(found, plain(image), atol=1e-4, rtol=0)


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, inputs: object) -> None:
        raise RuntimeError("no triton\nin many lines")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    told = r"cannot compile for cpu here: RuntimeError: no triton; it needs a C\+\+ compiler"
    with pytest.raises(ConfigError, match=told):
        expect_compiler(torch.device("cpu"))
