"""The code keeps the guarantees of SECURITY.md, checked on the syntax trees of all files."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from resdet.datasets.formats.voc_xml import parse_annotation
from resdet.detection.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("backbones", "configs", "datasets", "detection", "tools")
FILES = sorted(
    [ROOT / "__init__.py", *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))]
)

#: Uses the standard library for XML without declarations, and defusedxml otherwise.
FAST_XML = "datasets/formats/voc_xml.py"
#: The only users of the network, on request: weights by URL and `get-data`; manifests and results
#: in object storage; the images of the Label Studio that `serve` is given; the Hugging Face Hub.
DOWNLOADS = (
    "detection/download.py",
    "datasets/manifests/storage.py",
    "detection/serving/label_studio.py",
    "detection/tasks/hub.py",
)
#: {importer of the storage module, but for the pattern of an address: the feature in SECURITY.md}.
STORAGE = {
    "datasets/formats/shards.py": "`data.source.url`",
    "datasets/shards/reader.py": "`data.source.url`",
    "datasets/shards/index.py": "`data.source.url`",
    "datasets/manifests/walk.py": "`manifest`",
    "datasets/manifests/sources.py": "`manifest`",
    "datasets/manifests/manifest.py": "`manifest`",
    "detection/cluster/job.py": "`infer --manifest`",
    "detection/cluster/run.py": "`infer --manifest`",
    "detection/cluster/shard.py": "`infer --manifest`",
    "detection/cluster/watch.py": "`infer --manifest`",
    "detection/cluster/results.py": "`infer --manifest`",
    "detection/cluster/scoring.py": "`eval --manifest`",
    "detection/cluster/object_tables.py": "`eval --manifest`",
}
#: The only file that may call `torch.load`, with ``weights_only``: on its own cache, which it maps.
OWN_CACHE = "datasets/record_cache.py"
#: The only one that listens, on request: `serve`.
LISTENS = ("detection/serving/run.py",)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name, as written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def keyword(call: ast.Call, name: str) -> object:
    value = next((k.value for k in call.keywords if k.arg == name), None)
    return value.value if isinstance(value, ast.Constant) else None


def unpickles(tree: ast.AST, file: str) -> Iterator[str]:
    """Calls that can run code from a file; `resdet.backbones.weights` parses pickles itself."""
    for name, call in calls(tree):
        plain = name.rpartition(".")[2]
        restricted = name == "torch.load" and keyword(call, "weights_only")
        if file == OWN_CACHE and restricted:
            continue
        if name in ("torch.load", "torch.jit.load") or plain == "open_shelf":
            yield name
        if keyword(call, "allow_pickle") or name in ("pandas.read_pickle", "pd.read_pickle"):
            yield name
    for name in imports(tree):
        if name.partition(".")[0] in (
            "pickle",
            "marshal",
            "shelve",
            "joblib",
            "dill",
            "cloudpickle",
        ):
            yield f"import of {name}"


def runs_text(tree: ast.AST, file: str) -> Iterator[str]:
    """Calls that run text as code or as a command line."""
    for name, call in calls(tree):
        if name in (
            "eval",
            "exec",
            "compile",
            "__import__",
            "os.system",
            "os.popen",
            "runpy.run_path",
        ):
            yield name
        if keyword(call, "shell") is True or name == "subprocess.getoutput":
            yield f"{name} with a shell"


def parses_unsafely(tree: ast.AST, file: str) -> Iterator[str]:
    """YAML with objects, XML with entities, templates without escaping."""
    for name, call in calls(tree):
        if name in ("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"):
            yield name
        if name.endswith("Environment") and keyword(call, "autoescape") is not True:
            yield f"{name} without autoescape"
        if name.endswith(("extractall", ".unpack_archive")):
            yield name
        parsing = ("fromstring", "parse", "iterparse", "XML", "XMLParser")
        modules = ("ET.", "ElementTree.", "minidom.", "sax.")
        if file != FAST_XML and name.startswith(modules) and name.endswith(parsing):
            yield name
    for name in imports(tree):
        parser = name.rpartition(".")[2] in ("fromstring", "parse", "iterparse", "XMLParser")
        if file != FAST_XML and name.startswith("xml.") and parser:
            yield f"import of {name}"


def uses_the_network(tree: ast.AST, file: str) -> Iterator[str]:
    if file not in DOWNLOADS + LISTENS:
        known = ("socket", "urllib.request", "http", "requests", "httpx", "aiohttp", "ftplib")
        known += ("huggingface_hub",)
        for name in imports(tree):
            if name.startswith(known):
                yield f"import of {name}"
        for name, _ in calls(tree):
            if name.startswith(("torch.hub.", "load_state_dict_from_url", "hub.")):
                yield name


RULES: dict[str, Callable[[ast.AST, str], Iterator[str]]] = {
    "unpickles": unpickles,
    "runs text": runs_text,
    "parses unsafely": parses_unsafely,
    "uses the network": uses_the_network,
}


@pytest.mark.parametrize("rule", RULES)
def test_no_file_of_the_package(rule: str) -> None:
    found = []
    for path in FILES:
        file = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{file}: {what}" for what in RULES[rule](tree, file)]
    assert not found
    assert len(FILES) > 50


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("unpickles", "torch.load(path)"),
        ("unpickles", "torch.load(path, weights_only=True)"),
        ("unpickles", "import pickle"),
        ("unpickles", "from pickle import Unpickler"),
        ("unpickles", "np.load(path, allow_pickle=True)"),
        ("runs text", "eval(text)"),
        ("runs text", "subprocess.run(text, shell=True)"),
        ("runs text", "os.system(text)"),
        ("parses unsafely", "yaml.load(text, Loader=yaml.SafeLoader)"),
        ("parses unsafely", "ET.fromstring(text)"),
        ("parses unsafely", "from xml.etree.ElementTree import fromstring"),
        ("parses unsafely", "jinja2.Environment(loader=x)"),
        ("parses unsafely", "tar.extractall(path)"),
        ("uses the network", "import urllib.request"),
        ("uses the network", "torch.hub.load(x)"),
    ],
)
def test_the_rules_find_forbidden_code(rule: str, code: str) -> None:
    assert list(RULES[rule](ast.parse(code), "somewhere.py"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-7"])
def test_entities_are_refused_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    text = '<!DOCTYPE a [<!ENTITY b "boom">]><annotation>&b;</annotation>'
    if encoding == "utf-7":
        text = f'<?xml version="1.0" encoding="{encoding}"?>{text}'
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=r"a\.xml.*(entities|not readable)"):
        parse_annotation(path)


def test_the_page_names_every_use_of_object_storage() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] == "storage"
        if [alias.name for alias in node.names] != ["ADDRESS"]
    }
    assert users == STORAGE.keys()
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    uses = text.partition("do not use the network")[2].partition("The first three")[0]
    assert [feature for feature in STORAGE.values() if feature not in uses] == []


def test_the_exceptions_are_still_needed() -> None:
    tree = ast.parse((ROOT / FAST_XML).read_text(encoding="utf-8"))
    assert list(parses_unsafely(tree, "elsewhere.py"))
    tree = ast.parse((ROOT / OWN_CACHE).read_text(encoding="utf-8"))
    assert list(unpickles(tree, "elsewhere.py"))
    for file in DOWNLOADS + LISTENS:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert list(uses_the_network(tree, "elsewhere.py"))
