"""Images read one after another from a tar shard; the one module that uses webdataset."""

from __future__ import annotations

import tarfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import ModuleType
from typing import IO, Any

from ...detection.errors import ConfigError, DataError
from ...detection.structures import Sample
from ..image import DEFAULT_RULES, ImageRules, decode_image
from ..loading.crops import Crop, crop_sample
from ..manifests.storage import open_stream, reason_of
from ..memory import MAX_FILE
from .index import ShardSet
from .plan import Segment


@dataclass(frozen=True)
class Packed:
    """One image of a shard, still encoded; ``index`` counts through the whole set."""

    index: int
    key: str
    label: int
    name: str
    content: bytes


@dataclass(frozen=True)
class ShardSource:
    """Shards, and the crops that their images are read with."""

    shards: ShardSet
    crops: Sequence[Crop]
    rules: ImageRules = DEFAULT_RULES

    def read(self, segment: Segment) -> Iterator[Packed]:
        """The images of a part of one shard, in order; raises DataError naming the shard."""
        shard = self.shards.shards[segment.shard]
        path = self.shards.place(shard)
        before = sum(map(len, self.shards.shards[: segment.shard]))
        position = segment.first
        for found in islice(_members(path, shard.size), segment.first, segment.last):
            key, label = shard.keys[position], shard.labels[position]
            suffixes = [name for name in found if not name.startswith("__") and name != "cls"]
            if found["__key__"] != key or len(suffixes) != 1:
                raise DataError(
                    f"{path}: image {position} is {found['__key__']!r}, expected {key!r}"
                )
            name = f"{path}: {key}.{suffixes[0]}"
            yield Packed(before + position, key, label, name, found[suffixes[0]])
            position += 1
        if position < segment.last:
            raise DataError(f"{path}: ends after {position} images, its index says {len(shard)}")

    def sample(self, packed: Packed, seed: int) -> Sample:
        """The image decoded and cropped; raises ImageError naming shard and image, or, as the
        rules say, SkippedImage."""
        loaded = decode_image(packed.content, packed.name, self.rules)
        for warning in loaded.warnings:
            warnings.warn(f"{packed.name}: {warning}", stacklevel=2)
        return crop_sample(
            loaded.pixels, self.crops, image_id=packed.key, seed=seed, label=packed.label
        )


def _members(path: str, size: int) -> Iterator[dict[str, Any]]:
    tars = require_webdataset().tariterators
    try:
        with open_stream(path, size) as file:
            yield from tars.group_by_keys(_contents(file, path))
    except (DataError, GeneratorExit):
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise DataError(f"{path}: {reason_of(error)}") from error
    except Exception as error:  # damaged archives raise nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path}: cannot be read as a tar file ({reason:.200})") from error


def _contents(file: IO[bytes], path: str) -> Iterator[dict[str, Any]]:
    """The files of a plain tar file as webdataset's functions take them; of a larger one than an
    image may be, which may be a few bytes in the tar file, none is read."""
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # else they stay in memory
            if not member.isreg():
                continue
            if member.size > MAX_FILE:
                raise DataError(f"{path}: {member.name}: larger than {MAX_FILE // 2**20} MB")
            content = archive.extractfile(member)
            yield {
                "fname": member.name,
                "data": content.read() if content else b"",
                "__url__": path,
            }


def require_webdataset() -> ModuleType:
    """The package; raises ConfigError saying how to get it."""
    try:
        import webdataset
    except ImportError as error:
        raise ConfigError(
            "reading shards needs the package webdataset: pip install 'resdet[shards]'"
        ) from error
    return webdataset
