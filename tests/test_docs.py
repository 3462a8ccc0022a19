"""The documents name only paths, commands, options, configs and links that exist."""

from __future__ import annotations

import argparse
import re
import shlex
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
from resdet.detection.config.files import shipped_configs
from resdet.tools.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
FOLDERS = "backbones|benchmarks|configs|datasets|detection|docs|tests|tools"
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def code(text: str) -> list[str]:
    """Code spans, lines of code blocks and indented lines, continued lines joined."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"^    (.+)$", rest, re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]


def commands(text: str) -> list[list[str]]:
    """The words after each ``resdet``, without comments and placeholders of documents."""
    found = []
    for line in code(text):
        match = re.match(r"(?:torchrun .*--no-python )?resdet +([a-z][^#]*)", line)
        if match and "…" not in line:
            plain = re.sub(r"\[(--[^\]]*)\]", r"\1", match[1])  # [--optional VALUE]
            found.append(shlex.split(plain))
    return found


@every_document
def test_paths_in_the_repository_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(rf"`((?:{FOLDERS})/[\w./-]*)(?:::\w+)?`", text))
    named |= set(re.findall(rf"\bpython ((?:{FOLDERS})/[\w./-]*\w)", text))
    missing = sorted(each for each in named if not (ROOT / each).exists())
    assert not missing


@every_document
def test_named_tests_exist(path: Path) -> None:
    named = re.findall(r"`(tests/[\w./-]+)::(\w+)`", path.read_text(encoding="utf-8"))
    assert [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")
    ] == []


def test_what_contributing_names_exists() -> None:
    """Paths in blocks, ``make`` targets, and names of code, which a module defines."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = code(text)
    paths = [word for line in lines for word in line.split() if re.match(rf"({FOLDERS})\b", word)]
    assert len(paths) > 50
    missing = [path for path in paths if not (ROOT / path.partition("::")[0]).exists()]
    targets = re.findall(r"^make (\w+)", "\n".join(lines), re.MULTILINE)
    missing += [target for target in targets if f"\n{target}:" not in makefile]
    named = {line for line in lines if re.fullmatch(r"[A-Za-z_]\w*(\.[a-z]\w*)?", line)}
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("backbones", "datasets", "detection", "tools", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
    )
    for name in sorted(named - {"resdet", "RESDET_SHARED", *FOLDERS.split("|")}):
        last = name.rpartition(".")[2]
        defined = rf"^ *((class|def) {last}\b|{last}\b *[:=])"
        missing += [] if re.search(defined, source, re.MULTILINE) else [name]
    assert missing == []


@every_document
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
            assert anchor in slugs, link


@every_document
def test_configs_are_shipped(path: Path) -> None:
    names = set(re.findall(r"--cfg (\w+\.yaml)|`(\w+\.yaml)`", path.read_text(encoding="utf-8")))
    named = {name for pair in names for name in pair if name}
    assert named - {"mine.yaml", "data.yaml", "config.yaml"} <= set(shipped_configs())


@every_document
def test_commands_and_their_options_exist(path: Path) -> None:
    for name, *words in commands(path.read_text(encoding="utf-8")):
        if "|" in name or name not in COMMANDS:
            pytest.fail(f"resdet {name}: no such command")
        parser = argparse.ArgumentParser(prog=name)
        import_module(COMMANDS[name]).add_arguments(parser)
        options = {option for action in parser._actions for option in action.option_strings}
        for word in words:
            if word.startswith("-"):
                assert word.partition("=")[0] in options, f"resdet {name} {word}"


@every_document
def test_configs_in_documents_are_accepted(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        section = textwrap.dedent(block)
        mine = tmp_path / "mine.yaml"
        mine.write_text(section if "base:" in section else f"base: voc_r101.yaml\n{section}")
        assert main(["train-det", "--cfg", str(mine), "--print-config"]) == 0


def test_every_page_is_on_the_site() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= set(index.splitlines())


def test_the_scripts_in_tools_that_the_readme_names_are_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    scripts = set(re.findall(r"`(?:python )?tools/(\w+)\.py", text))
    assert {f"resdet.tools.{script}" for script in scripts} <= set(COMMANDS.values())


def test_the_documents_of_this_test_are_found() -> None:
    names = {path.name for path in DOCUMENTS}
    assert names >= {
        "README.md",
        "SECURITY.md",
        "THIRD_PARTY.md",
        "CONTRIBUTING.md",
        "data.md",
        "faults.md",
    }
    found = [words for path in DOCUMENTS for words in commands(path.read_text(encoding="utf-8"))]
    assert len(found) > 40
    assert {words[0] for words in found} >= {"train-det", "eval", "infer", "ablate", "check-data"}
