"""The search for images, their names, and the paths of their drawings."""

from __future__ import annotations

import glob
import os
import sys
import warnings
from collections import Counter
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resdet.detection.errors import ConfigError
from resdet.detection.inference.inputs import find_inputs
from resdet.detection.inference.result_names import drawn_name, folder_name, safe_name


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(*inputs: str | Path, **options: Path | bool) -> list[str]:
    return [file.name for file in find_inputs(inputs, **options)]


def test_a_folder_is_searched_through_and_sorted(tmp_path):
    touch(*(tmp_path / name for name in ("b.JPG", "a/z.Png", "a.jpeg", "notes.md", "犬/é 1.webp")))
    assert names(tmp_path) == ["a.jpeg", "a/z.Png", "b.JPG", "犬/é 1.webp"]
    assert all(file.path.is_file() for file in find_inputs([tmp_path]))


def test_earlier_results_inside_the_input_are_left_out(tmp_path):
    touch(tmp_path / "a.jpg", tmp_path / "out" / "drawn" / "a.jpg")
    assert names(tmp_path, exclude=tmp_path / "out") == ["a.jpg"]
    assert names(f"{tmp_path}/**/*.jpg", exclude=tmp_path / "out") == ["a.jpg"]
    assert names(tmp_path, exclude=tmp_path / "other") == ["a.jpg", "out/drawn/a.jpg"]


def test_hidden_and_system_files_of_folders_and_globs_are_left_out(tmp_path):
    hidden = ("._a.jpg", ".thumbnails/a.jpg", "__MACOSX/b.jpg", "@eaDir/c.jpg", "b/.d.png")
    touch(tmp_path / "a.jpg", *(tmp_path / name for name in hidden))
    assert names(tmp_path) == names(f"{tmp_path}/**/*.jpg") == ["a.jpg"]
    assert names(tmp_path, hidden=True) == sorted(["a.jpg", *hidden])
    assert names(f"{tmp_path}/**/*", hidden=True) == sorted(["a.jpg", *hidden])
    # What is named is meant.
    assert names(f"{tmp_path}/__MACOSX/*.jpg") == names(tmp_path / "__MACOSX") == ["b.jpg"]
    assert names(f"{tmp_path}/*/.d.png") == ["b/.d.png"]
    assert names(tmp_path / "._a.jpg") == ["._a.jpg"]
    (tmp_path / "list.txt").write_text("._a.jpg\n")
    assert names(tmp_path / "list.txt") == ["._a.jpg"]
    with pytest.raises(ConfigError, match="1 hidden ones are left out, --include-hidden takes"):
        find_inputs([tmp_path / "b"])


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path / "real" / "a.jpg", tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert names(tmp_path / "real") == ["a.jpg", "more/b.jpg"]


def test_globs_are_relative_to_their_fixed_part(tmp_path, monkeypatch):
    touch(
        *(tmp_path / name for name in ("day1/a.jpg", "day2/a.jpg", "day2/deep/b.jpg", "day2/c.md"))
    )
    assert names(f"{tmp_path}/day*/*.jpg") == ["day1/a.jpg", "day2/a.jpg"]
    assert names(f"{tmp_path}/day2/**/*") == ["a.jpg", "deep/b.jpg"]
    monkeypatch.chdir(tmp_path)
    assert names("day?/*.jpg") == ["day1/a.jpg", "day2/a.jpg"]


def test_a_glob_at_the_root_of_the_disk():
    with warnings.catch_warnings(), pytest.raises(ConfigError, match="no images in it"):
        warnings.simplefilter("error")
        find_inputs(["/*.no_such_image.jpg"])


def test_a_glob_reads_no_folder_more_often_than_python_does(tmp_path, monkeypatch):
    touch(*(tmp_path / name for name in ("a.jpg", "b/a.jpg", "b/c/a.jpg", "d/a.jpg")))
    read, scandir = Counter(), os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: read.update([Path(path)]) or scandir(path))
    pattern = f"{tmp_path}/**/*.jpg"
    expected = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
    usual = read.copy()
    read.clear()
    assert [str(file.path) for file in find_inputs([pattern])] == expected
    assert read == usual and read[tmp_path / "b"] > 0


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    touch(tmp_path / "shot[1].jpg", tmp_path / "shot1.jpg")
    assert names(tmp_path / "shot[1].jpg") == ["shot[1].jpg"]


def test_a_list_is_relative_to_its_folder_then_to_the_working_folder(tmp_path, monkeypatch):
    touch(*(tmp_path / name for name in ("set/a.jpg", "work/b.jpg", "far/c.jpg")))
    listing = tmp_path / "set" / "list.txt"
    listing.write_bytes(f"\ufeffa.jpg\r\n\r\nb.jpg\r\n{tmp_path}/far/c.jpg\nmissing.jpg".encode())
    monkeypatch.chdir(tmp_path / "work")
    files = find_inputs([listing])
    far = (tmp_path / "far" / "c.jpg").as_posix().lstrip("/")
    assert [file.name for file in files] == ["a.jpg", "b.jpg", far, "missing.jpg"]
    assert [file.path.exists() for file in files] == [True, True, True, False]


def test_a_line_that_no_file_name_can_be_is_one_missing_file(tmp_path):
    touch(tmp_path / "a.jpg")
    (tmp_path / "list.txt").write_text("a.jpg\n" + "x" * 300 + ".jpg\n")
    assert names(tmp_path / "list.txt") == ["a.jpg", "x" * 300 + ".jpg"]
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_inputs(["x" * 300 + ".jpg"])


def test_names_stay_unique_where_inputs_collide(tmp_path):
    touch(*(tmp_path / name for name in ("x/day/1.jpg", "y/day/1.jpg", "y/day/2.jpg", "z/1.jpg")))
    assert names(tmp_path / "x/day", tmp_path / "y/day", tmp_path / "z") == [
        "day/1.jpg",
        "day-2/1.jpg",
        "day-2/2.jpg",
        "z/1.jpg",
    ]
    files = [tmp_path / name for name in ("y/day/1.jpg", "z/1.jpg", "y/day/2.jpg")]
    assert names(*files) == ["day/1.jpg", "z/1.jpg", "day/2.jpg"]


def test_a_file_that_is_given_twice_counts_once(tmp_path):
    touch(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert names(tmp_path / "b.jpg", tmp_path) == ["b.jpg", "a.jpg"]


@pytest.mark.parametrize(
    "missing", ["nowhere", "nowhere.jpg", "nowhere/*.jpg", "empty", "only_text", "empty.txt"]
)
def test_an_input_without_images_is_an_error_that_names_it(tmp_path, missing):
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "only_text" / "notes.md", tmp_path / "empty.txt")
    with pytest.raises(ConfigError, match=missing.replace("*", r"\*")):
        find_inputs([tmp_path / missing])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are not Unicode")
def test_names_that_are_not_unicode_are_escaped(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.jpg"
    with open(path, "wb"):  # noqa: PTH123 (bytes)
        pass
    (file,) = find_inputs([tmp_path])
    assert file.name == r"\udcff.jpg"
    assert file.path.exists()


@pytest.mark.parametrize("name", ["a.jpg", "a/b c/é.jpg", "犬/1.2.png", "-x.jpg", "=cmd.jpg"])
def test_safe_names_are_unchanged(name):
    assert safe_name(name) == name


DANGEROUS = [
    "../../x.jpg",
    "/etc/passwd",
    "a/../../b.jpg",
    "C:\\Windows\\x.jpg",
    "con.jpg",
    "sub/NUL",
    "com1.tar.jpg",
    "a/./b.jpg",
    "trailing. /x.jpg",
    "line\nbreak.jpg",
    'what?"<>|*.jpg',
    "~/x:stream.jpg",
    "",
    "x" * 300 + ".jpg",
    "犬" * 100 + ".jpg",
]
ANY_NAME = st.one_of(st.sampled_from(DANGEROUS), st.text("./\\ ~:aCON犬\n", max_size=20), st.text())


@given(ANY_NAME)
def test_no_name_leaves_its_folder_or_is_illegal(name):
    assert "/" not in folder_name(name)
    for safe in (safe_name(name), drawn_name(name), folder_name(name)):
        assert not PurePosixPath(safe).is_absolute()
        windows = PureWindowsPath(safe)
        assert not windows.drive and not windows.root and not windows.is_reserved()
        for part in safe.split("/"):
            assert part not in ("", ".", "..")
            assert part == part.rstrip(" .")
            assert len(part.encode("utf-8", "backslashreplace")) <= 240
            assert not set(part) & set('<>:"|?*\\\n\t\0')


@given(st.sets(ANY_NAME, min_size=2, max_size=2))
def test_different_names_have_different_drawings(pair):
    one, two = pair
    assert safe_name(one) != safe_name(two)
    assert drawn_name(one) != drawn_name(two)
    assert folder_name(one) != folder_name(two)


def test_every_image_has_its_own_jpeg():
    inputs = ["a.jpg", "a.JPEG", "a.png", "a.png.jpg", "a.jpg.png", "a", "a.dat", "a.dat.jpg"]
    inputs += ["a.v2.jpg", "a.jpg.jpg", "b/a.jpg", "../a.jpg"]
    drawn = [drawn_name(name) for name in inputs]
    assert drawn[:3] == ["a.jpg", "a.JPEG", "a.png.jpg"]
    assert drawn[8] == "a.v2.jpg"
    assert len(set(drawn)) == len(inputs)
    assert all(name.lower().endswith((".jpg", ".jpeg")) for name in drawn)
