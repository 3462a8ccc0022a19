"""A run over a manifest, in words that can be sent to other processes."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from ...datasets.image_file import bytes_to_decode
from ...datasets.manifests.entries import Entry
from ...datasets.manifests.manifest import read_entries
from ...datasets.manifests.storage import is_remote, read_bytes, reason_of
from ...datasets.memory import MAX_FILE
from ..errors import ImageError
from ..inference.folder import image_records
from ..inference.inputs import InputFile
from ..inference.options import FolderOptions
from ..inference.predictor import Predictor
from ..predictor import load

Parts = Literal["jsonl", "parquet"]


@dataclass(frozen=True)
class ModelArguments:
    """The arguments of `load`, and the tiles of `Predictor.tiled` (None: none)."""

    weights: tuple[Path, ...]
    device: str | None = None
    overrides: tuple[str, ...] = ()
    trust_paths: bool = False
    tile: int | None = None
    overlap: float = 0.2
    compile: str | None = None

    def load(self) -> Predictor[Any]:
        """Raises as `load` and `Predictor.tiled`."""
        weights, overrides = list(self.weights), list(self.overrides)
        predictor = load(
            weights,
            self.device,
            overrides,
            trust_paths=self.trust_paths,
            compile=self.compile,
        )
        return predictor if self.tile is None else predictor.tiled(self.tile, self.overlap)


@dataclass(frozen=True)
class ShardJob:
    """A run of a model over the images of ``manifest`` that writes its results to ``out``; both are
    folders or addresses."""

    manifest: str
    out: str
    model: ModelArguments
    options: FolderOptions
    parts: Parts = "jsonl"

    def files(self, number: int) -> list[InputFile]:
        """The images of one shard. Raises DataError."""
        return [input_file(entry) for entry in read_entries(self.manifest, number)]


class _Content(io.BytesIO):
    """An encoded image, with the address it comes from as its name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True)
class StoredFile(InputFile):
    """An image in object storage or in a tar file: the bytes at ``address``, or ``size`` of them
    from ``offset`` on."""

    address: str = ""
    offset: int | None = None
    size: int | None = None

    @property
    def place(self) -> str:
        return self.address

    def fetch(self) -> tuple[Path | IO[bytes], int]:
        inside = self.offset is not None and self.size is not None
        # An address may lead to a file of any size, whatever a manifest says about it.
        first, size = (self.offset, self.size) if inside else (0, MAX_FILE + 1)
        data = b""
        try:
            if self.size is None or 0 < self.size <= MAX_FILE:
                data = read_bytes(self.address, first, size)
        except Exception as error:  # whatever the storage raises is about this image
            raise ImageError(f"{self.place}: {reason_of(error)}") from error
        if max(len(data), self.size or 0) > MAX_FILE:
            raise ImageError(f"{self.place}: larger than {MAX_FILE // 2**20} MB")
        return _content(data, self.place)


@dataclass(frozen=True)
class ContentFile(InputFile):
    """An encoded image in memory."""

    content: bytes = b""

    @property
    def place(self) -> str:
        return self.name

    def fetch(self) -> tuple[Path | IO[bytes], int]:
        return _content(self.content, self.place)


def _content(data: bytes, name: str) -> tuple[IO[bytes], int]:
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes)")
    return _Content(data, name), bytes_to_decode(data, name)


@dataclass(frozen=True)
class RefusedFile(InputFile):
    """An image that is known to end the process that reads it, and how."""

    reason: str = ""

    def fetch(self) -> tuple[Path | IO[bytes], int]:
        raise ImageError(f"{self.place}: {self.reason}")


def input_file(entry: Entry) -> InputFile:
    """The image of an entry."""
    if entry.offset is None and not is_remote(entry.path):
        return InputFile(Path(entry.path), entry.name)
    return StoredFile(
        Path(entry.name), entry.name, address=entry.place, offset=entry.offset, size=entry.size
    )


def address_file(address: str) -> InputFile:
    """The image at a path or an address, which is also its name."""
    return input_file(Entry(address, None, "", address))


def shard_records(
    predictor: Predictor[Any],
    job: ShardJob,
    number: int,
    refused: Mapping[int, str],
    stop: Callable[[], bool],
    first: int = 0,
) -> Generator[dict[str, Any], None, None]:
    """The records of a shard from image ``first`` on, which begins a batch; ``refused`` are images
    not to read, by their place in the shard, and why."""
    files = job.files(number)
    for index, reason in refused.items():
        files[index] = RefusedFile(files[index].path, files[index].name, reason=reason)
    return image_records(predictor, files[first:], Path(job.out), job.options, stop)
