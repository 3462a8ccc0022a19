"""Data sets that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied(tiny_config: Path, tmp_path: Path) -> Path:
    """A copy of the folder with ``tiny.yaml`` and the data set beside it."""
    folder = tmp_path / "given"
    folder.mkdir()
    shutil.copy(tiny_config, folder)
    shutil.copytree(tiny_config.parent / "scenes", folder / "scenes")
    return folder
