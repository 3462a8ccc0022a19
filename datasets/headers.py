"""The sizes of many images from their headers, read by several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ..detection.errors import ImageError
from .image import ImageRules, read_size
from .parallel import WORTH_SHARING, Died, map_items

#: (h, w) as displayed; or why the image cannot be used.
Header = tuple[int, int] | str


def read_header(path: Path, rules: ImageRules) -> Header:
    """The size of an image, or why it cannot be used, without its path."""
    try:
        return read_size(path, rules)
    except ImageError as error:
        return str(error).removeprefix(f"{path}: ")


def read_headers(paths: Sequence[Path], rules: ImageRules, *, workers: int) -> Iterator[Header]:
    """`read_header` of each path, in order, by so many processes if there are many paths; 0 reads
    in this process."""
    shared = workers if len(paths) >= WORTH_SHARING else 0
    found = dict(map_items(partial(read_header, rules=rules), paths, workers=shared))
    for index in range(len(paths)):
        header = found[index]
        yield header.reason if isinstance(header, Died) else header
