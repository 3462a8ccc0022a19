"""The generated pages of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import build_reference
import pytest
import resdet
from pydantic import BaseModel
from resdet.datasets.formats import FORMATS
from resdet.detection.config.base import Section
from resdet.detection.tasks.registry import TASKS
from resdet.tools.cli import COMMANDS

SCHEMAS = {
    **{name: task.schema for name, task in TASKS.items()},
    **{name: data_format.source for name, data_format in FORMATS.items()},
}


class _Inner(Section):
    #: How many, at
    #: most.
    count: int = 3


class _Outer(Section):
    inner: _Inner = _Inner()
    #: ``a`` or | b.
    name: str


def test_keys_worked_by_hand() -> None:
    assert list(build_reference.config_keys(_Outer)) == [
        ("inner.count", "integer", "`3`", "How many, at most."),
        ("name", "text", "required", "`a` or \\| b."),
    ]


def leaves(schema: type[BaseModel]) -> int:
    """The number of keys, counted another way."""
    sections = [field.annotation for field in schema.model_fields.values()]
    return sum(
        leaves(each) if isinstance(each, type) and issubclass(each, BaseModel) else 1
        for each in sections
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_config_key_has_values_and_a_reason(name: str) -> None:
    keys = list(build_reference.config_keys(SCHEMAS[name]))
    assert len(keys) == leaves(SCHEMAS[name])
    assert [key for key, values, _, reason in keys if not values or not reason] == []


def test_values_of_keys() -> None:
    values = {key: each for key, each, *_ in build_reference.config_keys(TASKS["detection"].schema)}
    assert values["train.lr"] == "number > 0, ≤ 1e+30"
    assert values["test.suppress.method"] == "`nms`, `soft_nms`, `linear_soft_nms`, `wbf`"
    assert values["image.short_side_train"] == "list of integer ≥ 32, ≤ 10000"
    assert values["data.train"] == "list of [source](sources.md)"
    assert values["data.root"] == "path or null"


def test_every_command_and_public_name_has_its_place(tmp_path: Path) -> None:
    build_reference.write_pages(tmp_path)
    text = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.md")}
    assert re.findall(r"^## (.+)$", text["commands"], re.MULTILINE) == list(COMMANDS)
    assert re.findall(r"^## (.+)$", text["sources"], re.MULTILINE) == list(FORMATS)
    names = re.findall(r"^\.\. auto\w+:: resdet\.(\w+)(?:\.\w+)?$", text["python"], re.MULTILINE)
    assert sorted(names) == [name for name in dir(resdet) if not name.startswith("_")]


def test_pages_that_did_not_change_are_not_written(tmp_path: Path) -> None:
    build_reference.write_pages(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    build_reference.write_pages(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
