"""Fixtures of the whole suite: reference data that lives outside the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("RESDET_SHARED", ROOT.parent / "shared"))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"reference data not found: {path} (set RESDET_SHARED)")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures with annotations: bccd, cards, messy_images."""
    return _folder(SHARED / "data")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers computed by detectron2 for a narrow R50-C4."""
    return _folder(SHARED / "golden")
