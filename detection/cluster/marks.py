"""Files and folders whose names say which process made them, and whether it has ended."""

from __future__ import annotations

import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_OWNED = re.compile(r"([^.-]+)-(\d+)-(\w+)$")
#: The names that this process has in use.
_IN_USE: set[str] = set()
#: The age in seconds of folders of other hosts that nobody needs.
_OLD = 86400.0


@contextmanager
def own_name(begin: str) -> Iterator[str]:
    """``begin`` with this host and process, and what makes it unique, for something that is in use
    within the context."""
    name = f"{begin}{_host()}-{os.getpid()}-{uuid4().hex[:8]}"
    _IN_USE.add(name)
    try:
        yield name
    finally:
        _IN_USE.discard(name)


def has_ended(name: str) -> bool:
    """Whether nothing has ``name`` in use any more, as far as this host can tell: False for names
    of processes on other hosts, and for all others."""
    match = _OWNED.search(name)
    if match is None or match[1] != _host():
        return False
    # A container that is started again has the same host and process number.
    return name not in _IN_USE if int(match[2]) == os.getpid() else not _runs(int(match[2]))


@contextmanager
def own_folder(parent: Path, begin: str) -> Iterator[Path]:
    """A folder in ``parent``, which is made, whose name begins with ``begin``; it is removed at the
    end of the context. `remove_left` removes those of processes that were killed."""
    with own_name(begin) as name:
        own = parent / name
        own.mkdir(parents=True)
        try:
            yield own
        finally:
            shutil.rmtree(own, ignore_errors=True)


def remove_left(parent: Path, begin: str) -> None:
    """Remove the folders of `own_folder` whose process has ended, and old ones of other hosts."""
    for left in parent.glob(f"{begin}*"):
        if has_ended(left.name) or _age(left) > _OLD:
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def repeated(call: Callable[[], object], seconds: float) -> Iterator[None]:
    """Call ``call`` within the context, each time after so many seconds, in a thread. What it
    raises is dropped: it is called again."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(seconds):
            with suppress(Exception):
                call()

    thread = threading.Thread(target=work, name="repeated", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _host() -> str:
    return "".join(filter(str.isalnum, platform.node())) or "host"


def _runs(process: int) -> bool:
    if os.name == "nt":  # where the call below ends a process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
