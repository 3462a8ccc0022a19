"""Files and folders by address, on local disks and in object storage: ``/data``, ``s3://bucket/a``.

Other file systems are those of fsspec, whose packages take their credentials and endpoints from the
environment and their own files; none is read, stored or printed here.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar
from uuid import uuid4

from ...detection.errors import ConfigError, one_line
from ...detection.extras import require_extra
from ...detection.files import expect_regular, is_part, part_of, read_limited, sync_to_disk

Result = TypeVar("Result")

#: The beginning of an address, such as ``https://``.
ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
#: Seconds between the attempts at what failed for a passing reason.
DELAYS = (0.5, 2.0, 8.0)
#: Bytes of a part of a manifest or of results, which are read whole.
_LARGEST = 2**32
#: Bytes of a remote file that are read at once.
_BLOCK = 1 << 22
#: Errors that another attempt does not mend.
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
#: Errors of connections that are no OSError, by the name of their class.
_PASSING = {"HTTPClientError", "ClientConnectionError", "ClientPayloadError", "IncompleteRead"}
_ANOTHER_TIME = (408, 425, 429)  # HTTP: timeout, too early, too many requests
#: The package of each protocol that the extra ``remote`` does not bring.
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", **dict.fromkeys(("az", "abfs", "abfss"), "adlfs")}


def is_remote(address: str) -> bool:
    return ADDRESS.match(address) is not None


def join(folder: str, name: str) -> str:
    """The address of ``name`` in a folder; an empty one is the folder or the name itself."""
    return f"{folder.rstrip('/')}/{name}" if folder and name else folder or name


def filesystem(address: str) -> tuple[Any, str]:
    """The fsspec file system of a remote address and the path in it.

    Raises ConfigError for an unknown protocol and for a package that is not installed.
    """
    return _filesystem(address.partition("://")[0].lower(), os.getpid()), address


@cache
def _filesystem(protocol: str, process: int) -> Any:
    """One for each ``process``: the threads of a file system do not survive a fork."""
    require_extra("remote")
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    try:
        if protocol in ("http", "https"):
            from aiohttp import ClientTimeout

            limits = ClientTimeout(total=None, sock_connect=10, sock_read=30)
            options["client_kwargs"] = {"timeout": limits}
        elif protocol == "s3":  # s3fs itself tries again
            options["config_kwargs"] = {"retries": {"max_attempts": 1}}
        return fsspec.filesystem(protocol, **options)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        how = f"pip install {package}" if package else "pip install 'resdet[remote]'"
        raise ConfigError(f"{protocol}://: {one_line(error)}: {how}") from error
    except ValueError as error:
        raise ConfigError(f"{protocol}://: {one_line(error)}") from error


#: What threads wait for: (since when, the address, the last error), for whoever asks why.
_WAITED_FOR: dict[int, tuple[float, str, str]] = {}


def waited_for() -> list[str]:
    """What threads of this process wait for in storage, the longest wait first."""
    now = time.monotonic()
    return [
        f"{address} for {now - since:.0f} s{error}"
        for since, address, error in sorted(_WAITED_FOR.values())
    ]


def patiently(action: Callable[[], Result], address: str) -> Result:
    """The result of ``action``, tried again after `DELAYS` where it fails for a passing reason: a
    timeout, a broken connection or an answer of 500 and above. Raises what it raises."""
    thread, since, reason = threading.get_ident(), time.monotonic(), ""
    try:
        for delay in (*DELAYS, None):
            _WAITED_FOR[thread] = since, address, reason
            try:
                return action()
            except Exception as error:
                if delay is None or not is_passing(error):
                    raise
                reason = f" ({one_line(error):.200})"
                _WAITED_FOR[thread] = since, address, reason
                time.sleep(delay)
        raise AssertionError
    finally:
        del _WAITED_FOR[thread]


def is_passing(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in _ANOTHER_TIME
    names = {each.__name__ for each in type(error).__mro__}
    return (isinstance(error, OSError) and not isinstance(error, _LASTING)) or bool(
        names & _PASSING
    )


def read_bytes(address: str, first: int | None = None, size: int | None = None) -> bytes:
    """The content of a file, or ``size`` bytes of it from ``first`` on; see `patiently`."""
    if not is_remote(address):
        expect_regular(Path(address))
        with Path(address).open("rb") as file:
            file.seek(first or 0)
            return file.read(-1 if size is None else size)
    store, path = filesystem(address)
    end = None if size is None else (first or 0) + size
    return patiently(lambda: bytes(store.cat_file(path, start=first, end=end)), address)


def size_of(address: str) -> int:
    """The bytes of a file; raises what the storage raises, see `patiently`."""
    if not is_remote(address):
        return Path(address).stat().st_size
    store, path = filesystem(address)
    return int(patiently(lambda: store.info(path)["size"], address))


def open_stream(address: str, size: int) -> IO[bytes]:
    """A file of ``size`` bytes, with ``seek``. Remote ones are read a block at a time, each as
    `read_bytes` does, so that a broken connection costs a block."""
    if not is_remote(address):
        expect_regular(Path(address))
        return Path(address).open("rb")
    return io.BufferedReader(_Blocks(address, size), _BLOCK)


class _Blocks(io.RawIOBase):
    def __init__(self, address: str, size: int) -> None:
        self._address, self._size, self._place = address, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = begin + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._place)
        if wanted <= 0:
            return 0
        content = read_bytes(self._address, self._place, wanted)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)


def reason_of(error: BaseException) -> str:
    """Why a file could not be read, in the words that runs over folders record."""
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status == 404:
        return "no such file"
    if isinstance(error, PermissionError) or status == 403:
        return "access denied"
    return f"cannot be read ({one_line(error)})"


@dataclass(frozen=True)
class Store:
    """A folder for results, local or remote; names in it have slashes.

    A file appears whole or not at all, also after a power cut: local ones are written under a
    temporary name, flushed to disk and moved, object stores show an object once its upload is
    complete.
    """

    root: str

    def address(self, name: str) -> str:
        return join(self.root, name)

    def names(self, folder: str = "") -> list[str]:
        """The names of the files in ``folder``, sorted; none where there is no such folder."""
        address = self.address(folder)
        if not is_remote(address):
            if not os.path.isdir(address):  # noqa: PTH112 (as an address)
                return []
            return sorted(name for name in os.listdir(address) if not is_part(name))  # noqa: PTH208
        store, path = filesystem(address)
        try:
            found = patiently(lambda: store.ls(path, detail=False), address)
        except FileNotFoundError:
            return []
        return sorted(each.rstrip("/").rpartition("/")[2] for each in found)

    def exists(self, name: str) -> bool:
        address = self.address(name)
        if not is_remote(address):
            return Path(address).is_file()
        store, path = filesystem(address)
        return bool(patiently(lambda: store.exists(path), address))

    def read(self, name: str) -> bytes:
        """Raises OSError for a file of more than `_LARGEST` bytes."""
        address = self.address(name)
        if not is_remote(address):
            return read_limited(Path(address), _LARGEST)
        content = read_bytes(address, 0, _LARGEST + 1)
        if len(content) > _LARGEST:
            raise OSError(errno.EFBIG, f"larger than {_LARGEST // 2**20} MB", address)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Raises OSError and what the package of a remote file system raises."""
        address = self.address(name)
        if is_remote(address):
            store, path = filesystem(address)
            patiently(lambda: store.pipe_file(path, content), address)
            return
        part = self._part(name)
        try:
            part.write_bytes(content)
            _replace(part, address)
        finally:
            part.unlink(missing_ok=True)

    def publish(self, local: Path, name: str) -> None:
        """Move a complete local file here."""
        address = self.address(name)
        if is_remote(address):
            store, path = filesystem(address)
            patiently(lambda: store.put_file(str(local), path), address)
            local.unlink()
            return
        part = self._part(name)  # on this file system, where `local` may not be
        try:
            shutil.move(local, part)
            _replace(part, address)
        finally:
            part.unlink(missing_ok=True)

    def modified(self, name: str) -> float:
        """When a file was last written, in seconds since 1970 by the clock of the storage."""
        address = self.address(name)
        if not is_remote(address):
            return Path(address).stat().st_mtime
        store, path = filesystem(address)
        return float(patiently(lambda: store.modified(path), address).timestamp())

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        address = self.address(name)
        if not is_remote(address):
            Path(address).unlink(missing_ok=True)
            return
        store, path = filesystem(address)
        try:
            patiently(lambda: store.rm_file(path), address)
        except FileNotFoundError:
            return

    def _part(self, name: str) -> Path:
        """A temporary name beside ``name`` that no other process has."""
        path = Path(self.address(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        return part_of(path.with_name(f"{path.name}.{uuid4().hex[:12]}"))


def _replace(part: Path, address: str) -> None:
    sync_to_disk(part)
    part.replace(address)
    sync_to_disk(part.parent)
