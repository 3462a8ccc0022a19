"""Images sorted by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from resdet.detection.inference.inputs import InputFile
from resdet.detection.inference.outputs import sort_image


def record(*labels: str) -> dict[str, Any]:
    ranked = [{"label": label, "score": 0.5} for label in labels]
    return {"file": "a/b.jpg", "warnings": [], "classes": ranked}


def test_a_link_leads_to_the_image_itself(tmp_path: Path) -> None:
    (tmp_path / "real.jpg").write_bytes(b"pixels")
    (tmp_path / "link.jpg").symlink_to("real.jpg")
    line = record("cat", "dog")
    for _ in range(2):  # a resumed run repeats images
        sort_image(tmp_path / "out", line, InputFile(tmp_path / "link.jpg", "a/b.jpg"))
    assert line["sorted"] == "sorted/cat/a/b.jpg"
    path = tmp_path / "out" / "sorted" / "cat" / "a" / "b.jpg"
    assert not path.is_symlink() and path.samefile(tmp_path / "real.jpg")
    assert [each.name for each in path.parent.iterdir()] == ["b.jpg"]


def test_an_image_without_a_label_is_left_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"pixels")
    line = record()
    sort_image(tmp_path / "out", line, InputFile(tmp_path / "b.jpg", "a/b.jpg"))
    assert "sorted" not in line and not (tmp_path / "out").exists()


def test_an_image_that_was_removed_meanwhile_is_told(tmp_path: Path) -> None:
    line = record("cat")
    sort_image(tmp_path / "out", line, InputFile(tmp_path / "gone.jpg", "a/b.jpg"))
    assert line["warnings"] == ["not sorted: the image was removed after it was read"]
    assert "sorted" not in line


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"pixels")
    (tmp_path / "sorted").write_text("a file")
    with pytest.raises(OSError, match="sorted"):
        sort_image(tmp_path, record("cat"), InputFile(tmp_path / "b.jpg", "a/b.jpg"))
