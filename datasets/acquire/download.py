"""Published data sets: verified downloads, unpacked once.

Archives are downloaded to ``<out>/archives``, first to a ``.part`` file, which a later run
continues. It is renamed when size and checksum are correct. A marker in the unpacked folder records
that unpacking is complete.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...detection.download import ATTEMPTS, CHUNK, PAUSE, DownloadError, download, size_of
from ...detection.errors import DataError
from .archives import unpack

#: Called with (description, bytes done, total bytes).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Archive:
    """A published archive: ``urls`` to try in turn, size in bytes and MD5.

    It is unpacked in ``target`` and creates ``folder``; both are relative to the output folder.
    """

    name: str
    urls: tuple[str, ...]
    size: int
    md5: str
    target: str
    folder: str


def _voc(year: int, name: str, size: int, md5: str) -> Archive:
    """The official host redirects to the first one, which supports HTTPS."""
    path = f"pascal/VOC/voc{year}/{name}"
    hosts = ("https://thor.robots.ox.ac.uk", "http://host.robots.ox.ac.uk")
    urls = tuple(f"{host}/{path}" for host in hosts)
    return Archive(name, urls, size, md5, target=".", folder=f"VOCdevkit/VOC{year}")


def _coco(path: str, folder: str, size: int, md5: str) -> Archive:
    """The official host is a storage bucket without an HTTPS certificate of its own."""
    bucket = "images.cocodataset.org"
    urls = (f"https://s3.amazonaws.com/{bucket}/{path}", f"http://{bucket}/{path}")
    return Archive(Path(path).name, urls, size, md5, target="coco", folder=f"coco/{folder}")


_CIFAR = Archive(
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    170_052_171,
    "c32a1d4ab5d03f1284b67883e8d87530",
    target="archives",
    folder="archives/cifar-10-batches-bin",
)

# MD5 of the VOC files as in torchvision (datasets/voc.py), of the COCO files as in PaddleDetection
# (utils/download.py) and MLPerf's reference SSD, of CIFAR-10 as on its page; sizes from the
# servers.
DATASETS: dict[str, tuple[Archive, ...]] = {
    "cifar10": (_CIFAR,),
    "voc2007": (
        _voc(2007, "VOCtrainval_06-Nov-2007.tar", 460_032_000, "c52e279531787c972589f7e41ab4ae64"),
        _voc(2007, "VOCtest_06-Nov-2007.tar", 451_020_800, "b6e924de25625d8de591ea690078ad9f"),
    ),
    "voc2012": (
        _voc(
            2012, "VOCtrainval_11-May-2012.tar", 1_999_639_040, "6cd6e144f989b92b3379bac3b3de84fd"
        ),
    ),
    "coco2017": (
        _coco(
            "annotations/annotations_trainval2017.zip",
            "annotations",
            252_907_541,
            "f4bbac642086de4f52a3fdda2de5fa2c",
        ),
        _coco("zips/val2017.zip", "val2017", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
        _coco(
            "zips/train2017.zip", "train2017", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"
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
    """Return the verified file ``folder/archive.name``; downloads what is missing.

    Raises DataError after ``attempts`` consecutive attempts without new bytes. The first pause is
    ``pause`` seconds; it doubles each time.
    """
    path = folder / archive.name
    if path.exists():
        difference = _difference(path, archive, progress)
        if difference:
            raise DataError(f"{path}: has {difference}; delete it and run again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{archive.name}.part"
    _require_space(folder, archive.size - size_of(part), f"download {archive.name}")
    try:
        download(
            archive.urls,
            part,
            size=archive.size,
            attempts=attempts,
            pause=pause,
            progress=lambda done: progress(archive.name, done, archive.size),
        )
    except DownloadError as error:
        raise DataError(
            f"{archive.name}: not downloaded ({error}). Run again to continue, or download "
            f"{archive.urls[0]} by other means and place it at {path}"
        ) from error
    except OSError as error:
        raise DataError(f"{part}: cannot be written: {error.strerror}") from error
    difference = _difference(part, archive, progress)
    if difference:
        part.unlink()
        raise DataError(f"{archive.name}: the download has {difference}; deleted, run again")
    part.replace(path)
    return path


def _difference(path: Path, archive: Archive, progress: Progress) -> str:
    """Difference to the published size or MD5; empty if there is none."""
    if size_of(path) != archive.size:
        return f"{size_of(path)} bytes, expected {archive.size}"
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
