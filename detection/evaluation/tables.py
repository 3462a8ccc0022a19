"""Numbers in printed tables and JSON: undefined ones are "-" and null."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table


def plain_table(padding: tuple[int, int, int, int] = (0, 0, 0, 0)) -> Table:
    """A table without a frame."""
    return Table(box=box.SIMPLE_HEAD, padding=padding, show_edge=False)


def shown(value: Any, digits: int = 4) -> str:
    """A cell of a printed table: fractions with ``digits`` digits, all else unchanged."""
    if is_undefined(value):
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def is_undefined(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with None for nan."""
    return {name: None if is_undefined(value) else value for name, value in values.items()}
