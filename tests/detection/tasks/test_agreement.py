"""What processes of a run must have in common, and what each node may choose."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from resdet.detection.config.files import load_config
from resdet.detection.tasks.agreement import differences, traits
from resdet.detection.tasks.registry import TASKS
from resdet.detection.tasks.training import Training


def traits_of(config: Path, *overrides: str) -> dict[str, Any]:
    return traits(Training(TASKS["detection"], load_config(config, overrides)), 0)


@pytest.fixture(scope="module")
def first(tiny_config: Path) -> dict[str, Any]:
    return traits_of(tiny_config)


def test_paths_and_workers_are_those_of_each_node(
    first: dict[str, Any], tiny_config: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_config.parent / "scenes", tmp_path / "scenes")
    shutil.copy(tiny_config, tmp_path)
    other = traits_of(tmp_path / "tiny.yaml", "data.workers=1", f"data.root={tmp_path}")
    assert differences(first, other) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.max_pixels=100000", ("data.max_pixels", 89_478_485, 100_000)),
        ("data.on_bad_image=skip", ("data.on_bad_image", "error", "skip")),
        ("data.val.0.split=train", ("data.val.0.split", "val", "train")),
        ("train.lr=0.01", ("train.lr", 0.02, 0.01)),
    ],
)
def test_a_setting_is_named(
    first: dict[str, Any], tiny_config: Path, override: str, expected: tuple[str, Any, Any]
) -> None:
    found = differences(first, traits_of(tiny_config, override))
    assert expected in found
    assert {key for key, *_ in found} <= {expected[0], "data.val"}


def test_classes_are_compared_by_name_and_order(first: dict[str, Any], tiny_config: Path) -> None:
    names = "[cross, circle, ring, square, star, triangle]"
    found = differences(first, traits_of(tiny_config, f"data.classes={names}"))
    assert found[:2] == [("class 0", "circle", "cross"), ("class 1", "cross", "circle")]
