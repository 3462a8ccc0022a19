"""Reading weights files: three kinds, nested or flat, and files that are broken or hostile."""

from __future__ import annotations

import builtins
import os
import pickle
import resource
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from resdet.backbones.weights.reading import read_tensors
from resdet.detection.errors import WeightsError

VALUES = {"a.weight": torch.tensor([[1.5, -2.0], [0.0, 3.0]]), "b": torch.tensor([7])}
ARRAYS = {name: tensor.numpy() for name, tensor in VALUES.items()}


def equal(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == VALUES.keys() and all(torch.equal(found[k], VALUES[k]) for k in found)


def write_pickle(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "average"])
def test_torch_files(tmp_path: Path, wrapper: str | None, zipped: bool) -> None:
    content = {wrapper: VALUES, "epoch": 3, "optimizer": {"lr": 0.1}} if wrapper else VALUES
    path = tmp_path / "weights.bin"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert equal(read_tensors(path))


def test_the_moving_average_is_preferred_to_the_raw_weights(tmp_path: Path) -> None:
    raw = {name: tensor + 1 for name, tensor in VALUES.items()}
    for average, expected in ((VALUES, True), (None, False)):
        torch.save({"model": raw, "average": average}, tmp_path / "last.pt")
        assert equal(read_tensors(tmp_path / "last.pt")) == expected


def test_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(VALUES, path)
    assert equal(read_tensors(path))
    assert equal(read_tensors(path.rename(tmp_path / "a.bin")))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrapper", [None, "model", "blobs"])
def test_pickles_of_arrays(tmp_path: Path, wrapper: str | None, protocol: int) -> None:
    content: object = OrderedDict(ARRAYS)
    if wrapper:
        content = {wrapper: content, "__author__": "someone", "cfg": "text"}
    assert equal(read_tensors(write_pickle(tmp_path / "a.pkl", content, protocol)))


def test_pickles_of_numpy_1(tmp_path: Path) -> None:
    """NumPy 2 moved the module that pickles name."""
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(ARRAYS, protocol=2).replace(b"numpy._core.", b"numpy.core."))
    assert b"numpy.core.multiarray" in path.read_bytes()
    assert equal(read_tensors(path))


def test_pickle_of_python_2(tmp_path: Path) -> None:
    """Strings are bytes there; this file was put together opcode by opcode."""
    raw = np.array([1.0, 200.0], "<f4").tobytes()
    text = struct.pack("<B", len(raw)) + raw
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nU" + text + b"tb"
    )
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02}U\x01w" + array + b"s.")
    assert read_tensors(path)["w"].tolist() == [1.0, 200.0]


def test_layout_byte_order_and_scalars_of_arrays(tmp_path: Path) -> None:
    content = {
        "fortran": np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]),
        "big": np.array([1, 258], dtype=">i4"),
        "bool": np.array([True, False]),
        "scalar": np.float32(2.5),
        "point": np.array(4, dtype=np.int64),
        "empty": np.zeros((0, 3), dtype=np.float32),
    }
    for protocol in (2, 4, 5):
        found = read_tensors(write_pickle(tmp_path / "a.pkl", content, protocol))
        assert found["fortran"].tolist() == [[1, 2], [3, 4]]
        assert found["big"].tolist() == [1, 258]
        assert found["bool"].tolist() == [True, False]
        assert found["scalar"].item() == 2.5
        assert (found["point"].item(), found["point"].shape) == (4, ())
        assert found["empty"].shape == (0, 3)


def test_data_parallel_prefix_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({f"module.{name}": tensor for name, tensor in VALUES.items()}, path)
    assert equal(read_tensors(path))


# --- hostile ----------------------------------------------------------------------------------


class Call:
    """Pickles as a call of ``function(*args)``, which loading would make."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def attacks(target: Path) -> dict[str, object]:
    script = f"open({str(target)!r}, 'w').write('ran')"
    return {
        "posix.system": Call(os.system, f"touch {target}"),
        "builtins.eval": Call(builtins.eval, script),
        "builtins.exec": Call(builtins.exec, script),
        "builtins.getattr": Call(getattr, "text", "upper"),
    }


@pytest.mark.parametrize(
    "name", ["posix.system", "builtins.eval", "builtins.exec", "builtins.getattr"]
)
@pytest.mark.parametrize("kind", ["pickle", "torch zip", "torch stream"])
def test_code_in_a_file_never_runs(tmp_path: Path, kind: str, name: str) -> None:
    target = tmp_path / "target"
    content = {"a": attacks(target)[name], **ARRAYS}
    path = tmp_path / "a.pkl"
    if kind == "pickle":
        write_pickle(path, content, 4)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch zip")
    with pytest.raises(WeightsError, match=r"a\.pkl: cannot read weights: .*code") as caught:
        read_tensors(path)
    assert name.rpartition(".")[2] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_object_arrays_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    target = tmp_path / "target"
    bomb = np.array([Call(os.system, f"touch {target}")], dtype=object)
    with pytest.raises(WeightsError, match=r"asks for posix\.system|type 'O8'"):
        read_tensors(write_pickle(tmp_path / "a.pkl", {"a": bomb}))
    with pytest.raises(WeightsError, match="array of type 'O8'"):
        read_tensors(write_pickle(tmp_path / "a.pkl", {"a": np.array([None], dtype=object)}))
    assert not target.exists()


@pytest.mark.parametrize(
    "array",
    [np.array(["text"]), np.zeros(2, dtype=[("x", "f4")]), np.array([1j]), np.array([b"a"])],
)
def test_arrays_that_are_not_numbers_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(WeightsError, match="which is no number"):
        read_tensors(write_pickle(tmp_path / "a.pkl", {"a": array}))


def test_a_shape_that_does_not_match_its_bytes(tmp_path: Path) -> None:
    data = pickle.dumps({"a": np.arange(40, dtype=np.float32)}, protocol=2)
    for shape in (b"\x29", b"\xff"):  # 41 and 255 rows in place of 40
        path = tmp_path / "a.pkl"
        path.write_bytes(data.replace(b"K\x28\x85", b"K" + shape + b"\x85"))
        with pytest.raises(WeightsError, match="160 bytes for an array of shape"):
            read_tensors(path)


@pytest.mark.parametrize(
    "body",
    [b"}r\xff\xff\xff\x7f.", b"T\xff\xff\xff\x7fx.", b"\x96\0\0\0\0\x0f\0\0\0x."],
    ids=["memo", "text", "bytearray"],
)
def test_a_few_bytes_that_request_gigabytes(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x05" + body)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match=r"cannot read weights: (it holds a dict|expected)"):
        read_tensors(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_an_array_that_is_never_filled(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02}U\x01acnumpy\nndarray\n)Rs.")
    with pytest.raises(WeightsError, match="an array without contents"):
        read_tensors(path)


# --- broken -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    torch.save(VALUES, folder / "zip.pth")
    torch.save(VALUES, folder / "stream.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(VALUES, folder / "a.safetensors")
    write_pickle(folder / "a.pkl", ARRAYS)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["zip.pth", "stream.pth", "a.safetensors", "a.pkl"])
def test_truncated_files(tmp_path: Path, whole: dict[str, bytes], name: str) -> None:
    data = whole[name]
    path = tmp_path / name
    for length in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError, match="cannot read weights") as caught:
            read_tensors(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_gives_no_other_error(
    tmp_path: Path, whole: dict[str, bytes], position: int, byte: int
) -> None:
    data = bytearray(whole["a.pkl"])
    data[position % len(data)] = byte
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    try:
        found = read_tensors(path)
    except WeightsError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "holds a list and no tensors"),
        ({}, "holds a dict and no tensors"),
        ({"model": {"a": "text"}}, "its 'a' is a str, not a tensor"),
        ({1: torch.ones(1)}, "the name 1 of a tensor is"),
        ({"__author__": "someone"}, "it holds no tensors"),
        ({"a": torch.eye(2).to_sparse()}, "asks for torch._utils._rebuild_sparse_tensor"),
    ],
)
def test_files_without_tensors(tmp_path: Path, content: object, reason: str) -> None:
    path = tmp_path / "a.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=reason):
        read_tensors(path)


def test_missing_file_folder_and_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pth: cannot read weights: .*No such file"):
        read_tensors(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="directory"):
        read_tensors(tmp_path)
    (tmp_path / "a.html").write_text("<html>404</html>")
    with pytest.raises(WeightsError, match="neither a PyTorch file, nor safetensors, nor a pickle"):
        read_tensors(tmp_path / "a.html")
