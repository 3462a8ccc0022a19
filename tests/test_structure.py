"""The floor plan: import directions, sizes of files and signatures, one vocabulary, one definition.

`CONTRIBUTING.md` describes the rules that are checked here.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("backbones", "datasets", "detection", "tools")

#: The layers, lowest first: a module imports from its own layer and from those before it. The
#: longest prefix that fits decides.
LAYERS = (
    (
        "detection.errors",
        "detection.structures",
        "detection.files",
        "detection.download",
        "detection.environment",
        "detection.extras",
        "detection.pages",
        "detection.processor",
        "detection.schedules",
        "detection.trackers",
        "detection.ops.boxes",
        "detection.ops.anchors",
        "detection.config.base",
    ),
    ("backbones",),
    ("datasets",),
    ("detection.ops",),
    ("detection.config",),
    ("detection.models",),
    ("detection.inference", "detection.engine", "detection.evaluation"),
    ("detection.export",),
    ("detection.tasks",),
    ("detection.predictor",),
    ("detection.serving", "detection.adapters", "detection.cluster"),
    ("tools",),
)

MAX_LINES = 300
#: Files that are longer, and why.
LONG_FILES: dict[str, str] = {}

MAX_ARGUMENTS = 8
#: Functions with more arguments, and why.
MANY_ARGUMENTS: dict[str, str] = {}

#: Words of a private language, and what the field says.
BANNED = {
    r"pictures?": "image",
    r"mirror(ed|s|ing)?": "flip",
    r"deviation": "std",
    r"anew": "re-initialised, again",
    r"drop_rivals|soften_rivals|fuse_rivals": "nms, soft_nms, weighted_box_fusion",
    r"\w*oracle\w*": "given the true class",
    r"rungs?|ladder": "step, ablation",
    r"aloud|in good faith|without a word|owed": "logged, silently",
    r"Sight|Joint|Chooser|Judge|Proposer": "Scorer, Ensemble, FirstStage, SecondStage",
}
FOLDERS_BANNED = {"utils", "misc", "common", "core", "helpers"}


@cache
def sources() -> dict[str, tuple[Path, ast.Module]]:
    """Path and syntax tree of every module of the package by its name below ``resdet``."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path, ast.parse(path.read_text("utf-8"))
    return found


def imports(name: str) -> Iterator[str]:
    """The modules of the package that a module imports, those inside functions included, those
    for type checkers alone left out."""
    path, tree = sources()[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in _run(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("resdet."):
            base = []
        else:
            continue
        module = [*base, *(node.module or "").removeprefix("resdet.").split(".")]
        target = ".".join(part for part in module if part)
        for alias in node.names:
            below = f"{target}.{alias.name}".lstrip(".")
            yield below if below in sources() else target


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of code that runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _run(child)


def layer(name: str) -> int:
    fits = [
        (len(prefix), number)
        for number, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if f"{name}.".startswith(f"{prefix}.")
    ]
    return max(fits, default=(0, 0))[1]  # a folder that only holds others


# ------------------------------------------------------------------------------------ imports


def test_imports_go_down() -> None:
    up = [
        f"{name} imports {target}"
        for name in sources()
        for target in imports(name)
        if layer(target) > layer(name)
    ]
    assert up == []


def test_imports_have_no_circles() -> None:
    """Not even late ones: an import inside a function is for what is slow or optional."""
    graph = {name: {target for target in imports(name) if target != name} for name in sources()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


# -------------------------------------------------------------------------------------- sizes


def test_files_are_short() -> None:
    long = {
        str(path.relative_to(ROOT))
        for path, _ in sources().values()
        if len(path.read_text("utf-8").splitlines()) > MAX_LINES
    }
    assert long == set(LONG_FILES)


def test_signatures_are_short() -> None:
    many = set()
    for name, (_, tree) in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in arguments)
                if count > MAX_ARGUMENTS:
                    many.add(f"{name}.{node.name}")
    assert many == set(MANY_ARGUMENTS)


def test_folders_say_what_they_hold() -> None:
    for name in sources():
        parts = name.split(".")
        assert not FOLDERS_BANNED & set(parts), name
        assert len(parts) <= 3, f"{name}: more than one folder below a top-level one"


# --------------------------------------------------------------------------------- vocabulary


def test_docstrings_begin_with_a_statement() -> None:
    questions, silent = [], []
    for name, (path, tree) in sources().items():
        if not ast.get_docstring(tree) and path.read_text("utf-8").strip():
            silent.append(name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                first = (ast.get_docstring(node) or "").partition("\n\n")[0]
                questions += [f"{name}: {first}"] if re.search(r"\w\?", first) else []
    assert questions == []
    assert silent == []


def test_nothing_but_tests_is_named_a_test() -> None:
    for name, (_, tree) in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                assert not re.match(r"test_|Test(?!Config)", node.name), f"{name}: {node.name}"


@pytest.mark.parametrize("words", BANNED)
def test_the_vocabulary(words: str) -> None:
    """In identifiers, messages, comments, configs and pages."""
    pattern = re.compile(rf"(?<![A-Za-z])({words})(?![A-Za-z])")
    endings = ("*.py", "*.yaml", "*.j2")
    files = [
        *(
            path
            for package in (*PACKAGES, "configs", "benchmarks")
            for end in endings
            for path in (ROOT / package).rglob(end)
        ),
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
    ]
    assert len(files) > 150
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if path.name != "THIRD_PARTY.md"
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern.search(re.sub("[Ss]tandard deviation", "std", line))
        and "former name" not in line
    ]
    assert found == [], f"say: {BANNED[words]}"


# ---------------------------------------------------------------------------- one definition


def test_a_class_name_means_one_thing() -> None:
    places = defaultdict(list)
    for name, (_, tree) in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_a_set_of_names_is_defined_once() -> None:
    """Three or more names that stand together in a ``Literal`` or a dict of a module are not
    listed a second time."""
    places = defaultdict(list)
    for name, (_, tree) in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                values = [
                    each.value for each in ast.walk(node.slice) if isinstance(each, ast.Constant)
                ]
                if len(values) > 2:
                    places[tuple(sorted(map(str, values)))].append(f"{name}:{node.lineno}")
    assert {names: where for names, where in places.items() if len(where) > 1} == {}
