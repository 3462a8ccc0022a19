"""Exported detectors, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from resdet.detection.extras import EXTRAS
from resdet.detection.tasks.exporting import export


@pytest.fixture(scope="session")
def exported(learned_run: Path) -> Path:
    """The export of `learned_run`, in its folder; torch's exporter takes about ten seconds."""
    for name in EXTRAS["export"]:
        pytest.importorskip(name, reason="needs the extra: pip install 'resdet[export]'")
    return export([learned_run / "weights" / "best.pt"], learned_run / "exported").out


@pytest.fixture(scope="session")
def parts(learned_run: Path) -> Path:
    """`learned_run` cut at its crops; torch's exporter takes seconds for each graph."""
    for name in EXTRAS["export"]:
        pytest.importorskip(name, reason="needs the extra: pip install 'resdet[export]'")
    weights = learned_run / "weights" / "best.pt"
    return export([weights], learned_run / "parts", graphs="two").out
