"""Numbers, flags and ids in annotation files: one rule for all fields."""

from __future__ import annotations

import math
import re
from pathlib import Path

from ..findings import Finding

#: Text that is a whole number, with a fraction of zeros or without.
_WHOLE = re.compile(r"(-?\d+)(\.0+)?")
#: Decimals after a comma; one to three digits and three more may be thousands.
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_WORDS = {"true": 1.0, "false": 0.0}


def key_of(value: object) -> str | None:
    """An id as text, so that 7, 7.0, "7" and "7.0" are the same; None for null, "" and others."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    whole = _WHOLE.fullmatch(str(value))
    return (whole[1] if whole else str(value)) or None


class Values:
    """Reads the values of a file, and counts those of another type than their field's.

    Numbers may be text; in files of ``texts`` alone all are, and are not counted. A comma before
    the decimals is one, unless it may separate thousands. Null and "" mean that a number is not
    stated, and that a flag is not set. Every method raises ValueError, naming the field, for a
    value whose meaning is not certain.
    """

    def __init__(self, *, texts: bool = False) -> None:
        self.texts = texts
        #: {field: (first value, how many)}.
        self.unusual: dict[str, tuple[object, int]] = {}
        #: How many images have the size 0x0.
        self.unsized = 0

    def number(self, field: str, value: object) -> float | None:
        """A number, which may be NaN or infinite; None where it is not stated."""
        if value is None:
            return None
        if isinstance(value, str):
            number = _of_text(field, value)
            if not self.texts or "," in value:
                self._count(field, value)
            return number
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(field, value, "a number")
        try:
            return float(value)
        except OverflowError:
            raise _wrong(field, value, "a number") from None

    def stated(self, field: str, value: object) -> float:
        """`number`, of a field that must be stated."""
        number = self.number(field, value)
        if number is None:
            raise _wrong(field, value, "a number")
        return number

    def count(self, field: str, value: object) -> int | None:
        """A number of pixels; None where it is not stated, or 0."""
        number = self.number(field, value)
        if number is None or number == 0:
            return None
        if not (0 < number < 2**53 and number % 1 == 0):
            raise _wrong(field, value, "a number of pixels")
        return int(number)

    def size(self, height: object, width: object) -> tuple[float, float] | None:
        """The size (h, w) of an image; None where a side is not stated, or both are 0."""
        try:
            sides = self.count("height", height), self.count("width", width)
        except ValueError:
            sides = 0, 0
        stated = [side not in (None, "") for side in (height, width)]
        if sides == (None, None) and all(stated):
            self.unsized += 1
        elif 0 in sides or (None in sides and all(stated)):
            reason = f"height {height!r:.40} and width {width!r:.40} are not pixel counts"
            raise ValueError(reason)
        return None if sides[0] is None or sides[1] is None else (float(sides[0]), float(sides[1]))

    def flag(self, field: str, value: object) -> bool:
        """0 or 1, as a number, text or Boolean; False where it is not stated."""
        number = _WORDS.get(str(value).strip().lower())
        if number is None:
            try:
                number = self.number(field, value)
            except ValueError:
                number = math.nan
        if number not in (None, 0, 1):
            raise _wrong(field, value, "0 or 1")
        if isinstance(value, float | bool):
            self._count(field, value)
        return number == 1

    def key(self, field: str, value: object) -> str | None:
        """`key_of`; numbers that are text or have a fraction of zeros are counted."""
        found = key_of(value)
        whole = _WHOLE.fullmatch(value) if isinstance(value, str) else None
        is_other = whole is not None and (whole[2] is not None or not self.texts)
        if found is not None and (is_other or isinstance(value, float)):
            self._count(field, value)
        return found

    def text(self, field: str, value: object) -> str | None:
        """Text; whole numbers are counted and become text, anything else is None."""
        if isinstance(value, str):
            return value
        found = key_of(value)
        if found is not None:
            self._count(field, value)
        return found

    def add(self, other: Values) -> None:
        """Count what ``other`` has counted, as in one file."""
        for field, (value, count) in other.unusual.items():
            self._count(field, value, count)
        self.unsized += other.unsized

    def notes(self, path: Path) -> list[Finding]:
        """One note if values were counted, and one if sizes were 0x0."""
        notes = []
        if self.unsized:
            reason = f"{self.unsized} images are stated to be 0x0: the sizes of the files are used"
            notes.append(Finding("unstated_size", "note", path, reason))
        if not self.unusual:
            return notes
        fields = ", ".join(
            f"`{field}` {count} (such as {first!r:.40})"
            for field, (first, count) in self.unusual.items()
        )
        reason = f"values of another type than usual, their meaning is certain: {fields}"
        return [*notes, Finding("unusual_value", "note", path, reason)]

    def _count(self, field: str, value: object, more: int = 1) -> None:
        first, count = self.unusual.get(field, (value, 0))
        self.unusual[field] = first, count + more


def _of_text(field: str, value: str) -> float | None:
    text = value.strip()
    if not text:
        return None
    if _THOUSANDS.fullmatch(text):
        raise _wrong(
            field, value, "a number: are these thousands, or decimals, which take a point?"
        )
    if _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        if "_" not in text:  # Python takes 1_000
            return float(text)
    except ValueError:
        pass
    raise _wrong(field, value, "a number")


def _wrong(field: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{field} is {value!r:.40}, expected {expected}")
