"""What classes that are ids are called: ``n01440764`` is a tench.

ILSVRC names its classes by the ids of WordNet. Their words are in files of the data set, which are
read where they lie; pages and printed tables then have both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..detection.errors import ResdetError
from .formats.ilsvrc_files import TextLines, read_mapping
from .formats.ilsvrc_layout import KITS, NAMES
from .formats.mat_file import read_table

#: Folders above that of the data that are looked into: ``ILSVRC/Data/CLS-LOC`` has the names of its
#: classes beside ``ILSVRC``.
_ABOVE = 3


def class_words(root: Path) -> dict[str, str]:
    """{class: its first word}, of `LOC_synset_mapping.txt` in ``root`` or a folder above, else of
    the development kit in ``root``; empty without a file or with one that cannot be read."""
    root = root.absolute()
    lists = [folder / NAMES for folder in (root, *root.parents[:_ABOVE])]
    kits = [root / kit / name for kit in KITS for name in ("map_clsloc.txt", "meta.mat")]
    path = next((path for path in [*lists, *kits] if path.is_file()), None)
    if path is None:
        return {}
    try:
        words = _read(path)
    except (OSError, ValueError, ResdetError):
        return {}
    return {name: text.split(",")[0].strip() for name, text in words.items()}


def with_words(name: str, words: Mapping[str, str]) -> str:
    """``n01440764 tench``, or ``name`` alone where it has no word."""
    return f"{name} {words[name]}" if words.get(name) else name


def _read(path: Path) -> dict[str, str]:
    if path.name == NAMES:
        return read_mapping(path)[0]
    if path.suffix == ".mat":
        rows = read_table(path, "synsets", ("WNID", "words"))
        return {str(wnid): text for wnid, text in rows if isinstance(text, str)}
    rows_of_map = (line.split() for _, line in TextLines(path))  # n02119789 1 kit_fox
    return {row[0]: row[2].replace("_", " ") for row in rows_of_map if len(row) > 2}
