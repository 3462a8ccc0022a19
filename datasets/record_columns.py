"""The records of a split as columns, which data workers share without copying.

Workers would copy a tuple of records: Python writes to every object that it reads.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..detection.structures import Record

Columns = Mapping[str, NDArray[Any]]
#: {column: type of its values, shape of one} of N images and R objects. Texts are UTF-8, also
#: of lone surrogates; ``*_ends`` (N,) are where the texts and the objects of each image end in
#: their columns.
COLUMNS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "ids": ("u1", ()),
    "id_ends": ("i8", ()),
    "paths": ("u1", ()),
    "path_ends": ("i8", ()),
    "sizes": ("i4", (2,)),
    "image_labels": ("i8", ()),
    "object_ends": ("i8", ()),
    "boxes": ("f4", (4,)),
    "labels": ("i4", ()),
    "ignore": ("?", ()),
    "areas": ("f8", ()),
}
#: {column of ends: the columns that it divides}.
_DIVIDED = {
    "id_ends": ("ids",),
    "path_ends": ("paths",),
    "object_ends": ("boxes", "labels", "ignore", "areas"),
}

#: Of `array`, for the types of `COLUMNS`.
_CODES = {"u1": "B", "i4": "i", "i8": "q", "f4": "f", "f8": "d", "?": "B"}


class RecordRow(NamedTuple):
    """A `Record` in arrays: what columns are made of, and how they are read without torch, whose
    import takes longer than the check of a small data set."""

    image_id: str
    path: Path
    size: tuple[int, int]
    boxes: NDArray[np.float32] = np.zeros((0, 4), np.float32)
    labels: NDArray[np.integer] = np.zeros(0, np.int32)
    ignore: NDArray[np.bool_] = np.zeros(0, np.bool_)
    #: nan where the area is the box's.
    areas: NDArray[np.float64] = np.zeros(0)
    image_label: int | None = None

    @classmethod
    def of(cls, record: Record) -> RecordRow:
        """The same image."""
        own = record.annotation
        areas = np.full(len(own), np.nan) if own.areas is None else own.areas.numpy()
        objects = (own.boxes.numpy(), own.labels.numpy(), own.ignore.numpy(), areas)
        return cls(record.image_id, record.path, record.size, *objects, record.image_label)

    def record(self) -> Record:
        """The same image, with tensors, which may be changed."""
        import torch

        from ..detection.structures import Annotation, Record

        annotation = Annotation(
            torch.tensor(self.boxes),
            torch.tensor(self.labels, dtype=torch.int64),
            torch.tensor(self.ignore),
            None if np.isnan(self.areas).all() else torch.tensor(self.areas),
        )
        return Record(self.image_id, self.path, self.size, annotation, self.image_label)


class Records(Sequence["Record"]):
    """The records of N images with R objects, each made when it is read; see `COLUMNS`.

    A slice is `Records` too. Columns are not to be changed.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    @classmethod
    def of(cls, records: Iterable[Record | RecordRow]) -> Records:
        """The same records; each is read once and not kept."""
        return records if isinstance(records, Records) else cls(_columns(records))

    def rows(self) -> Iterator[RecordRow]:
        """The images in order, as views of the columns."""
        return map(self._row, range(len(self)))

    @property
    def sizes(self) -> NDArray[np.int32]:
        """(N, 2): the (h, w) of each image."""
        return self.columns["sizes"]

    @property
    def image_labels(self) -> NDArray[np.int64]:
        """(N,): the class of each image, -1 where it has none."""
        return self.columns["image_labels"]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(N,): the number of objects of each image."""
        return np.diff(self.columns["object_ends"], prepend=0)

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(R, 4): the boxes of all objects, image by image."""
        return self.columns["boxes"]

    @property
    def labels(self) -> NDArray[np.int32]:
        """(R,): the classes of all objects."""
        return self.columns["labels"]

    @property
    def ignore(self) -> NDArray[np.bool_]:
        """(R,): which objects are neither right nor wrong."""
        return self.columns["ignore"]

    def ids(self) -> Iterator[str]:
        """The image ids, in order."""
        return (self._text("id", number) for number in range(len(self)))

    def with_ids(self, wanted: Callable[[str], bool]) -> Records:
        """The records whose image ids are wanted, in their order."""
        return self.take([number for number, name in enumerate(self.ids()) if wanted(name)])

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> Records:
        """The records of these indices, in their order."""
        wanted = np.asarray(indices, np.int64)
        found = {name: self.columns[name][wanted] for name in ("sizes", "image_labels")}
        for ends, divided in _DIVIDED.items():
            parts, found[ends] = _parts(self.columns[ends], wanted)
            found |= {name: self.columns[name][parts] for name in divided}
        return Records(found)

    def __len__(self) -> int:
        return len(self.columns["id_ends"])

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        # The range counts from the end and raises IndexError.
        return self._row(range(len(self))[operator.index(index)]).record()

    def _row(self, number: int) -> RecordRow:
        height, width = self.sizes[number].tolist()
        label = int(self.image_labels[number])
        own = self._part("object_ends", number)
        return RecordRow(
            self._text("id", number),
            Path(self._text("path", number)),
            (height, width),
            self.boxes[own],
            self.labels[own],
            self.ignore[own],
            self.columns["areas"][own],
            None if label < 0 else label,
        )

    def _text(self, kind: str, number: int) -> str:
        content = self.columns[f"{kind}s"][self._part(f"{kind}_ends", number)]
        return content.tobytes().decode("utf-8", "surrogatepass")

    def _part(self, ends: str, number: int) -> slice:
        column = self.columns[ends]
        return slice(column[number - 1] if number else 0, column[number])


def _parts(ends: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
    """The indices into a divided column of the ``wanted`` parts, and where these end then."""
    counts = np.diff(ends, prepend=0)[wanted]
    after = np.cumsum(counts)
    shifts = np.repeat(ends[wanted] - after, counts)
    return np.arange(len(shifts)) + shifts, after


def _columns(records: Iterable[Record | RecordRow]) -> Columns:
    kept = {name: array(_CODES[kind]) for name, (kind, _) in COLUMNS.items()}
    for record in records:
        row = record if isinstance(record, RecordRow) else RecordRow.of(record)
        kept["ids"].frombytes(row.image_id.encode("utf-8", "surrogatepass"))
        kept["paths"].frombytes(str(row.path).encode("utf-8", "surrogatepass"))
        kept["sizes"].extend(row.size)
        kept["image_labels"].append(-1 if row.image_label is None else row.image_label)
        for name in _DIVIDED["object_ends"]:
            kept[name].frombytes(getattr(row, name).astype(COLUMNS[name][0]).tobytes())
        kept["id_ends"].append(len(kept["ids"]))
        kept["path_ends"].append(len(kept["paths"]))
        kept["object_ends"].append(len(kept["labels"]))
    return {
        name: np.frombuffer(kept[name], kind).reshape(-1, *shape)
        for name, (kind, shape) in COLUMNS.items()
    }
