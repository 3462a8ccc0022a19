"""Stratified splits: every image is in one part, and every class is distributed over the parts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.datasets.convert.split import (
    Member,
    joined,
    same_bytes,
    stratified_split,
    write_texts,
)
from resdet.datasets.formats import FORMATS, named_source
from resdet.detection.errors import ConfigError, DataError

PARTS = {"train": 0.7, "val": 0.2, "test": 0.1}


def _members(counts: dict[str, int]) -> list[Member]:
    """That many images of one class each; those of class "" have no objects."""
    return [
        Member(f"{name}{number}", frozenset([name] if name else []), f"{name}{number}")
        for name, count in counts.items()
        for number in range(count)
    ]


def _placed(parts: dict[str, list[str]], name: str) -> list[int]:
    return [sum(each.rstrip("0123456789") == name for each in names) for names in parts.values()]


def test_whole_shares() -> None:
    parts = stratified_split(_members({"cat": 100, "dog": 10, "": 20}), PARTS)
    assert _placed(parts, "cat") == [70, 20, 10]
    assert _placed(parts, "dog") == [7, 2, 1]
    assert _placed(parts, "") == [14, 4, 2]


def test_many_small_classes_still_fill_every_part() -> None:
    """With four images a class no part lacks a whole test image, but six classes need two."""
    parts = stratified_split(_members(dict.fromkeys("abcdef", 4)), PARTS)
    sizes = [len(names) for names in parts.values()]
    assert sum(sizes) == 24
    assert sizes == pytest.approx([16.8, 4.8, 2.4], abs=1.5)


def test_a_class_of_one_image_is_trained_on() -> None:
    parts = stratified_split(_members(dict.fromkeys("abcdef", 1) | {"z": 60}), PARTS)
    assert [_placed(parts, name) for name in "abcdef"] == [[1, 0, 0]] * 6


def test_several_classes_in_a_image() -> None:
    """Three rare pairs: whichever parts they go to, both of their classes count there."""
    members = [Member(f"both{i}", frozenset("ab"), i) for i in range(10)]
    members += [Member(f"a{i}", frozenset("a"), f"a{i}") for i in range(10)]
    parts = stratified_split(members, {"x": 0.5, "y": 0.5})
    both = {part: sum(name.startswith("both") for name in names) for part, names in parts.items()}
    assert both == {"x": 5, "y": 5}
    assert [len(names) for names in parts.values()] == [10, 10]


@settings(max_examples=80)
@given(
    counts=st.dictionaries(st.sampled_from(["a", "b", "c", "d", ""]), st.integers(1, 40)),
    seed=st.integers(0, 5),
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_each_class_is_within_an_image_of_its_share(
    counts: dict[str, int], seed: int, weights: list[int]
) -> None:
    fractions = {f"part{i}": weight / sum(weights) for i, weight in enumerate(weights)}
    parts = stratified_split(_members(counts), fractions, seed=seed)
    for name, count in counts.items():
        for placed, fraction in zip(_placed(parts, name), fractions.values(), strict=True):
            assert abs(placed - fraction * count) < 1 + 1e-9


_members_of_any_kind = st.lists(
    st.builds(
        Member,
        name=st.text("xyz", min_size=1, max_size=4),
        classes=st.frozensets(st.sampled_from("abcd")),
        group=st.integers(0, 8),
    ),
    max_size=30,
    unique_by=lambda member: member.name,
)


@settings(max_examples=80)
@given(members=_members_of_any_kind, seed=st.integers(0, 3), data=st.data())
def test_every_image_once_groups_whole_and_order_without_effect(
    members: list[Member], seed: int, data: st.DataObject
) -> None:
    parts = stratified_split(members, PARTS, seed=seed)
    assert list(parts) == list(PARTS)
    placed = Counter(name for names in parts.values() for name in names)
    assert placed == Counter(member.name for member in members)
    part_of = {name: part for part, names in parts.items() for name in names}
    groups = {(member.group, part_of[member.name]) for member in members}
    assert len(groups) == len({member.group for member in members})
    shuffled = data.draw(st.permutations(members))
    assert stratified_split(shuffled, PARTS, seed=seed) == parts


def test_the_seed_decides() -> None:
    members = _members({"cat": 50, "dog": 50})
    first = stratified_split(members, PARTS, seed=1)
    assert stratified_split(members, PARTS, seed=1) == first
    assert stratified_split(members, PARTS, seed=2) != first


def test_a_large_group_is_one_part_and_the_others_make_up_for_it() -> None:
    copies = [Member(f"copy{i}", frozenset(["cat"]), "one group") for i in range(30)]
    singles = [Member(f"cat{i}", frozenset(["cat"]), i) for i in range(70)]
    parts = stratified_split(copies + singles, {"train": 0.5, "val": 0.5})
    assert [len(names) for names in parts.values()] == [50, 50]
    assert sorted(_placed(parts, "copy")) == [0, 30]


def test_no_images() -> None:
    assert stratified_split([], PARTS) == {"train": [], "val": [], "test": []}


@pytest.mark.parametrize(
    ("fractions", "said"),
    [
        ({"a": 0.5, "b": 0.6}, "the fractions add up to 1.1, expected 1"),
        ({"a": 1.0, "b": 0.0}, "part 'b': 0.0 is not in"),
        ({"a": 1.5, "b": -0.5}, "part 'a': 1.5 is not in"),
        ({"a": float("nan")}, "part 'a': nan is not in"),
        ({}, "the fractions add up to 0"),
    ],
)
def test_wrong_fractions(fractions: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        stratified_split([], fractions)


def test_files_of_equal_content(tmp_path: Path) -> None:
    contents = {"a": b"one", "b": b"two", "c": b"one", "d": b"longer", "e": b"one"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    a, b, c, d, e = same_bytes([tmp_path / name for name in contents])
    assert a == c == e
    assert len({a, b, d}) == 3
    assert same_bytes([]) == []
    with pytest.raises(DataError, match="gone: No such file"):
        same_bytes([tmp_path / "gone"])


def _write(
    name: str, root: Path, parts: dict[str, list[str]], file: Path | None = None, *, force: bool
) -> list[Path]:
    format = FORMATS[name]
    assert format.divide is not None
    texts = format.divide(named_source(format, root, None, file), parts, None)
    return write_texts(texts, force=force)


def test_image_sets(tmp_path: Path) -> None:
    paths = _write("voc", tmp_path, {"train": ["b", "a"], "val": []}, force=False)
    assert [path.read_text() for path in paths] == ["b\na\n", ""]
    with pytest.raises(DataError, match=r"val.txt: there already; --force replaces"):
        _write("voc", tmp_path, {"new": [], "val": ["b"]}, force=False)
    assert not (tmp_path / "ImageSets/Main/new.txt").exists()
    _write("voc", tmp_path, {"val": ["b"]}, force=True)
    assert paths[1].read_text() == "b\n"
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["train.txt", "val.txt"]


def test_json_parts_keep_everything_else(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "info": {"year": 2017},
        "images": [{"id": 7, "license": 3}, {"id": "x"}],
        "annotations": [
            {"id": 1, "image_id": "7", "segmentation": [[1, 2]]},
            {"id": 2, "image_id": "x"},
        ],
        "categories": [{"id": 3, "name": "cat"}],
    }
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps(content))
    parts = {"a": ["7"], "b": ["x"], "c": list[str]()}
    paths = _write("coco", tmp_path, parts, whole, force=False)
    assert [path.parent for path in paths] == [tmp_path] * 3
    a, b, c = (json.loads(path.read_text()) for path in paths)
    assert a["images"] == content["images"][:1] and b["images"] == content["images"][1:]
    assert a["annotations"] == content["annotations"][:1]
    assert b["annotations"] == content["annotations"][1:]
    assert c["images"] == c["annotations"] == []
    assert all(part["categories"] == content["categories"] for part in (a, b, c))
    assert all(part["info"] == {"year": 2017} for part in (a, b, c))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "ImageSets").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        _write("voc", tmp_path, {"train": []}, force=False)


def test_joined() -> None:
    assert joined([], []) == []
    assert joined(["a", "b"], []) == ["a", "b"]
    keys = joined(list("abcdef"), [("b", "a"), ("d", "c"), ("c", "b"), ("a", "d")])
    assert len({keys[place] for place in (0, 1, 2, 3)}) == 1
    assert len(set(keys)) == 3
