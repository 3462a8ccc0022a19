"""Tar shards of classified images, which are read as a stream (`datasets/shards`)."""

from __future__ import annotations

from typing import Literal

from ...detection.config.base import Count
from .format import Format, RootSource


class ShardsSource(RootSource):
    """Tar shards that ``resdet write-shards`` made, read as a stream."""

    format: Literal["shards"] = "shards"
    #: Folder of the training shards below ``root``.
    train: str = "train"
    #: Folder of the validation shards below ``root``.
    val: str = "val"
    #: Parts of a batch that are read in parallel; a multiple of the number of processes.
    lanes: Count = 8
    #: Size of the shuffle buffer of each lane, in images.
    buffer: Count = 512


FORMAT = Format(name="shards", source=ShardsSource, carries="class")
