"""How are an evaluation's numbers written and shown, where some of them are undefined (nan)?"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Indented UTF-8; raises ValueError for a nan, which `without_nan` takes out."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def write_rows(names: Sequence[str], rows: Sequence[Any], path: Path) -> None:
    """A CSV table: a line for each of ``rows``, a column for each of their fields ``names``."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            writer.writerow([cell(getattr(row, name)) for name in names])


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no nan: undefined numbers become null."""
    return {name: None if undefined(value) else value for name, value in values.items()}


def cell(value: Any) -> Any:
    """A CSV cell: empty when undefined, and never something a spreadsheet takes for a formula."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return "" if undefined(value) else value


def undefined(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def shown(value: float) -> str:
    """A fraction in a table on the screen."""
    return "-" if math.isnan(value) else f"{value:.4f}"
