"""Findings of the data checks: faults, and what follows from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..detection.errors import DataError, first_few
from .finding_kinds import EFFECTS, Severity, settings_of
from .records import RawBox

#: How a bad box or image was resolved; "" if it was not.
Outcome = Literal["", "dropped", "clipped", "fixed", "scaled", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One fault of an object or file; ``str`` gives one line: file, object, reason.

    ``kind`` is a key of `KINDS`. ``file`` is the file to fix (annotation or image), ``image`` the
    image to show.
    """

    kind: str
    severity: Severity
    file: Path
    reason: str
    object: str = ""
    image: Path | None = None
    #: As annotated, in pixels of ``image`` as displayed.
    box: RawBox | None = None
    outcome: Outcome = ""
    #: The image that ``image`` is a copy of.
    original: Path | None = None

    def __str__(self) -> str:
        parts = (str(self.file), self.object, self.reason, self.outcome)
        return _one_line(": ".join(part for part in parts if part))


def _one_line(text: str) -> str:
    """Escape unprintable characters: names and ids come from files."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class Fault(DataError):
    """An error that stops reading one object or file; readers of many files continue."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)
        self.finding = finding

    @classmethod
    def of(
        cls, kind: str, file: Path, reason: str, *, object: str = "", image: Path | None = None
    ) -> Fault:
        return cls(Finding(kind, "error", file, reason, object, image))


class RefusedData(DataError):
    """Errors among ``findings``."""

    def __init__(self, message: str, findings: Iterable[Finding]) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


def count_kinds(findings: Iterable[Finding]) -> str:
    """``missing_image 2, no_area 1``, the most frequent kind first."""
    kinds = Counter(finding.kind for finding in findings)
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())


def refuse(
    findings: Iterable[Finding], what: str, advice: Callable[[str], str] = lambda setting: setting
) -> None:
    """Raise `RefusedData` with counts and the first few if there are errors among the findings.

    ``advice`` turns a setting that resolves some of them into what a user writes.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    lines = [str(error) for error in errors]
    settings = settings_of({error.kind for error in errors})
    raise RefusedData(
        f"{what}: {len(errors)} error{'s' * (len(errors) > 1)} ({count_kinds(errors)}): "
        + first_few(lines)
        + "".join(f"; {advice(setting)} {EFFECTS[setting]}" for setting in settings)
        + ("; `resdet check-data` lists all" if len(lines) > 5 else ""),
        errors,
    )
