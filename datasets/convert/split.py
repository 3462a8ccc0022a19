"""Stratified splits of a data set: each part has the same fraction of every class.

Iterative stratification for images with several classes, after Sechidis, Tsoumakas and Vlahavas,
"On the Stratification of Multi-Label Data" (ECML PKDD 2011): the rarest class first, each image
to the part that lacks it most.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ...detection.errors import ConfigError, DataError
from ...detection.files import atomic_write, read_limited, sha256_of

#: The class of images without objects, so that they are distributed like any other.
EMPTY = ""
#: The record of the files that were written, beside them.
RECORD = ".resdet-split"


@dataclass(frozen=True)
class Member:
    """One image: ``classes`` are the names that occur in it; a ``group`` is never divided."""

    name: str
    classes: frozenset[str]
    group: Hashable


@dataclass(frozen=True)
class _ImageGroup:
    """``counts``: how many of its images show each class."""

    names: tuple[str, ...]
    counts: Counter[str]


def stratified_split(
    members: Sequence[Member], fractions: Mapping[str, float], *, seed: int = 0
) -> dict[str, list[str]]:
    """The sorted names of the images of each part.

    Each class is distributed by ``fractions``, exactly up to rounding if images have one class and
    groups one image; the remainders balance the sizes of the parts. The result depends
    on names, classes, groups and seed, not on the order of the members. Raises `ConfigError` unless
    the fractions are positive and add up to 1.
    """
    _check_fractions(fractions)
    balance = _Balance(fractions, members)
    waiting = _groups(members, seed)
    remaining = Counter(name for member in members for name in member.classes or (EMPTY,))
    parts: dict[str, list[str]] = {name: [] for name in fractions}
    while waiting:
        rarest = min(remaining, key=lambda name: (remaining[name], name))
        for group in (each for each in waiting if rarest in each.counts):
            part = balance.place(group, rarest)
            parts[part] += group.names
            remaining -= group.counts
        waiting = [group for group in waiting if rarest not in group.counts]
    return {part: sorted(names) for part, names in parts.items()}


def _check_fractions(fractions: Mapping[str, float]) -> None:
    wrong = [name for name, part in fractions.items() if not 0 < part <= 1]
    if wrong:
        raise ConfigError(f"part {wrong[0]!r}: {fractions[wrong[0]]} is not in (0, 1]")
    if not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        raise ConfigError(f"the fractions add up to {sum(fractions.values()):g}, expected 1")


def _groups(members: Iterable[Member], seed: int) -> list[_ImageGroup]:
    """The largest first, groups of one size in an order that depends on seed and names only."""
    together: dict[Hashable, list[Member]] = defaultdict(list)
    for member in members:
        together[member.group].append(member)
    groups = []
    for group in together.values():
        names = tuple(sorted(member.name for member in group))
        counts = Counter(name for member in group for name in member.classes or (EMPTY,))
        groups.append(_ImageGroup(names, counts))
    return sorted(groups, key=lambda group: (-len(group.names), _shuffled(group.names[0], seed)))


def _shuffled(name: str, seed: int) -> str:
    """A random sort key, the same on every platform and in every version of Python."""
    return hashlib.sha256(f"{seed}\n{name}".encode("utf-8", "surrogatepass")).hexdigest()


class _Balance:
    """The number of images that each part still lacks, in total and of each class."""

    def __init__(self, fractions: Mapping[str, float], members: Sequence[Member]) -> None:
        self._fractions = fractions
        totals = Counter(name for member in members for name in member.classes or (EMPTY,))
        self._lacks = {
            part: {name: fraction * count for name, count in totals.items()}
            for part, fraction in fractions.items()
        }
        self._placed: Counter[str] = Counter()
        self._begun: set[str] = set()

    def place(self, group: _ImageGroup, rarest: str) -> str:
        """Choose the part for a group and update the counts."""
        part = self._choose(rarest)
        self._placed[part] += len(group.names)
        self._begun |= group.counts.keys()
        for name, count in group.counts.items():
            self._lacks[part][name] -= count
        return part

    def _choose(self, name: str) -> str:
        """The part that lacks the class most; for what remains, the part that is most behind.

        Once no part lacks a whole image of a class, the largest part would win every time, and
        many small classes would leave the others without images. The first image of a class is
        always for the part with the largest fraction, so that training sees all classes.
        """
        lacks = {part: classes[name] for part, classes in self._lacks.items()}
        if name not in self._begun or max(lacks.values()) >= 1:
            return max(lacks, key=lambda part: (lacks[part], self._behind(part)))
        lacking = [part for part in lacks if lacks[part] > 0] or list(lacks)
        return max(lacking, key=lambda part: (self._behind(part), lacks[part]))

    def _behind(self, part: str) -> float:
        """How many images the part has less than its share of those placed."""
        return self._fractions[part] * self._placed.total() - self._placed[part]


# ---------------------------------------------------------------------------------- groups


def same_bytes(paths: Sequence[Path]) -> list[str]:
    """A key for each file, equal for files of equal content; raises `DataError`.

    Only files that share their size are read.
    """
    try:
        sizes = [path.stat().st_size for path in paths]
        several = {size for size, count in Counter(sizes).items() if count > 1}
        return [
            sha256_of(path) if size in several else f"file {number}"
            for number, (path, size) in enumerate(zip(paths, sizes, strict=True))
        ]
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error


def joined(keys: Sequence[str], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """``keys`` after merging those that are connected by a chain of ``pairs``."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while key in parent:
            key = parent[key]
        return key

    for left, right in pairs:
        left, right = root(left), root(right)
        if left != right:
            parent[left] = right
    return [root(key) for key in keys]


def write_parts(
    texts: Mapping[Path, str], source: Path, *, force: bool
) -> tuple[list[Path], list[Path]]:
    """`write_texts`, and a record of the files of ``source`` beside them; returns the files written
    and removed.

    ``force`` removes the files of earlier splits that share images with the new ones: a model would
    be tested on images that it was trained on. Files that no split wrote stay.
    """
    record = next(iter(texts)).parent / RECORD
    earlier, key = _read_record(record), str(source.resolve())
    old = [record.with_name(name) for name in earlier.get(key, ())]
    old = [path for path in old if path not in texts and path.is_file()]
    removed = [path for path in old if force and _overlaps(path, texts.values())]
    names = sorted({path.name for path in (*texts, *old)} - {path.name for path in removed})
    written = write_texts(texts, force=force)
    for path in removed:
        path.unlink()
    content = json.dumps({**earlier, key: names}, ensure_ascii=False, indent=1)
    write_texts({record: f"{content}\n"}, force=True)
    return written, removed


def _overlaps(path: Path, texts: Iterable[str]) -> bool:
    """Whether a list shares a line with the ``texts``; parts of a JSON file always share images."""
    lines = {line for text in texts for line in text.splitlines()}
    old = read_limited(path).decode("utf-8", "replace").splitlines()
    return path.suffix == ".json" or not lines.isdisjoint(old)


def _read_record(path: Path) -> dict[str, list[str]]:
    """{source: names of files}; empty where there is no record, or it is damaged."""
    try:
        content = json.loads(read_limited(path))
        return {source: [Path(name).name for name in names] for source, names in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_texts(texts: Mapping[Path, str], *, force: bool) -> list[Path]:
    """Write text files, all or none; raises `DataError` for existing files (unless ``force``) and
    for errors of the file system.

    No file is replaced before all are written; a killed process leaves ``.part`` files.
    """
    there = [str(path) for path in texts if path.exists()]
    if there and not force:
        raise DataError(f"{', '.join(there)}: there already; --force replaces")
    try:
        with ExitStack() as replacing:
            for path, text in texts.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                part = replacing.enter_context(atomic_write(path))
                part.write_text(text, encoding="utf-8", newline="\n")
    except (OSError, UnicodeEncodeError) as error:
        raise DataError(f"{next(iter(texts)).parent}: cannot be written ({error})") from error
    return list(texts)
