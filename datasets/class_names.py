"""Class lists, and names that are not in them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from ..detection.errors import DataError
from .findings import Finding
from .records import RawImage, RawObject

#: A name is taken for a misspelt one if the other is so many times as frequent, and has as many
#: letters and digits.
RARE, SHORTEST = 50, 5


def class_list(
    images: Sequence[RawImage], classes: Sequence[str] | None, ignore_classes: Sequence[str]
) -> tuple[str, ...]:
    """``classes``, or the names that occur, sorted; raises `DataError` for an invalid list."""
    if classes is None:
        seen = {obj.name for image in images for obj in image.objects}
        names = tuple(sorted(seen - set(ignore_classes)))
    else:
        names = tuple(classes)
    if not names:
        raise DataError("no classes: the annotations have no objects and no class list is given")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"class list: listed twice: {', '.join(twice)}")
    both = sorted(set(names) & set(ignore_classes))
    if both:
        raise DataError(f"both in classes and ignore_classes: {', '.join(both)}")
    return names


def unknown_names(
    images: Sequence[RawImage],
    known: set[str],
    classes: tuple[str, ...],
    declared: Callable[[], Collection[str]],
) -> list[Finding]:
    """One error for each name, at its first object; ``misspelt_class`` if a class is similar.

    ``declared`` returns the names that the files of the data list: two of them are two classes,
    however similar. It is called only if there are unknown names.
    """
    counts: Counter[str] = Counter()
    first: dict[str, tuple[RawImage, RawObject]] = {}
    for image in images:
        for obj in image.objects:
            if obj.name not in known:
                counts[obj.name] += 1
                first.setdefault(obj.name, (image, obj))
    findings = []
    listed = frozenset(declared() if counts else ())
    for name, count in counts.most_common():
        image, obj = first[name]
        others = listed if name in listed else frozenset()
        near = _suggestion(name, [each for each in classes if each not in others])
        kind = "misspelt_class" if near else "unknown_class"
        way_on = near or "; data.ignore_classes leaves a class out"
        reason = f"{name!r} x{count} (first in {image.path.name}) is not in the class list{way_on}"
        found = Finding(kind, "error", image.source, reason, repr(name), image.path, obj.box)
        findings.append(found)
    return findings


def _suggestion(name: str, classes: Sequence[str]) -> str:
    """The nearest class, ignoring letter case, spaces and punctuation."""
    plain = {_plain(known): known for known in classes}
    near = difflib.get_close_matches(_plain(name), plain, n=1)
    return f": did you mean {plain[near[0]]!r}?" if near else ""


def similar_names(images: Sequence[RawImage]) -> list[Finding]:
    """One warning for each name that differs from a more frequent one in letter case, spaces or
    punctuation only, or is rare and nearly spelt as a frequent one."""
    counts = Counter(obj.name for image in images for obj in image.objects)
    frequent: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    for name, count in counts.most_common():
        other = frequent.setdefault(_plain(name), name)
        if other == name:
            least = RARE * count
            usual = {plain: each for plain, each in frequent.items() if counts[each] >= least}
            other = _misspelt(_plain(name), usual) or name
        if other != name:
            doubtful[name] = f"{name!r} x{counts[name]} is nearly {other!r} x{counts[other]}"
    findings = []
    for image in images:
        for obj in image.objects:
            if obj.name in doubtful:
                found = Finding(
                    "similar_classes",
                    "warning",
                    image.source,
                    doubtful.pop(obj.name),
                    repr(obj.name),
                    image.path,
                    obj.box,
                )
                findings.append(found)
    return findings


def _misspelt(plain: str, usual: Mapping[str, str]) -> str:
    """The name in ``usual``, by plain name, that ``plain`` nearly is; "" if there is none, and for
    short and numbered names, which are often similar on purpose."""
    if len(plain) < SHORTEST or any(letter.isdigit() for letter in plain):
        return ""
    near = difflib.get_close_matches(plain, usual, n=1, cutoff=0.8)
    return usual[near[0]] if near else ""


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
