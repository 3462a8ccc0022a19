"""PyTorch's files: the same contents as `torch.load`, and files made to exhaust or deceive."""

from __future__ import annotations

import io
import pickle
import resource
import struct
import time
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.backbones.weights.reading import judge, read_state, read_tensors
from resdet.detection.errors import WeightsError
from torch import nn


def saved(content: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def repacked(data: bytes, change: Callable[[str, bytes], bytes], **options: Any) -> bytes:
    """The archive with the contents of its entries changed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", **options) as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
    return stream.getvalue()


def rewritten(data: bytes, old: bytes, new: bytes) -> bytes:
    """The archive with ``new`` for ``old`` in its pickle, which has it once."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return content
        assert content.count(old) == 1
        return content.replace(old, new)

    return repacked(data, change)


def refused(tmp_path: Path, data: bytes, reason: str) -> None:
    """The file is refused by both readers, in a moment and without memory."""
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for read in (read_state, read_tensors):
        with pytest.raises(WeightsError, match=reason) as caught:
            read(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(path))
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return (
            (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
            and torch.equal(one, other)
            and one.requires_grad == other.requires_grad
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and (one == other or one != one)


# --- the same as torch.load ---------------------------------------------------------------------


def contents() -> dict[str, object]:
    base = torch.arange(24.0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    return {
        "state dict": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views of one storage": {"a": base.reshape(4, 6).T, "b": base[3:9], "c": base[::5]},
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "empty": {"a": torch.empty(0, 3), "b": torch.tensor(2.5)},
        "dtypes": [
            torch.ones(3).to(dtype)
            for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32)
        ]
        + [torch.ones(3).to(dtype) for dtype in (torch.int16, torch.int8, torch.uint8, torch.bool)],
        "plain": {
            "text": "é\n" * 3,
            "none": None,
            "numbers": [1, -(2**40), 2**63, 0.5, float("inf"), float("nan"), True],
            "nested": {"a": ({"b": [()]},), 3: {4, 5}, (1, "x"): b"\0\xff"},
            "shape": tuple(torch.Size([3, 4])),
        },
        "ordered": OrderedDict(x=1, y=[2]),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("name", contents())
def test_the_content_is_that_of_torch_load(tmp_path: Path, name: str, zipped: bool) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(saved({"content": contents()[name]}, zipped=zipped))
    expected = torch.load(path, weights_only=True)
    assert equal(read_state(path), expected)


def test_parameters_sizes_and_counters(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(2))
    marked = nn.Parameter(torch.zeros(2))
    marked.note = "an attribute"  # type: ignore[attr-defined]
    content = {"a": parameter, "b": marked, "c": torch.Size([2, 3]), "d": Counter("aab")}
    path = tmp_path / "x.pt"
    path.write_bytes(saved(content))
    found: Any = read_state(path)
    assert torch.equal(found["a"], torch.ones(2)) and torch.equal(found["b"], torch.zeros(2))
    assert found["c"] == (2, 3) and found["d"] == {"a": 2, "b": 1}


@settings(max_examples=50)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**100), 2**100)
        | st.floats()
        | st.text(st.characters(exclude_categories=["Cs"]))
        | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
            | st.tuples(inner, inner)
        ),
        max_leaves=20,
    )
)
def test_any_plain_value_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("plain") / "x.pt"
    path.write_bytes(saved({"v": value}))
    assert equal(read_state(path), {"v": value})


# --- damage -------------------------------------------------------------------------------------


def test_every_flipped_bit_of_the_contents_is_noticed(tmp_path: Path) -> None:
    """torch.load reads most of them without a word."""
    content = {"a": torch.arange(2000.0), "step": 3}
    data, random = saved(content), Random(0)  # noqa: S311  the same bits every time
    path = tmp_path / "x.pt"
    silent = told = 0
    for _ in range(200):
        damaged = bytearray(data)
        damaged[random.randrange(len(data))] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_state(path)
        except WeightsError as error:
            told += f"{path}: damaged: the checksum of " in str(error)
            continue
        silent += 1
        assert equal(found, content)  # the bit was one of the padding or of a date
    assert silent < 60 and told > 100


def test_one_flipped_bit_in_a_weight(tmp_path: Path) -> None:
    data = saved({"a": torch.arange(2000.0)})
    place = data.index(torch.arange(100.0, 110.0).numpy().tobytes())
    refused(tmp_path, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], "checksum")


# --- deception ----------------------------------------------------------------------------------


def test_compressed_entries(tmp_path: Path) -> None:
    zeros = saved({"a": torch.zeros(50_000)})
    small = repacked(zeros, lambda _, data: data, compression=zipfile.ZIP_DEFLATED)
    assert len(small) < 3000
    refused(tmp_path, small, "is compressed")


def test_a_storage_that_has_fewer_bytes_than_the_pickle_says(tmp_path: Path) -> None:
    """torch.load makes a tensor of memory that is not its own."""
    data = saved({"a": torch.zeros(1000)})
    larger = rewritten(data, b"cpuq", b"cpuq")  # the pickle as it is, in an archive of zipfile
    (tmp_path / "y.pt").write_bytes(larger)
    assert len(read_tensors(tmp_path / "y.pt")["a"]) == 1000
    grown = repacked(data, lambda _, c: c.replace(b"M\xe8\x03", b"M\xff\xff"))
    refused(tmp_path, grown, r"a storage of 262140 bytes that has 4000")


def test_strides_that_repeat_values(tmp_path: Path) -> None:
    data = saved({"a": torch.zeros(1).expand(1000, 1000)})
    assert len(data) < 3000
    refused(tmp_path, data, r"a tensor of \(1000, 1000\) outside its 1 values")


def test_one_storage_in_many_tensors(tmp_path: Path) -> None:
    whole = torch.zeros(100_000)
    few = {str(number): whole for number in range(3)}
    path = tmp_path / "few.pt"
    path.write_bytes(saved(few))
    assert read_tensors(path).keys() == few.keys()
    many = {str(number): whole.reshape(1, -1) for number in range(500)}
    refused(tmp_path, saved(many), "several times larger than the file")


def test_a_small_stream_that_asks_for_gigabytes(tmp_path: Path) -> None:
    data = saved({"a": torch.zeros(5)}, zipped=False)
    assert data.count(b"K\x05N") == 1 and len(data) < 500
    refused(tmp_path, data.replace(b"K\x05N", b"\x8a\x05\0\0\0\0\x10N"), "several times larger")


OTHER_TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.eye(2).to_sparse(),
    "meta": lambda: torch.empty(2, device="meta"),
    "csr": lambda: torch.eye(2).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "complex": lambda: torch.ones(2, dtype=torch.complex64),
    "float8": lambda: torch.ones(2).to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("name", OTHER_TENSORS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_other_tensors(tmp_path: Path, name: str, zipped: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = saved({"a": OTHER_TENSORS[name]()}, zipped=zipped)
    refused(tmp_path, data, r"it asks for torch|holds a tensor that is")


def test_big_endian_numbers(tmp_path: Path) -> None:
    data = repacked(
        saved({"a": torch.ones(2)}), lambda name, c: b"big" if name.endswith("byteorder") else c
    )
    refused(tmp_path, data, "big-endian")


def test_an_index_of_an_archive_that_lies(tmp_path: Path) -> None:
    data = saved({"a": torch.ones(20)})
    end = data.rindex(b"PK\x05\x06")
    refused(tmp_path, data[:end], "without its index")
    cut = bytearray(data)
    place = data.rindex(b"PK\x01\x02")
    struct.pack_into("<L", cut, place + 42, 7)  # the last entry lies elsewhere
    path = tmp_path / "x.pt"
    path.write_bytes(cut)
    entry = bytes(cut[place + 46 : place + 70])
    if b"data" in entry and b".data" not in entry:
        refused(tmp_path, bytes(cut), "where the index says")


def plain_pickle(body: bytes) -> bytes:
    """A torch stream whose content is the pickle ``body``."""
    data = saved(0, zipped=False)
    tail = pickle.dumps([], protocol=2)
    assert data.count(b"\x80\x02K\x00.") == 1
    return data.replace(b"\x80\x02K\x00.", b"\x80\x02" + body + b".").removesuffix(tail) + tail


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"}q\0U\x05modelh\0s", "(deeper|not a tensor)"),
        (b"](]" + b"2\x86" * 40 + b"e", "(deeper|holds)"),  # each tuple has the one before twice
        (b"}" + b")2\x86" + b"2\x86" * 60 + b"K\x01s", "a key that is a tuple"),
        (b"}\x8a\xff" + b"\x7f" * 255 + b"K\x01s", "a key of more than 64 bits"),
        (b"](" + b"(" * 5000 + b"l" * 5000 + b"e", "(deeper|holds)"),
        (b"\x8b\0\0\x01\0" + b"\x7f" * 65536, "(bits|holds a int)"),
        (b"}U\x01aX\x03\0\0\0\xed\xa0\x80s", "(Unicode|is a str)"),
        (b"cos\nsystem\n(S'true'\ntR", "asks for os.system, which could run code"),
        (b"i__builtin__\neval\n", "opcode INST"),
        (b"0" * 10, "(empty|range|pop)"),
    ],
    ids=["self", "twice", "key", "long", "deep", "number", "surrogate", "call", "inst", "pops"],
)
def test_pickles_without_end_and_measure(tmp_path: Path, body: bytes, reason: str) -> None:
    refused(tmp_path, plain_pickle(body), reason)
    (tmp_path / "y.pkl").write_bytes(b"\x80\x02" + body + b".")
    with pytest.raises(WeightsError):
        read_tensors(tmp_path / "y.pkl")


def test_text_and_arrays_referred_to_many_times(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<L", 2**20) + b"x" * 2**20 + b"q\0"
    twice = b"](" + text + b"h\0" * 1000 + b"e"
    refused(tmp_path, plain_pickle(b"}U\x01a" + twice + b"s"), "(deeper|is a list)")
    encoded = b"(c_codecs\nencode\nh\0U\x06latin1\x86R" * 1000
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02" + text + encoded + b".")
    with pytest.raises(WeightsError, match="several times larger"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.empty(2, device="meta"), "a tensor that is"),
        (object(), "holds a object"),
        ({"a": 1 << 200}, "a number of 201 bits"),
        (["\ud800"], "no Unicode"),
    ],
)
def test_what_is_judged(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        judge(value)
    judge({"a": [1, 2.5, None, "text", b"", (True,), torch.ones(2)]})
