"""Downloads that resume, over https or http, with proxies; other URL schemes are refused."""

from __future__ import annotations

import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
TIMEOUT = 30.0
#: Consecutive attempts without a new byte, and the pause after the first one, which doubles.
ATTEMPTS = 5
PAUSE = 1.0


class DownloadError(Exception):
    """The message names each URL with its failures; what was received is kept."""


class _UnexpectedAnswer(Exception):
    """The server answered, but not with the file."""


#: Failures that are tried again. A full disk (another OSError) is not among them.
_TRANSIENT = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
    _UnexpectedAnswer,
    ValueError,  # a malformed URL
)


def download(
    urls: Sequence[str],
    part: Path,
    *,
    size: int | None = None,
    https_only: bool = False,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Append to ``part`` until it has the whole file, of ``size`` bytes if that is known.

    ``urls`` are tried in turn, with redirects. Fails after ``attempts`` consecutive attempts
    without new bytes; the first pause is ``pause`` seconds and doubles each time. ``progress`` is
    called with the number of bytes.

    Raises:
        DownloadError: no network, no such file, or another file than expected.
        OSError: ``part`` cannot be written.
    """
    failures: list[str] = []
    tries, most = 0, size_of(part)
    while size is None or size_of(part) != size:
        url = urls[tries % len(urls)]
        progress(size_of(part))  # shown while waiting for the server
        try:
            _request(_opener(https_only=https_only), url, part, size, progress)
            if size is None:
                return
            continue
        except _TRANSIENT as error:
            failure = f"{url}: {_reason(error)}"
        tries += 1
        failures = [failure] if size_of(part) > most else [*failures, failure]
        most = max(most, size_of(part))
        if len(failures) >= attempts:
            raise DownloadError("; ".join(dict.fromkeys(failures)))
        time.sleep(pause * 2 ** (len(failures) - 1))


def size_of(path: Path) -> int:
    """The size of a file in bytes, 0 if it is missing."""
    return path.stat().st_size if path.exists() else 0


def _request(
    opener: urllib.request.OpenerDirector,
    url: str,
    part: Path,
    size: int | None,
    progress: Callable[[int], None],
) -> None:
    """One request for the bytes missing in ``part``; a server without ranges sends all again."""
    start = size_of(part)
    if size is not None and start > size:  # not our file
        part.unlink()
        start = 0
    if start:
        opener.addheaders.append(("Range", f"bytes={start}-"))
    with opener.open(url, timeout=TIMEOUT) as answer:
        start = _accepted_start(answer, start)
        offered = answer.headers.get("Content-Length")
        if size is not None and offered != str(size - start):
            offered = offered or "an unknown number of"
            raise _UnexpectedAnswer(f"offers {offered} bytes, expected {size - start}")
        total = None if offered is None else start + int(offered)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            done = start
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(done)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done != total:
        raise _UnexpectedAnswer(f"the connection ended after {done} of {total} bytes")


def _accepted_start(answer: Any, start: int) -> int:
    """Where the content of an answer begins: 0 unless the server honours the range."""
    if answer.status != http.client.PARTIAL_CONTENT:
        return 0
    stated = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if not stated or int(stated[1]) != start:
        raise _UnexpectedAnswer(f"answers with another range than the bytes from {start}")
    return start


def _opener(*, https_only: bool) -> urllib.request.OpenerDirector:
    """An opener with redirects and proxies, but without the schemes file: and ftp: of urlopen."""
    opener = urllib.request.OpenerDirector()
    handlers = [
        urllib.request.ProxyHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ]
    if not https_only:
        handlers.append(urllib.request.HTTPHandler)
    for handler in handlers:
        opener.add_handler(handler())
    opener.addheaders = [("User-Agent", "resdet")]
    return opener


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
