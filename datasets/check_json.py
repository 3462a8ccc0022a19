"""How is a report of the data doctor written for programs?"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from ..detection.errors import ConfigError
from .check import Report


def write_report(report: Report, path: Path) -> None:
    """As JSON; boxes may hold ``"nan"`` and ``"inf"``. Raises ConfigError where it cannot."""
    try:
        path.write_text(json.dumps(report_as_dict(report), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def report_as_dict(report: Report) -> dict[str, object]:
    """Numbers, texts and lists only; ``counts`` has the findings of each severity and kind."""
    counts: dict[str, Counter[str]] = {"error": Counter(), "warning": Counter(), "note": Counter()}
    for finding in report.findings:
        counts[finding.severity][finding.kind] += 1
    return {key: _plain(each) for key, each in {"counts": counts, **asdict(report)}.items()}


def _plain(value: object) -> object:
    """JSON has neither paths nor non-finite numbers."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
