"""The commands of docs/paper.md: each training and evaluation has a config that is accepted."""

from __future__ import annotations

import re

import pytest
from resdet.detection.config.base import Section
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.files import override, read_config, stated_task
from resdet.detection.predictor import TESTING
from resdet.detection.tasks.registry import TASKS
from resdet.tests.test_docs import ROOT, commands
from resdet.tools.cli import main

TEXT = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
COMMANDS = commands(TEXT)
TRAININGS = [words for words in COMMANDS if words[0].startswith("train-")]


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def overrides(words: list[str]) -> list[str]:
    return [word for word in words if re.match(r"[a-z]+(\.\w+)+=", word)]


def config_of(words: list[str]) -> Section:
    schema = {task.name: task for task in TASKS.values()}[stated_task(value(words, "--cfg"))].schema
    return read_config(schema, value(words, "--cfg"), overrides(words))


def runs_of(words: list[str]) -> list[str]:
    """The run folders that a command reads."""
    return re.findall(r"\bruns/[\w/]+?(?=/weights/|$| |\])", " ".join(words))


RUNS = {value(words, "--out"): words for words in TRAININGS}


@pytest.mark.parametrize("name", RUNS)
def test_a_training_is_accepted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = RUNS[name]
    assert main([*words, "--print-config"]) == 0
    assert "iterations: " in capsys.readouterr().out
    assert f"`{value(words, '--cfg')}`" in TEXT


def test_every_run_is_trained_above() -> None:
    seen: set[str] = set()
    read = 0
    for words in COMMANDS:
        if words in TRAININGS:
            before = [word for word in words if word != value(words, "--out")]
            assert set(runs_of(before)) <= seen, words
            seen.add(value(words, "--out"))
        else:
            assert set(runs_of(words)) <= seen, words
            read += len(runs_of(words))
    assert len(RUNS) == len(TRAININGS) > 20 and read > 40


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] in ("eval", "ablate")], ids=" ".join)
def test_an_evaluation_is_accepted(words: list[str]) -> None:
    """Its settings are known to the task of the run, and change testing alone."""
    run, given = next(iter(runs_of(words)), None), overrides(words)
    assert run is None or all(text.startswith(TESTING) for text in given)
    config = config_of(RUNS[run]) if run else ClassifierConfig()  # published weights
    changed = override(config, given)
    assert (changed != config) == bool(given)


def test_the_numbers_of_the_tables() -> None:
    """Each table and figure is there; a cell of ours is a number with its page, or `untested`."""
    headings = " ".join(re.findall(r"^## (.+)$", TEXT, re.MULTILINE))
    tables = {int(number) for number in re.findall(r"\d+", headings) if int(number) <= 14}
    assert tables >= {*range(2, 15)}
    assert re.search("figures 1, 6 and 7", headings) and "figure 4" in headings
    rows = re.findall(r"^\|(.+)\| ([^|]+) \|$", TEXT, re.MULTILINE)
    ours = [cell for _, cell in rows if re.fullmatch(r"untested|[\d. /]+", cell)]
    assert len(ours) > 30
