"""The table of kinds matches the findings in the code and docs/findings.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from resdet.datasets.finding_kinds import BOX_KINDS, KINDS

ROOT = Path(__file__).resolve().parents[2]
#: What makes findings, or what they are made of; the kind is among the first three arguments.
_MAKERS = {"Finding", "Fault.of", "_Verdict", "_error", "_failed", "_warn", "_finding"}


def _modules() -> Iterator[ast.Module]:
    """Of ``datasets``, without the table itself."""
    for path in sorted((ROOT / "datasets").rglob("*.py")):
        module = ast.parse(path.read_text("utf-8"))
        module.body = [each for each in module.body if "KINDS: " not in ast.unparse(each)]
        yield module


def _texts(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def test_every_kind_in_the_code_is_in_the_table() -> None:
    made = {
        argument.value
        for module in _modules()
        for call in ast.walk(module)
        if isinstance(call, ast.Call) and ast.unparse(call.func) in _MAKERS
        for argument in call.args[:3]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        if re.fullmatch(r"[a-z]+(_[a-z]+)+", argument.value)
    }
    assert len(made) > 50
    assert made - KINDS.keys() == set()
    assert KINDS.keys() >= BOX_KINDS


def test_severities_written_in_the_code_are_those_of_the_table() -> None:
    errors = {"Fault.of", "_error"}
    written = 0
    for module in _modules():
        for call in ast.walk(module):
            if not isinstance(call, ast.Call):
                continue
            texts = [each.value for each in call.args[:3] if isinstance(each, ast.Constant)]
            kinds = [text for text in texts if text in KINDS]
            severities = {"error", "warning", "note"} & {str(text) for text in texts}
            if ast.unparse(call.func) in errors:
                severities.add("error")
            for kind in kinds:
                assert severities <= set(KINDS[kind][0]), kind
                written += len(severities)
    assert written > 50


def test_every_kind_in_the_table_is_in_the_code() -> None:
    texts = {text for module in _modules() for text in _texts(module)}
    assert KINDS.keys() - texts == set()


def test_the_document_has_the_table() -> None:
    section = (ROOT / "docs" / "findings.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([a-z, ]+) \| (.+) \|$", section, re.MULTILINE)
    assert rows == [
        (kind, ", ".join(severities), meaning) for kind, (severities, meaning) in KINDS.items()
    ]
