"""Class lists, and names that are not in them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from ..detection.errors import DataError
from .findings import Finding
from .records import RawImage, RawObject

#: A name is taken for a misspelt one if it has at most RARE objects and at least SHORTEST letters,
#: and one that differs by a slip has at least TIMES as many objects. More than a few objects are
#: hardly a slip, however frequent the other is: parrot and carrot.
RARE, TIMES, SHORTEST = 3, 10, 5


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
    punctuation only, or is rare and a slip away from a frequent one."""
    counts = Counter(obj.name for image in images for obj in image.objects)
    frequent: dict[str, str] = {}  # by plain name
    near: dict[str, str] = {}  # the same, and by plain name without one of its letters
    doubtful: dict[str, str] = {}
    for name, count in counts.most_common():
        plain = _plain(name)
        other = frequent.setdefault(plain, name)
        if other == name and count >= TIMES:
            for each in _slips(plain):
                near.setdefault(each, name)
        elif other == name and count <= RARE and _may_be_misspelt(plain):
            right = {near[each] for each in _slips(plain) if each in near}
            usual = [each for each in right if counts[each] >= TIMES * count]
            other = max(usual, key=lambda each: (counts[each], each), default=name)
        if other != name:
            doubtful[name] = f"{name!r} x{count} is nearly {other!r} x{counts[other]}"
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


def _may_be_misspelt(plain: str) -> bool:
    """False for short and numbered names, which are often similar on purpose."""
    return len(plain) >= SHORTEST and not any(letter.isdigit() for letter in plain)


def _slips(plain: str) -> set[str]:
    """``plain``, and without each of its letters: two names have one in common if a letter is
    missing in one, is another one or stands elsewhere."""
    return {plain, *(plain[:place] + plain[place + 1 :] for place in range(len(plain)))}


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
