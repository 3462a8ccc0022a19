"""A reader of pickles that builds plain values and calls only the functions it is given.

The opcodes are parsed by `pickletools`; `BoundedFile` cuts the lengths that they state.
"""

from __future__ import annotations

import codecs
import io
import os
import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...detection.errors import quoted
from ...detection.files import expect_regular

#: Opcodes in one pickle. ResNet-101 with its optimizer has 33,000.
MAX_OPCODES = 2_000_000

_LITERALS = frozenset(
    opcode.name
    for opcode in pickletools.opcodes
    if opcode.arg is not None
    and [item.name for item in opcode.stack_after]
    in (["int"], ["int_or_bool"], ["float"], ["str"], ["bytes"], ["bytes_or_str"], ["bytearray"])
) - {"PERSID"}
_CONSTANTS: Mapping[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = ("PROTO", "FRAME", "STOP")
#: Those with a method of `Unpickler`.
_HANDLED = (
    *("LIST", "TUPLE", "DICT", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "FROZENSET"),
    *("POP", "POP_MARK", "DUP", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
)


@dataclass(frozen=True, eq=False)
class Function:
    """What a name in a pickle stands for, if it may be called."""

    call: Callable[..., object]


class Filled(ABC):
    """An object that a pickle creates first and gives its contents later."""

    @abstractmethod
    def fill_from(self, state: Any) -> None: ...


class BoundedFile(io.BufferedReader):
    """A file open for reading, which allocates no more than what is left of the file."""

    def __init__(self, path: Path) -> None:
        expect_regular(path)
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


class Budget:
    """The bytes that the contents of a file may take: a few times its ``size``, as pickles can
    refer to one object many times."""

    def __init__(self, size: int) -> None:
        self._left = 4 * size + 2**20

    def spend(self, count: int) -> None:
        """Raise ValueError once more than the limit is spent."""
        self._left -= count
        if self._left < 0:
            raise ValueError("its contents are several times larger than the file")


class Unpickler:
    """Reads pickles; ``names`` are all that they may refer to, by (module, name).

    ``persistent`` makes the object of a persistent id, of which PyTorch's tensors make use.
    """

    def __init__(
        self,
        names: Mapping[tuple[str, str], object],
        budget: Budget,
        persistent: Callable[[object], object] | None = None,
    ) -> None:
        self._names, self._budget, self._persistent = names, budget, persistent

    def load(self, file: IO[bytes]) -> object:
        """The content of the pickle at the position of ``file``, which is then behind it.

        Raises:
            ValueError, IndexError, TypeError: damaged, too large, or naming anything else.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if number >= MAX_OPCODES:
                raise ValueError(f"a pickle of more than {MAX_OPCODES:,} steps")
            self._step(opcode.name, argument)
        if len(self._stack) != 1:
            raise ValueError("a damaged pickle")
        return self._stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _PUTS:
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in _GETS:
            stack.append(self._memo[argument])
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in _TUPLES:
            self._marks.append(len(stack) - _TUPLES[name])
            stack.append(tuple(self._marked()))
        elif name in _HANDLED:
            getattr(self, f"_{name.lower()}")(argument)
        elif name not in _IGNORED:
            raise ValueError(f"the opcode {name}, which no weights need")

    def _marked(self) -> list[Any]:
        """The objects above the last mark, taken off the stack."""
        start = self._marks.pop()
        if not 0 <= start <= len(self._stack):
            raise IndexError("a damaged pickle")
        items = self._stack[start:]
        del self._stack[start:]
        return items

    # -- containers ----------------------------------------------------------------------------

    def _list(self, _: object) -> None:
        self._stack.append(self._marked())

    def _tuple(self, _: object) -> None:
        self._stack.append(tuple(self._marked()))

    def _dict(self, _: object) -> None:
        items = self._marked()
        self._stack.append(filled({}, zip(items[::2], items[1::2], strict=True)))

    def _append(self, _: object) -> None:
        item = self._stack.pop()
        self._top(list).append(item)

    def _appends(self, _: object) -> None:
        items = self._marked()
        self._top(list).extend(items)

    def _setitem(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        filled(self._top(dict), [(key, value)])

    def _setitems(self, _: object) -> None:
        items = self._marked()
        filled(self._top(dict), zip(items[::2], items[1::2], strict=True))

    def _additems(self, _: object) -> None:
        items = self._marked()
        self._top(set).update(map(hashable, items))

    def _frozenset(self, _: object) -> None:
        self._stack.append(frozenset(map(hashable, self._marked())))

    def _pop(self, _: object) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _pop_mark(self, _: object) -> None:
        self._marked()

    def _dup(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise ValueError(f"a {type(self._stack[-1]).__name__} in place of a {kind.__name__}")
        return self._stack[-1]

    # -- names, calls, states ------------------------------------------------------------------

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._find(module, name)

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._find(module, name)

    def _find(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a name that is no text")
        if (module, name) not in self._names:
            raise ValueError(
                f"it asks for {module[:40]}.{name[:40]}, which could run code; "
                "save its state dict or arrays alone"
            )
        self._stack.append(self._names[module, name])

    def _reduce(self, _: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no function")
        self._budget.spend(_size(arguments))
        self._stack.append(function.call(*arguments))

    _newobj = _reduce

    def _build(self, _: object) -> None:
        state = self._stack.pop()
        top = self._stack[-1]
        if isinstance(top, Filled):
            self._budget.spend(_size(state))
            top.fill_from(state)
        elif not isinstance(top, dict):  # an OrderedDict's attributes, such as _metadata
            raise ValueError(f"a state for a {type(top).__name__}")

    def _binpersid(self, _: object) -> None:
        if self._persistent is None:
            raise ValueError("a reference out of the file")
        self._stack.append(self._persistent(self._stack.pop()))


def _size(values: object) -> int:
    """The sum of the lengths of ``values``, which a function may copy."""
    parts = values if isinstance(values, tuple) else (values,)
    return sum(len(part) for part in parts if hasattr(part, "__len__"))


def filled(target: dict[Any, Any], pairs: Any) -> dict[Any, Any]:
    """``target`` with the items of ``pairs``, whose keys are `hashable`."""
    for key, value in pairs:
        target[hashable(key)] = value
    return target


def hashable(key: Any) -> Any:
    """``key`` if it is a plain value or a flat tuple of a few, whose hash takes no time."""
    parts = key if type(key) is tuple and len(key) <= 16 else (key,)
    for part in parts:
        if type(part) not in (str, bytes, int, float, bool, type(None)):
            raise ValueError(f"a key that is a {type(part).__name__}")
        if type(part) is int and part.bit_length() > 64:
            raise ValueError("a key of more than 64 bits")
    return key


def encode_text(text: str, encoding: str) -> bytes:
    """``codecs.encode``, with which older pickle protocols store bytes."""
    if encoding != "latin1" or not isinstance(text, str):
        raise ValueError(f"bytes encoded as {quoted(encoding)}")
    return codecs.encode(text, "latin1")


#: Names of plain values, which all kinds of weights files may have.
PLAIN: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): Function(lambda pairs=(): filled({}, pairs)),
    ("collections", "Counter"): Function(lambda counts: filled({}, counts.items())),
    ("_codecs", "encode"): Function(encode_text),
    **{
        (module, name): function
        for module in ("builtins", "__builtin__")
        for name, function in {
            "bytes": Function(lambda: b""),
            "set": Function(lambda items=(): set(map(hashable, items))),
        }.items()
    },
}
