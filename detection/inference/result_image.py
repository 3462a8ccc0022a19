"""The image of a result, or the frame of a video: its name, size and pixels."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.image import DEFAULT_RULES, ImageRules, LoadedImage, read_image
from ..errors import ImageError
from .video import Frame


@dataclass(frozen=True)
class ResultImage:
    """The image of a result: ``size`` is (h, w) as displayed, ``orientation`` its EXIF value.

    ``name`` is its path as it was given, or below the folder that was given. The pixels of a file
    are read again when they are needed, so that results stay small; those of other images are
    ``kept``. ``frame`` and ``time`` are those of a `Frame`, None of an image.
    """

    name: str
    size: tuple[int, int]
    orientation: int = 1
    warnings: tuple[str, ...] = ()
    path: Path | None = None
    rules: ImageRules = field(default=DEFAULT_RULES, repr=False)
    kept: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    frame: int | None = None
    time: float | None = None

    @staticmethod
    def of(name: str, image: object, loaded: LoadedImage, rules: ImageRules) -> ResultImage:
        """That of an input of any kind, which was ``loaded`` by the ``rules``."""
        path = path_of(image)
        number, time = (image.number, image.time) if isinstance(image, Frame) else (None, None)
        return ResultImage(
            name,
            loaded.size,
            loaded.orientation,
            loaded.remarks,
            path,
            rules,
            None if path else loaded.pixels,
            number,
            time,
        )

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(h, w, 3) uint8 RGB; raises ImageError if the file has gone or has another size."""
        if self.kept is not None:
            return self.kept
        if self.path is None:
            raise ImageError(f"{self.name or 'image'}: its pixels were not kept")
        loaded = read_image(self.path, self.rules)
        if loaded.size != self.size:
            raise ImageError(f"{self.path}: had {self.size} pixels (h, w), now {loaded.size}")
        return loaded.pixels

    def record(self, record: dict[str, Any]) -> dict[str, Any]:
        """``record`` of the image, with ``frame`` and ``time`` after ``file`` if it is a frame."""
        if self.frame is None or self.time is None:
            return record
        moment = {"frame": self.frame, "time": round(self.time, 6)}
        return {"file": record["file"], **moment, **record}


def path_of(image: object) -> Path | None:
    """The path of an input that is one."""
    return Path(image) if isinstance(image, str | os.PathLike) else None
