"""Images of several sources keep ids of their own."""

from __future__ import annotations

from pathlib import Path

from resdet.datasets.records import RawImage, with_own_ids


def _images(folder: str, *ids: str) -> list[RawImage]:
    return [RawImage(name, Path(folder, name), (1, 1), (), Path("a.json")) for name in ids]


def test_ids_of_other_files_are_numbered_by_source() -> None:
    images = _images("a", "1", "2:2")
    images += with_own_ids(_images("b", "1", "2", "3"), images)
    assert [image.image_id for image in images] == ["1", "2:2", "3:1", "2", "3"]
    images += with_own_ids(_images("c", "1"), images)
    assert images[-1].image_id == "2:1"
    assert images[-1].path == Path("c", "1")


def test_an_image_that_two_sources_have_keeps_its_id() -> None:
    images = _images("a", "1")
    assert with_own_ids(_images("a", "1"), images) == images
