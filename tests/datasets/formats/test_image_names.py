"""Names that annotation tools write are resolved where one file fits, and never guessed."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resdet.datasets.findings import Fault
from resdet.datasets.formats import image_names
from resdet.datasets.formats.image_names import ImageFiles

SOURCE = Path("labels.json")


def _files(root: Path, *names: str) -> ImageFiles:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return ImageFiles(root)


def _kind(files: ImageFiles, name: str) -> str:
    with pytest.raises(Fault) as caught:
        files.find(name, SOURCE)
    return caught.value.finding.kind


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("images\\a.png", "images/a.png"),
        ("..\\..\\media\\upload\\4\\a.png", "images/a.png"),
        ("C:\\data\\images\\a.png", "images/a.png"),
        ("/home/other/project/images/a.png", "images/a.png"),
        ("file:///home/other/a.png", "images/a.png"),
        ("/data/local-files/?d=project/images/a.png", "images/a.png"),
        ("https://host/bucket/a.png?token=1", "images/a.png"),
        ("a%20b%20%28c%29.jpg", "images/a b (c).jpg"),
        ("a.jpg", "images/a.png"),
        ("A.PNG", "images/a.png"),
        ("a", "images/a.png"),
        ("cb0618f0-a.png", "images/a.png"),
        ("shot.jpg", "images/0a1b2c3d-shot.jpg"),
        ("street.jpg", "images/street_jpg.rf.0123abcd.jpg"),
        ("street_jpg.rf.fedc.jpg", "images/street_jpg.rf.0123abcd.jpg"),
        (
            unicodedata.normalize("NFD", "müde.jpg"),
            "images/" + unicodedata.normalize("NFC", "müde.jpg"),
        ),
    ],
)
def test_a_name_that_fits_one_file(tmp_path: Path, name: str, file: str) -> None:
    files = _files(
        tmp_path,
        *("images/a.png", "images/a b (c).jpg", "images/0a1b2c3d-shot.jpg"),
        *(
            "images/street_jpg.rf.0123abcd.jpg",
            "images/" + unicodedata.normalize("NFC", "müde.jpg"),
        ),
    )
    assert files.find(name, SOURCE) == tmp_path / file
    (note,) = files.notes(SOURCE)
    assert (note.kind, note.severity) == ("resolved_name", "note")
    assert note.reason.startswith("1 names of images were resolved")


def test_a_path_needs_no_resolution(tmp_path: Path) -> None:
    files = _files(tmp_path, "a.png", "sub/a.png", "x%20y.png", "x y.png")
    assert files.find("sub/a.png", SOURCE) == tmp_path / "sub/a.png"
    assert files.find("x%20y.png", SOURCE) == tmp_path / "x%20y.png"
    assert files.notes(SOURCE) == []


def test_the_most_folders_decide(tmp_path: Path) -> None:
    files = _files(tmp_path, "one/day/a.png", "two/day/a.png", "b.png")
    assert files.find("D:\\two\\day\\a.png", SOURCE) == tmp_path / "two/day/a.png"
    assert _kind(files, "day\\a.png") == _kind(files, "a.png") == "ambiguous_image"
    assert _kind(files, "c.png") == "missing_image"


def test_an_image_of_another_folder_is_never_used(tmp_path: Path) -> None:
    """train/2.png is missing; val/2.png is another image."""
    files = _files(tmp_path, "train/1.png", "val/2.png")
    assert _kind(files, "train/2.png") == "missing_image"
    assert files.find("upload/2.png", SOURCE) == tmp_path / "val/2.png"


def test_files_outside_are_used_only_if_allowed(tmp_path: Path) -> None:
    files = _files(tmp_path / "in", "b.png")
    (tmp_path / "a.png").write_bytes(b"")
    allowed = ImageFiles(tmp_path / "in", allow_outside=True)
    for name in ("../a.png", str(tmp_path / "a.png"), f"file://{tmp_path}/a.png"):
        with pytest.raises(Fault, match="is outside of"):
            files.find(name, SOURCE)
        assert _kind(files, name) == "image_outside"
        assert allowed.find(name, SOURCE) == tmp_path / "a.png"
    assert allowed.find("../in/b.png", SOURCE) == tmp_path / "in/b.png"
    kinds = [each.kind for each in allowed.notes(SOURCE)]
    assert kinds == ["ambiguous_image", "resolved_name", "image_outside"]


def test_the_nearest_name_is_shown(tmp_path: Path) -> None:
    files = _files(tmp_path, "street_001.png", "street_002.png")
    with pytest.raises(Fault, match=r"the nearest is 'street_00[12].png'"):
        files.find("street-001.png", SOURCE)
    with pytest.raises(Fault, match="which has no images"):
        ImageFiles(tmp_path / "gone").find("a.png", SOURCE)


def test_many_missing_files_take_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, searches = _files(tmp_path, "street_001.png"), []
    find = image_names.difflib.get_close_matches
    monkeypatch.setattr(
        image_names.difflib,
        "get_close_matches",
        lambda *args, **kwargs: searches.append(args) or find(*args, **kwargs),
    )
    for n in range(200):
        with pytest.raises(Fault, match="no such file below"):
            files.find(f"street-{n}.png", SOURCE)
    assert 0 < len(searches) <= 10


def test_two_names_for_one_file_are_an_error(tmp_path: Path) -> None:
    files = _files(tmp_path, "a.png")
    files.find("A.png", SOURCE)
    files.find("a.jpg", SOURCE)
    assert [each.kind for each in files.notes(SOURCE)] == ["ambiguous_image", "resolved_name"]


@given(name=st.text(max_size=12))
def test_any_name_gives_a_file_below_the_root_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "any"
    files = _files(root, "a.png", "b/c.png")
    try:
        found = files.find(name, SOURCE)
    except Fault as fault:
        assert fault.finding.kind in {"missing_image", "ambiguous_image", "image_outside"}
    else:
        assert found in {root / "a.png", root / "b/c.png"}
