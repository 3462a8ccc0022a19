"""Options that several commands share."""

from __future__ import annotations

import pytest
from resdet.tools.arguments import names

CLASSES = ("tench, Tinca tinca", "goldfish, Carassius auratus", "crane", "a", "b", "a, b", ",")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        (" crane ,", ("crane",)),
        ("tench, Tinca tinca", ("tench, Tinca tinca",)),
        ("crane,goldfish,Carassius auratus,crane", ("crane", CLASSES[1], "crane")),
        (f"{CLASSES[1]}, {CLASSES[0]}", (CLASSES[1], CLASSES[0])),
        ("b, a", ("b", "a")),
        ("b, a, b", ("b", "a, b")),  # the longest name
        ("tench, crane", ("tench", "crane")),  # of which the first is unknown
        (",", (",",)),
    ],
)
def test_names_of_classes(text: str, expected: tuple[str, ...]) -> None:
    assert names(text, CLASSES) == expected
