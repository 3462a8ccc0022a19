"""What can be wrong with a data set, and how is one case of it told?

Readers, loaders and the data doctor speak of faults with these types, so that training refuses what
the doctor reports, in the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..detection.errors import DataError
from .finding_kinds import Severity
from .raw import RawBox, first_few

#: What was done to a bad box; "" where nothing was.
Outcome = Literal["", "dropped", "clipped", "fixed"]

#: Faults of a box that ``on_bad_box`` decides about.
BOX_KINDS = frozenset(
    {"non_finite_box", "no_area", "swapped_corners", "outside_picture", "partly_outside"}
)


@dataclass(frozen=True)
class Finding:
    """One fault of one object or file; as text it is one line: file, object, reason.

    ``kind`` is one of `finding_kinds.KINDS`. ``file`` is where to mend it (annotation file or
    picture), ``picture`` what to look at.
    """

    kind: str
    severity: Severity
    file: Path
    reason: str
    object: str = ""
    picture: Path | None = None
    #: As annotated, in displayed pixels of ``picture``.
    box: RawBox | None = None
    outcome: Outcome = ""

    def __str__(self) -> str:
        parts = (str(self.file), self.object, self.reason, self.outcome)
        return _one_line(": ".join(part for part in parts if part))


def _one_line(text: str) -> str:
    """Names and ids come from files: what would break the line, or the terminal, is spelt out."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class Fault(DataError):
    """An error that ends the reading of one object or file; whoever reads many goes on."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)
        self.finding = finding

    @classmethod
    def of(
        cls, kind: str, file: Path, reason: str, *, object: str = "", picture: Path | None = None
    ) -> Fault:
        return cls(Finding(kind, "error", file, reason, object, picture))


def count_kinds(findings: Iterable[Finding]) -> str:
    """``missing_picture 2, no_area 1``: the most frequent kind first."""
    kinds = Counter(finding.kind for finding in findings)
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())


def refuse(findings: Iterable[Finding], what: str) -> None:
    """Raise `DataError` if there are errors among the findings: their counts, and the first few."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    lines = [str(error) for error in errors]
    boxes = any(error.kind in BOX_KINDS for error in errors)
    raise DataError(
        f"{what}: {len(errors)} error{'s' * (len(errors) > 1)} ({count_kinds(errors)}): "
        + first_few(lines)
        + ("; data.on_bad_box=drop would leave such boxes out" if boxes else "")
        + ("; `resdet check-data` lists all" if len(lines) > 5 else "")
    )
