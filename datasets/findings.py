"""What can be wrong with a data set, and how is one case of it told?

Readers, loaders and the data doctor speak of faults with these types, so that training refuses what
the doctor reports, in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .raw import RawBox

#: ``error``: training refuses. ``warning``: training goes on, results may suffer. ``note``: to know.
Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One fault of one object or file; as text it is one line: file, object, reason.

    ``file`` is where to mend it (annotation file or picture), ``picture`` what to look at.
    """

    kind: str
    severity: Severity
    file: Path
    reason: str
    object: str = ""
    picture: Path | None = None
    #: As annotated, in displayed pixels of ``picture``.
    box: RawBox | None = None

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.file), self.object, self.reason) if part)
