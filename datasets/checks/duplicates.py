"""Exact and near copies among the images of a data set.

Exact copies have the same file hash. Near copies (recompressed, scaled, brightened) are searched
among images whose 64-bit difference hashes (dhash) differ by few bits, and confirmed by the
correlation of their thumbnails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..findings import Finding
from ..records import RawImage
from .images import ImageFacts

#: Maximum number of different hash bits of near copies. Of 30 pairs among 2154 images (blood cells,
#: playing cards, Caltech-101) one differed by 7, the others by at most 5.
MAX_BITS = 7
#: Hashes that differ in at most MAX_BITS bits are equal in at least one of this many bands.
_BANDS = MAX_BITS + 1
#: Minimum correlation of the thumbnails of near copies. Every pair of those images above it shows
#: the same scene or drawing; compressing, scaling and brightening stay above 0.99.
MIN_CORRELATION = 0.96
#: Minimum std of a thumbnail in grey levels; flatter images are not compared.
_FLAT = 4.0
#: Candidates that are compared with each image, those with the nearest hashes.
_CANDIDATES = 8
#: Pairs of hashes that are compared at once: 64 MB.
_BLOCK = 2**23

_EXACT = ("same_image", "same_image_in_splits")

_Hashes = NDArray[np.uint64]
_Places = NDArray[np.intp]


def by_split(
    images: Mapping[str, Sequence[RawImage]], facts: Mapping[Path, ImageFacts]
) -> dict[str, list[ImageFacts]]:
    """Facts by split, each file only in the first one: double listings have their own finding."""
    taken: set[Path] = set()
    groups: dict[str, list[ImageFacts]] = {}
    for name, part in images.items():
        paths = dict.fromkeys(image.path for image in part if image.path not in taken)
        taken |= paths.keys()
        groups[name] = [facts[path] for path in paths if path in facts]
    return groups


def find_duplicates(splits: Mapping[str, Sequence[ImageFacts]]) -> list[Finding]:
    """One finding for each copy of an earlier image, in the same or in an earlier split.

    Kinds: ``same_image`` and ``similar_image`` within a split, ``same_image_in_splits`` and
    ``similar_image_in_splits`` across splits. All are warnings: a copy across splits makes results
    too good and should be removed, but published data sets have some. Images without contrast are
    only compared byte by byte.
    """
    groups = {name: _distinct_files(facts) for name, facts in splits.items()}
    findings: list[Finding] = []
    for name, facts in groups.items():
        first = _first_of_each(facts)
        findings += _same(facts, first, name, name)
        distinct = list(first.values())
        findings += _similar(distinct, distinct, name, name)
    for (early, references), (late, queries) in combinations(groups.items(), 2):
        first = _first_of_each(references)
        findings += _same(queries, first, late, early)
        new = [each for each in _first_of_each(queries).values() if each.sha256 not in first]
        findings += _similar(new, list(first.values()), late, early)
    return findings


def find_conflicts(contents: Mapping[Path, str], classes: Mapping[Path, str]) -> list[Finding]:
    """One finding for each copy of an image of another class, in whatever split. ``contents`` has a
    key for each file, equal for equal bytes; ``classes`` are those of the files."""
    first: dict[str, Path] = {}
    findings = []
    for path, content in contents.items():
        original = first.setdefault(content, path)
        if classes[path] != classes[original]:
            reason = (
                f"is {classes[path]!r} and has the same bytes as {original}, which is "
                f"{classes[original]!r}"
            )
            findings.append(
                Finding("label_conflict", "warning", path, reason, image=path, original=original)
            )
    return findings


def without(copies: Sequence[Finding], conflicts: Sequence[Finding]) -> list[Finding]:
    """The findings about exact copies, but for images that are in ``conflicts`` already."""
    told = {finding.file for finding in conflicts}
    return [each for each in copies if not (each.kind in _EXACT and each.file in told)]


def similar_pairs(facts: Sequence[ImageFacts]) -> list[tuple[Path, Path]]:
    """(near copy, most similar earlier image) pairs."""
    prints = _Fingerprints.of(_distinct_files(facts))
    columns, _ = _nearest(prints, prints, earlier_only=True)
    return [
        (prints.facts[row].path, prints.facts[columns[row]].path)
        for row in np.flatnonzero(columns >= 0)
    ]


def _distinct_files(facts: Sequence[ImageFacts]) -> list[ImageFacts]:
    """Readable files, each path once: images that are listed twice have their own finding."""
    return list({each.path: each for each in facts if each.sha256}.values())


def _first_of_each(facts: Sequence[ImageFacts]) -> dict[str, ImageFacts]:
    first: dict[str, ImageFacts] = {}
    for each in facts:
        first.setdefault(each.sha256, each)
    return first


def _same(
    queries: Sequence[ImageFacts], first: Mapping[str, ImageFacts], late: str, early: str
) -> Iterator[Finding]:
    for query in queries:
        original = first.get(query.sha256)
        if original is None or (late == early and original is query):
            continue
        what = "the same file as" if original.path == query.path else "the same bytes as"
        yield _finding("same_image", query, original.path, what, late, early)


def _finding(
    kind: str, query: ImageFacts, original: Path, what: str, late: str, early: str
) -> Finding:
    if late == early:
        reason = f"{what} {original}"
    else:
        kind = f"{kind}_in_splits"
        reason = f"{what} {original}, which is in {early!r}, while this is in {late!r}"
    path = query.path
    return Finding(kind, "warning", path, reason, image=path, original=original)


def _similar(
    queries: Sequence[ImageFacts], references: Sequence[ImageFacts], late: str, early: str
) -> Iterator[Finding]:
    """Findings of near copies; if both arguments are the same list, only earlier ones count."""
    within = queries is references
    prints = _Fingerprints.of(queries)
    others = prints if within else _Fingerprints.of(references)
    columns, correlations = _nearest(prints, others, earlier_only=within)
    for row in np.flatnonzero(columns >= 0):
        what = f"nearly the same ({correlations[row]:.1%} correlation) as"
        original = others.facts[columns[row]].path
        yield _finding("similar_image", prints.facts[row], original, what, late, early)


@dataclass(frozen=True)
class _Fingerprints:
    """Images with contrast: ``hashes`` (N,) and ``thumbnails`` (N, 324) of mean 0 and norm 1.

    Their dot products are correlations, which do not depend on brightness and contrast.
    """

    facts: list[ImageFacts]
    hashes: _Hashes
    thumbnails: NDArray[np.float32]

    @staticmethod
    def of(facts: Sequence[ImageFacts]) -> _Fingerprints:
        usable = [each for each in facts if each.thumbnail]
        values = np.frombuffer(b"".join(each.thumbnail for each in usable), np.uint8)
        grey = values.reshape(len(usable), -1 if usable else 1).astype(np.float32)
        grey -= grey.mean(axis=1, keepdims=True)
        contrast = np.sqrt(np.mean(grey**2, axis=1)) >= _FLAT
        kept = [each for each, has in zip(usable, contrast, strict=True) if has]
        grey = grey[contrast]
        grey /= np.linalg.norm(grey, axis=1, keepdims=True)
        return _Fingerprints(kept, np.array([each.dhash for each in kept], np.uint64), grey)


def _nearest(
    queries: _Fingerprints, references: _Fingerprints, *, earlier_only: bool
) -> tuple[_Places, NDArray[np.float32]]:
    """Most similar reference (N,) of each query, -1 if there is none, and the correlations (N,).

    Only the first band with a match is searched.
    """
    best = np.full(len(queries.facts), -1, np.intp)
    correlation_of = np.full(len(best), MIN_CORRELATION, np.float32)
    for band in range(_BANDS):
        open_rows = np.flatnonzero(best < 0)
        for rows, columns in _candidates(
            queries.hashes, open_rows, references.hashes, band, earlier_only
        ):
            left, right = queries.thumbnails[rows], references.thumbnails[columns]
            correlations = np.einsum("np,np->n", left, right)
            for index in np.argsort(correlations):  # ascending: the best of a row is written last
                if correlations[index] >= correlation_of[rows[index]]:
                    correlation_of[rows[index]], best[rows[index]] = (
                        correlations[index],
                        columns[index],
                    )
    return best, correlation_of


def _candidates(
    queries: _Hashes, rows: _Places, references: _Hashes, band: int, earlier_only: bool
) -> Iterator[tuple[_Places, _Places]]:
    """(rows, columns) of pairs that are equal in a band and differ in at most MAX_BITS bits.

    Two random hashes are equal in a band with a probability of 1/256. Only the nearest few per
    query are returned, which bounds the time for a data set of many copies.
    """
    low, high = 64 * band // _BANDS, 64 * (band + 1) // _BANDS
    mask = np.uint64((1 << (high - low)) - 1)
    by_value = _positions(references >> np.uint64(low) & mask)
    for value, places in _positions(queries[rows] >> np.uint64(low) & mask).items():
        columns = by_value.get(value)
        if columns is not None:
            yield from _close_pairs(queries, rows[places], references, columns, earlier_only)


def _positions(values: _Hashes) -> dict[int, _Places]:
    """{value: ascending positions}"""
    order = np.argsort(values, kind="stable")
    distinct, starts = np.unique(values[order], return_index=True)
    return (
        dict(zip(distinct.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}
    )


def _close_pairs(
    queries: _Hashes,
    rows: _Places,
    references: _Hashes,
    columns: _Places,
    earlier_only: bool,
) -> Iterator[tuple[_Places, _Places]]:
    step = max(1, _BLOCK // len(columns))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        bits = np.bitwise_count(queries[part, None] ^ references[None, columns])
        if earlier_only:
            bits[columns[None, :] >= part[:, None]] = 64
        kept = np.argpartition(bits, min(_CANDIDATES, len(columns)) - 1, axis=1)[:, :_CANDIDATES]
        row, place = np.nonzero(np.take_along_axis(bits, kept, axis=1) <= MAX_BITS)
        if len(row):
            yield part[row], columns[kept[row, place]]
