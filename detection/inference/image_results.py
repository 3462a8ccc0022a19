"""The interface of an image's result: named, filtered, drawn and tabulated."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import ConfigError, ImageError
from ..files import atomic_write
from ..printing import printable
from .draw import save_jpeg
from .result_image import ResultImage
from .result_page import SHOWN, result_page

if TYPE_CHECKING:
    import pandas

Item = TypeVar("Item", covariant=True)
Index = slice | Tensor | NDArray[Any] | Sequence[int] | Sequence[bool]


class ImageResult(ABC, Generic[Item]):
    """What a model found in one image, best first; a sequence of it.

    ``classes`` are all names in label order. An integer as index gives one item; a slice, a list of
    numbers, or a mask gives a result.
    """

    #: What it has several of.
    noun: ClassVar[str]

    def __init__(self, found: Any, classes: Sequence[str], image: ResultImage) -> None:
        #: `Detections` or `RankedClasses`.
        self.found = found
        self.classes = tuple(classes)
        self.image = image

    # ------------------------------------------------------------------------------- content

    @property
    def scores(self) -> Tensor:
        """(D,) f32."""
        scores: Tensor = self.found.scores
        return scores

    @property
    def labels(self) -> Tensor:
        """(D,) i64, indices into ``classes``."""
        labels: Tensor = self.found.labels
        return labels

    @property
    def names(self) -> list[str]:
        """The class name of each."""
        return [self.classes[label] for label in self.labels.tolist()]

    @property
    def file(self) -> str:
        """The name of the image; ``""`` for one that is no file."""
        return self.image.name

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the image as displayed."""
        return self.image.size

    @property
    def frame(self) -> int | None:
        """The number of the frame among all of its video, from 0; None for an image."""
        return self.image.frame

    @property
    def time(self) -> float | None:
        """Of a frame: the seconds from the start of its video."""
        return self.image.time

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was noticed while the image was read, such as missing pixels."""
        return self.image.warnings

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Item]:
        return map(self._item, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: Index) -> Self: ...

    def __getitem__(self, index: int | Index) -> Item | Self:
        if isinstance(index, Tensor | np.ndarray) and index.ndim == 0:
            index = int(index)
        if isinstance(index, int | np.integer):
            return self._item(range(len(self))[int(index)])
        if isinstance(index, slice):
            index = torch.arange(len(self)).numpy()[index].copy()  # tensors take no negative steps
        chosen = torch.as_tensor(index)
        if chosen.dtype == torch.bool and len(chosen) != len(self):
            raise IndexError(f"a mask of {len(chosen)} for {len(self)} {self.noun}")
        chosen = chosen if chosen.dtype == torch.bool else chosen.long()
        return type(self)(self.found[chosen], self.classes, self.image)

    def filter(
        self, *, score_threshold: float = 0.0, classes: str | Sequence[str] | None = None
    ) -> Self:
        """Those that score at least ``score_threshold``, of ``classes`` alone (None: all).

        Raises ConfigError for a threshold that is not from 0 to 1, and for an unknown class.
        """
        keep = self.scores >= check_threshold(score_threshold)
        if classes is not None:
            wanted = [classes] if isinstance(classes, str) else list(classes)
            keep &= torch.isin(
                self.labels, torch.tensor(labels_of(wanted, self.classes), dtype=torch.int64)
            )
        return self[keep]

    def top(self, k: int = 5) -> Self:
        """The best ``k``."""
        if k < 0:
            raise ConfigError(f"top({k}): expected a number of {self.noun}")
        return self[self.scores.argsort(descending=True, stable=True)[:k]]

    # ------------------------------------------------------------------------------- images

    @abstractmethod
    def drawing(self) -> NDArray[np.uint8]:
        """A copy of the image (h, w, 3) uint8 RGB with what was found."""

    def draw(self) -> Image.Image:
        """The image with what was found; raises ImageError if its file has gone."""
        return Image.fromarray(self.drawing())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `draw` in the format of the suffix, making the folder; returns the path.

        Raises ConfigError for a suffix of no format, or if the file cannot be written.
        """
        out = Path(path)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.suffix.lower() in (".jpg", ".jpeg"):
                save_jpeg(self.drawing(), out)
                return out
            format = Image.registered_extensions().get(out.suffix.lower())
            if format is None:
                raise ConfigError(f"{out}: give the image a suffix such as .jpg or .png")
            with atomic_write(out) as part:
                self.draw().save(part, format)
        except OSError as error:
            raise ConfigError(f"{out}: cannot be written: {error.strerror or error}") from error
        return out

    # ------------------------------------------------------------------------------- tables

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The record that `resdet infer` writes for the image."""

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each, with the columns of the CSV that `resdet infer` writes; those of a frame
        have ``frame`` and ``time`` too.

        Raises ConfigError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigError("to_pandas() needs pandas: pip install pandas") from error
        record = self.to_dict()
        about = [name for name in ("file", "frame", "time", "width", "height") if name in record]
        start: list[Any] = [record[name] for name in about]
        rows = [[*start, *row] for row in self._rows(record)]
        return pandas.DataFrame(rows, columns=[*about, *self.columns])

    @property
    def title(self) -> str:
        """The image, its size, and how much was found, in one printable line."""
        height, width = self.size
        parts = [printable(self.file)] if self.file else []
        parts += [f"frame {self.frame} at {self.time:.3f} s"] if self.frame is not None else []
        return ", ".join([*parts, f"{width} x {height}", f"{len(self)} {self.noun}"])

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}: {self.title}"]
        lines += [f"  {self._line(number)}" for number in range(min(len(self), SHOWN))]
        lines += [f"  … and {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """For notebooks: the drawn image and a table."""
        return result_page(self)

    # ------------------------------------------------------------------------------- kinds

    #: The columns of a row of `to_pandas`, after those of the image.
    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def _item(self, index: int) -> Item: ...

    @abstractmethod
    def _line(self, index: int) -> str: ...

    @abstractmethod
    def _rows(self, record: dict[str, Any]) -> list[list[object]]: ...


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be used, in place of a result under ``on_error="return"``."""

    file: str
    error: ImageError
    path: Path | None = None

    def __len__(self) -> int:
        return 0

    def to_dict(self) -> dict[str, Any]:
        """The record that `resdet infer` writes for such an image."""
        return {"file": self.file, "error": str(self.error).removeprefix(f"{self.path}: ")}

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


def check_threshold(score: float, owner: str = "") -> float:
    """``score`` as a float; raises ConfigError unless it is a number from 0 to 1."""
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ConfigError(f"score threshold {score!r}{owner} is not between 0 and 1")
    return float(score)


def labels_of(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The labels of class names; raises ConfigError for one that is not among ``classes``."""
    for name in names:
        if name not in classes:
            near = get_close_matches(str(name), classes, n=1)
            hint = f"did you mean {near[0]}?" if near else f"classes are {', '.join(classes)}"
            raise ConfigError(f"class {name}: the model does not know it; {hint}")
    return [classes.index(name) for name in names]
