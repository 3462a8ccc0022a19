"""The networks command: a table and JSON with every network and the paper's numbers."""

from __future__ import annotations

import json

import pytest
from resdet.tools.cli import run_tool


def test_json_has_every_network_with_counts_near_the_paper(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_tool("networks", ["--json"]) == 0
    rows = {row["network"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == 20
    assert rows["ResNet-18 B"]["parameters"] == 11_689_512  # torchvision's
    giga = {name: row["paper_giga_multiply_adds"] for name, row in rows.items()}
    assert sorted(value for value in giga.values() if value) == [1.8, 1.8, 3.6, 3.6, 3.8, 7.6, 11.3]
    for name, row in rows.items():
        if giga[name]:
            assert row["multiply_adds"]["1x1"] / 1e9 == pytest.approx(giga[name], abs=0.06)
        if row["paper_million_parameters"]:
            wanted = row["paper_million_parameters"]
            assert row["parameters"] / 1e6 == pytest.approx(wanted, abs=0.03)
        same = "50" not in name and "101" not in name and "152" not in name
        assert (row["multiply_adds"]["1x1"] == row["multiply_adds"]["3x3"]) is same


def test_the_table_for_other_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool("networks", ["--size", "64", "--classes", "40"]) == 0
    said = capsys.readouterr().out
    assert "plain-34" in said
    assert "11.3" not in said  # the paper's numbers are for its own images
    line = next(line for line in said.splitlines() if "ResNet-18 B" in line).split()
    assert line[2:4] == ["64", "11.20"]  # 11.69 - 960 classes x 513


@pytest.mark.parametrize("words", [["--size", "0"], ["--classes", "-1"]])
def test_invalid_numbers(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool("networks", words) == 2
    assert "at least 1" in capsys.readouterr().err
