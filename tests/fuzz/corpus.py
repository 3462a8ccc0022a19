"""The corpus: small inputs that execute what the valid examples do not, kept in files beside this
one and tried by every run of the tests."""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any

import resdet
from resdet.tests.fuzz.targets import TARGETS, attempt, example, prepare

FOLDER = Path(__file__).with_name("corpus")
#: The code whose lines count, and the bytes of the largest input that is kept.
ROOT, LARGEST = Path(resdet.__path__[0]), 1500
PARTS = tuple(str(ROOT / name) for name in ("backbones", "datasets", "detection"))

Lines = set[tuple[CodeType, int]]


def kept(name: str) -> Sequence[bytes]:
    """The inputs of a target."""
    return [path.read_bytes() for path in sorted((FOLDER / name).glob("*"))]


def grow(name: str, seconds: float, seed: int = 0) -> int:
    """Try inputs for some seconds and keep those that execute new lines; returns how many."""
    target, random = TARGETS[name], Random(seed)  # noqa: S311  to be repeated by its seed
    seeds = [*target.seeds(), *kept(name)]
    new = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        known: Lines = set()
        for data in seeds:
            known |= _lines_of(lambda data=data: attempt(target, folder, data))  # type: ignore[misc]
        end = time.process_time() + seconds
        while time.process_time() < end:
            data = example(target, seeds, random)
            if len(data) > LARGEST:
                continue
            lines = _lines_of(lambda data=data: attempt(target, folder, data))  # type: ignore[misc]
            if lines - known:
                known |= lines
                seeds.append(data)
                new += 1
                path = FOLDER / name / hashlib.sha256(data).hexdigest()[:12]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    return new


def _lines_of(call: Callable[[], Any]) -> Lines:
    """The lines of the toolkit that ``call`` executes, whatever it raises."""
    lines: Lines = set()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "call":
            return trace if frame.f_code.co_filename.startswith(PARTS) else None
        if event == "line":
            lines.add((frame.f_code, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(Exception):  # a finding of `run.py`
            call()
    finally:
        sys.settrace(before)
    return lines
