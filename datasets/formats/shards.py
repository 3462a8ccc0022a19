"""Tar shards of classified images, which are read as a stream (`datasets/shards`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from ...detection.config.base import Count
from ..manifests.storage import is_remote, join
from .format import Format, Part, Source


class ShardsSource(Source):
    """Tar shards that ``resdet write-shards`` made, read as a stream."""

    format: Literal["shards"] = "shards"
    #: The data set's folder.
    root: Path | None = None
    #: In place of ``root``, its address in object storage: s3://bucket/shards.
    url: str | None = None
    #: Folder of the training shards below ``root``.
    train: str = "train"
    #: Folder of the validation shards below ``root``.
    val: str = "val"
    #: Parts of a batch that are read in parallel; a multiple of the number of processes.
    lanes: Count = 8
    #: Size of the shuffle buffer of each lane, in images.
    buffer: Count = 512

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.root is None) == (self.url is None):
            raise ValueError("shards have a root or a url")
        if self.url is not None and not is_remote(self.url):
            raise ValueError(f"url: expected an address such as s3://bucket/shards: {self.url!r}")
        return self

    @property
    def title(self) -> str:
        return str(self.url or self.root)

    def place(self, part: Part) -> str:
        """The path or address of the folder of the shards of a part."""
        return join(self.title, self.train if part == "train" else self.val)


FORMAT = Format(name="shards", source=ShardsSource, carries="class")
