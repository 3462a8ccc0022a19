"""How does a published data set get onto this disk, complete and unchanged?

Archives go to ``<out>/archives``: first to a ``.part`` file that a later run continues, then, once
size and checksum agree, to their own name. They are unpacked beside it; a marker inside the
unpacked folder says that this was finished.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...detection.errors import DataError
from ...detection.files import url_opener
from .archives import CHUNK, unpack

#: Called with what is being done, the bytes done so far and the bytes in all.
Progress = Callable[[str, int, int], None]

TIMEOUT = 30.0
#: Tries without a single new byte before giving up, and the pause after the first, which doubles.
ATTEMPTS = 5
PAUSE = 1.0


@dataclass(frozen=True)
class Archive:
    """A published file and where it belongs.

    ``urls`` are tried in turn, ``size`` is in bytes, ``md5`` guards against damage and mix-ups.
    It is unpacked in ``target`` and fills ``folder``; both are relative to the output folder.
    """

    name: str
    urls: tuple[str, ...]
    size: int
    md5: str
    target: str
    folder: str


def _voc(year: int, name: str, *, size: int, md5: str) -> Archive:
    """The official address redirects to the second host, which speaks HTTPS and is asked first."""
    path = f"pascal/VOC/voc{year}/{name}"
    hosts = ("https://thor.robots.ox.ac.uk", "http://host.robots.ox.ac.uk")
    urls = tuple(f"{host}/{path}" for host in hosts)
    return Archive(name, urls, size, md5, target=".", folder=f"VOCdevkit/VOC{year}")


def _coco(path: str, *, folder: str, size: int, md5: str) -> Archive:
    """The official host is a storage bucket, whose HTTPS certificate names the storage service."""
    bucket = "images.cocodataset.org"
    urls = (f"https://s3.amazonaws.com/{bucket}/{path}", f"http://{bucket}/{path}")
    return Archive(Path(path).name, urls, size, md5, target="coco", folder=f"coco/{folder}")


# MD5 of the VOC files as in torchvision (datasets/voc.py), of the COCO files as in PaddleDetection
# (utils/download.py) and MLPerf's reference SSD; sizes as the servers state them.
DATASETS: dict[str, tuple[Archive, ...]] = {
    "voc2007": (
        _voc(
            2007,
            "VOCtrainval_06-Nov-2007.tar",
            size=460_032_000,
            md5="c52e279531787c972589f7e41ab4ae64",
        ),
        _voc(
            2007,
            "VOCtest_06-Nov-2007.tar",
            size=451_020_800,
            md5="b6e924de25625d8de591ea690078ad9f",
        ),
    ),
    "voc2012": (
        _voc(
            2012,
            "VOCtrainval_11-May-2012.tar",
            size=1_999_639_040,
            md5="6cd6e144f989b92b3379bac3b3de84fd",
        ),
    ),
    "coco2017": (
        _coco(
            "annotations/annotations_trainval2017.zip",
            folder="annotations",
            size=252_907_541,
            md5="f4bbac642086de4f52a3fdda2de5fa2c",
        ),
        _coco(
            "zips/val2017.zip",
            folder="val2017",
            size=815_585_330,
            md5="442b8da7639aecaf257c1dceb8ba8c80",
        ),
        _coco(
            "zips/train2017.zip",
            folder="train2017",
            size=19_336_861_798,
            md5="cced6f7f71b7629ddf16f17bbcfab6b2",
        ),
    ),
}


def _silent(what: str, done: int, total: int) -> None:
    pass


def install(archive: Archive, out: Path, *, progress: Progress = _silent) -> None:
    """Download and unpack one archive below ``out``, unless an earlier run finished it.

    Raises DataError with the reason and what to do by hand: no network, a wrong checksum, a full
    disk, an archive that is damaged or tries to leave its folder.
    """
    marker = out / archive.folder / f".{archive.name}.unpacked"
    if marker.is_file():
        return
    path = fetch(archive, out / "archives", progress=progress)
    _require_space(out, archive.size, f"unpack {archive.name}")
    files = unpack(
        path,
        out / archive.target,
        report=lambda done, total: progress(f"unpack {archive.name}", done, total),
    )
    if not marker.parent.is_dir():
        raise DataError(f"{path}: unpacked {files} files but no folder {archive.folder}")
    marker.write_text(f"{files} files from {archive.name}, md5 {archive.md5}\n", encoding="utf-8")


def fetch(
    archive: Archive,
    folder: Path,
    *,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
    progress: Progress = _silent,
) -> Path:
    """Return the verified file ``folder/archive.name``, downloading what is missing of it.

    Gives up after ``attempts`` tries in a row that bring nothing new; ``pause`` seconds after the
    first, doubling. Raises DataError.
    """
    path = folder / archive.name
    if path.exists():
        difference = _difference(path, archive, progress)
        if difference:
            raise DataError(f"{path}: has {difference}; delete it and run again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{archive.name}.part"
    _require_space(folder, archive.size - _size(part), f"download {archive.name}")
    _download(archive, part, attempts=attempts, pause=pause, progress=progress)
    difference = _difference(part, archive, progress)
    if difference:
        part.unlink()
        raise DataError(f"{archive.name}: the download has {difference}; thrown away, run again")
    part.replace(path)
    return path


def _download(
    archive: Archive, part: Path, *, attempts: int, pause: float, progress: Progress
) -> None:
    """Fill ``part`` to the full size, asking the addresses in turn."""
    failures: list[str] = []
    tries, most = 0, _size(part)
    while _size(part) != archive.size:
        url = archive.urls[tries % len(archive.urls)]
        progress(archive.name, _size(part), archive.size)  # seen while the server is waited for
        try:
            _continue(url, archive, part, progress)
            continue
        except _TRANSIENT as error:
            failure = f"{url}: {_reason(error)}"
        except OSError as error:
            raise DataError(f"{part}: cannot be written: {error.strerror}") from error
        tries += 1
        failures = [failure] if _size(part) > most else [*failures, failure]
        most = max(most, _size(part))
        if len(failures) >= attempts:
            raise DataError(_by_hand(archive, part, failures))
        time.sleep(pause * 2 ** (len(failures) - 1))


class _UnexpectedAnswer(Exception):
    """The server answered, but not with the file."""


#: What another try may cure. A full disk is an OSError too, and is not among them.
_TRANSIENT = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
    _UnexpectedAnswer,
)


def _continue(url: str, archive: Archive, part: Path, progress: Progress) -> None:
    """One request for the bytes that ``part`` lacks; a server without ranges sends all again."""
    start = _size(part)
    if start > archive.size:  # not our file
        part.unlink()
        start = 0
    opener = url_opener("http", "https")
    opener.addheaders = [("User-Agent", "resdet")]
    if start:
        opener.addheaders.append(("Range", f"bytes={start}-"))
    with opener.open(url, timeout=TIMEOUT) as answer:
        start = _accepted_start(answer, start)
        offered = answer.headers.get("Content-Length", "an unknown number of")
        if offered != str(archive.size - start):
            raise _UnexpectedAnswer(f"offers {offered} bytes, expected {archive.size - start}")
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            done = start
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                progress(archive.name, done, archive.size)
            file.flush()
            os.fsync(file.fileno())
    if done != archive.size:
        raise _UnexpectedAnswer(f"the connection ended after {done} of {archive.size} bytes")


def _accepted_start(answer: Any, start: int) -> int:
    """Where the content of an answer begins: 0 unless the server honours the range."""
    if answer.status != http.client.PARTIAL_CONTENT:
        return 0
    stated = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if not stated or int(stated[1]) != start:
        raise _UnexpectedAnswer(f"answers with another range than the bytes from {start}")
    return start


def _difference(path: Path, archive: Archive, progress: Progress) -> str:
    """What tells the file from the published one by size or MD5; empty if nothing does."""
    if _size(path) != archive.size:
        return f"{_size(path)} bytes, expected {archive.size}"
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        done = 0
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(f"verify {archive.name}", done, archive.size)
    found = digest.hexdigest()
    return "" if found == archive.md5 else f"md5 {found}, expected {archive.md5}"


def _require_space(folder: Path, needed: int, purpose: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed to {purpose}"
        )


def _by_hand(archive: Archive, part: Path, failures: list[str]) -> str:
    causes = "; ".join(dict.fromkeys(failures))
    place = part.with_name(archive.name)
    return (
        f"{archive.name}: not downloaded ({causes}). Run again to continue, or download "
        f"{archive.urls[0]} by other means and place it at {place}"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
