"""Every kind of finding has a remedy, whose settings and commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from resdet.datasets.finding_kinds import KINDS
from resdet.datasets.finding_remedies import REMEDIES, remedy, settings_for
from resdet.datasets.findings import Finding
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.detector import DetectorConfig
from resdet.tools.cli import COMMANDS


def test_every_kind_has_a_remedy() -> None:
    assert list(REMEDIES) == list(KINDS)
    assert remedy("unheard_of") == ""


def test_settings_and_commands_in_remedies_exist() -> None:
    schemas = (DetectorConfig, ClassifierConfig)
    known = {
        f"{section}.{name}"
        for schema in schemas
        for section in ("data", "rpn")
        if section in schema.model_fields
        for name in schema.model_fields[section].annotation.model_fields
    }
    named = re.findall(r"\b(?:data|rpn)\.\w+", " ".join(REMEDIES.values()))
    assert len(set(named)) > 8 and set(named) <= known
    commands = re.findall(r"resdet ([a-z-]+)", " ".join(REMEDIES.values()))
    assert commands and set(commands) <= set(COMMANDS)


def _errors(*kinds: str) -> list[Finding]:
    return [Finding(kind, "error", Path("x"), "why") for kind in kinds]


@pytest.mark.parametrize(
    ("kinds", "settings"),
    [
        ((), []),
        (("no_area", "no_area"), ["data.on_bad_box=drop"]),
        (("no_area", "tiny_image"), ["data.on_bad_box=drop", "data.on_bad_image=skip"]),
        (("no_area", "malformed_xml"), None),
        (("malformed_xml",), None),
    ],
)
def test_settings_that_settle_all_errors(kinds: tuple[str, ...], settings: list[str]) -> None:
    warning = Finding("tiny_image", "warning", Path("x"), "why")
    assert settings_for([*_errors(*kinds), warning]) == settings
