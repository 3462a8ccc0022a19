"""`resdet infer` draws class names in any script, and says once where no font has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

#: Letters of a private area, which no font of a system has.
NAME = "\ue6d1"


@pytest.fixture
def renamed(tiny_run: Path, tmp_path: Path) -> Path:
    """The tiny detector, whose classes have names that no font has."""
    state = torch.load(tiny_run / "weights" / "last.pt", weights_only=True)
    state["classes"] = [NAME * (label + 1) for label in range(len(state["classes"]))]
    torch.save(state, tmp_path / "renamed.pt")
    return tmp_path / "renamed.pt"


def test_one_warning_for_all_images_and_a_font_that_is_no_font(
    renamed: Path, scenes: Path, tmp_path: Path, resdet: Any
) -> None:
    images = sorted((scenes / "JPEGImages").iterdir())[:3]
    words = ["infer", "--weights", renamed, *images, "--conf", "0"]
    found = resdet(*words, "--out", tmp_path / "out")
    assert found.code == 0
    lines = [line for line in found.err.splitlines() if "font" in line]
    assert len(lines) == 1 and lines[0].startswith("warning: no font here has all characters")
    assert f"{NAME} as class 0" in lines[0] and "Glyph" not in found.err
    assert len(list((tmp_path / "out" / "drawn").iterdir())) == 3
    wrong = resdet(*words, "--out", tmp_path / "out2", "--font", renamed)
    assert wrong.code == 2 and f"--font {renamed}: not a font" in wrong.err
