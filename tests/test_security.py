"""The code keeps the guarantees of SECURITY.md, checked on the syntax trees of all files."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest
from resdet.datasets import memory
from resdet.datasets.formats import (
    coco_json,
    file_source,
    ilsvrc_files,
    mat_file,
    voc_layout,
    voc_xml,
    yolo_text,
)
from resdet.datasets.formats.voc_xml import parse_annotation
from resdet.datasets.image import MAX_PIXELS
from resdet.datasets.jpeg_scans import MAX_SCANS
from resdet.datasets.manifests import sources, storage
from resdet.datasets.memory import MAX_FILE
from resdet.detection.errors import DataError
from resdet.detection.files import read_limited
from resdet.detection.inference import inputs, records

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
#: {user of a package that can connect: its feature in SECURITY.md, where it connects for resdet}.
CONNECTS = {
    "datasets/manifests/storage.py": "fsspec knows",
    "datasets/manifests/walk.py": "`manifest`",
    "detection/adapters/cvat.py": "",
    "detection/adapters/fiftyone.py": "",
    "detection/cluster/ray.py": "`--engine ray`",
    "detection/engine/distributed.py": "`torchrun`",
    "detection/inference/video.py": "`infer` and `stream` of a video's address",
    "detection/serving/run.py": "`serve`",
    "detection/trackers.py": "`train.trackers`",
}
#: Writers of CSV that quote what a spreadsheet would execute, and those whose readers take names as
#: they are.
QUOTED = {
    "detection/engine/history.py",
    "detection/evaluation/report.py",
    "detection/inference/results.py",
}
PLAIN_CSV = {"datasets/formats/csv_boxes.py", "datasets/formats/submission.py"}
#: Readers of files without a limit: of the package's, the system's and the process's own files, of
#: an archive just unpacked, of temporary ones, and of a run that is written; and the script that
#: an export has beside it.
UNLIMITED = {
    "backbones/speed.py",
    "datasets/acquire/cifar.py",
    "datasets/record_cache.py",
    "detection/cluster/truth.py",
    "detection/engine/history.py",
    "detection/evaluation/pieces.py",
    "detection/export/quantize.py",
    "detection/export/runner.py",
    "detection/export/runner_parts.py",
    "detection/files.py",
    "detection/processor.py",
    "detection/serving/page.py",
    "detection/tasks/benchmarking.py",
    "tools/cli.py",
    "tools/run_page.py",
}
#: The only one that listens, on request: `serve`.
LISTENS = ("detection/serving/run.py",)


@cache
def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def calls(tree: ast.AST) -> Sequence[tuple[str, ast.Call]]:
    """Every call with its dotted name, as written."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func), node) for node in nodes]


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


def without(
    files: Collection[str], rule: Callable[[ast.AST, str], Iterator[str]]
) -> Callable[[ast.AST, str], Iterator[str]]:
    """The rule for all but these files."""
    return lambda tree, file: iter(()) if file in files else rule(tree, file)


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


def can_connect(tree: ast.AST, file: str) -> Iterator[str]:
    """Packages and calls that can open a connection, beside those of `uses_the_network`."""
    packages = ("fsspec", "s3fs", "boto3", "botocore", "ray", "mlflow", "wandb", "uvicorn")
    packages += ("cvat_sdk", "fiftyone", "urllib3", "smtplib", "xmlrpc", "websockets")
    for name in imports(tree):
        if name.partition(".")[0] in packages:
            yield f"import of {name}"
    for name, _ in calls(tree):
        if name.endswith(("VideoCapture", "init_process_group", "TCPStore", "urlopen")):
            yield name


def reads_whole(tree: ast.AST, file: str) -> Iterator[str]:
    """Calls that read a file of any size and kind."""
    for name, call in calls(tree):
        plain = name.rpartition(".")[2]
        is_ours = isinstance(call.func, ast.Name)  # such as the limited `read_bytes` of formats
        if plain in ("read_text", "read_bytes") and not is_ours:
            yield name
        if name in ("json.load", "np.load", "np.loadtxt", "np.genfromtxt", "np.fromfile"):
            yield name
        if name.startswith(("pd.read_", "pandas.read_")):
            yield name


def is_not_used(tree: ast.AST, file: str) -> Iterator[str]:
    """What SECURITY.md says is not used: TorchScript, Arrow's IPC files, Jinja2's sandbox."""
    for name in [*imports(tree), *(name for name, _ in calls(tree))]:
        words = name.split(".")
        arrow = {"ipc", "feather"} & set(words) and words[0] in ("pyarrow", "pa", "ipc", "feather")
        script = words[-1] in ("script", "load", "ScriptModule") and "jit" in words
        if arrow or script or "sandbox" in words or words[-1] == "SandboxedEnvironment":
            yield name


def writes_csv(tree: ast.AST, file: str) -> Iterator[str]:
    for name, _ in calls(tree):
        if name in ("csv.writer", "csv.DictWriter") or name.endswith((".to_csv", "write_csv")):
            yield name


RULES: dict[str, Callable[[ast.AST, str], Iterator[str]]] = {
    "unpickles": unpickles,
    "runs text": runs_text,
    "parses unsafely": parses_unsafely,
    "uses the network": uses_the_network,
    "can connect": without(CONNECTS, can_connect),
    "reads whole": without(UNLIMITED, reads_whole),
    "is not used": is_not_used,
    "writes CSV": without(QUOTED | PLAIN_CSV, writes_csv),
}


@pytest.mark.parametrize("rule", RULES)
def test_no_file_of_the_package(rule: str) -> None:
    found = []
    for path in FILES:
        file = path.relative_to(ROOT).as_posix()
        tree = parsed(path)
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
        ("can connect", "import fsspec"),
        ("can connect", "cv2.VideoCapture(address)"),
        ("can connect", "dist.init_process_group()"),
        ("reads whole", "path.read_text()"),
        ("reads whole", "json.load(file)"),
        ("is not used", "torch.jit.script(model)"),
        ("is not used", "from torch.jit import script"),
        ("is not used", "pa.ipc.open_file(path)"),
        ("is not used", "from pyarrow import feather"),
        ("is not used", "from jinja2.sandbox import SandboxedEnvironment"),
        ("writes CSV", "csv.writer(file)"),
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
    for files, rule in (
        (DOWNLOADS + LISTENS, uses_the_network),
        (CONNECTS, can_connect),
        (UNLIMITED, reads_whole),
        (QUOTED | PLAIN_CSV, writes_csv),
    ):
        for file in files:
            tree = parsed(ROOT / file)
            assert list(rule(tree, "elsewhere.py")), file


def test_files_of_quoted_csv_quote() -> None:
    for file in QUOTED:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
        assert "csv_cell" in names, file


def test_the_page_names_every_connection() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    uses = page.partition("do not use the network")[2].partition("The first three")[0]
    assert [feature for feature in CONNECTS.values() if feature not in uses] == []


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    page = " ".join((ROOT / "SECURITY.md").read_text(encoding="utf-8").split())
    gigabyte = 2**30
    assert f"above {MAX_FILE // 2**20} MB is refused" in page
    assert f"more than {MAX_SCANS} scans" in page
    assert f"default of `data.max_pixels` is {MAX_PIXELS:,} pixels" in page
    assert f"at most {voc_xml._LARGEST_XML // 2**20} MB of XML for an image" in page
    assert f"{coco_json._LARGEST_JSON // gigabyte} GB of COCO's JSON" in page
    assert inspect.signature(read_limited).parameters["limit"].default == 4 * gigabyte
    assert 4 * gigabyte == storage._LARGEST and "4 GB of detections and results" in page
    others = (file_source._LARGEST_FILE, ilsvrc_files._LARGEST_FILE, inputs._LARGEST_LIST)
    others += (voc_layout._LARGEST_LIST, yolo_text._LARGEST_FILE, mat_file._LARGEST)
    assert max(others) == gigabyte and "1 GB of other annotations and lists" in page
    sizes = (sources._LONGEST_LINE // 2**10, records._LONGEST_LINE // 2**20)
    assert "lines of {} kB in the list of a manifest and of {} MB in".format(*sizes) in page
    assert gigabyte == memory.BUDGET and "decode images share 1 GiB" in page
    share = (*memory._BYTES.items(), ("other formats", memory._OTHERS))
    assert share == (("JPEG2000", 20), ("AVIF", 16), ("other formats", 10))
    assert "20 bytes for each pixel of a JPEG 2000 image, 16 for AVIF, 10 for other formats" in page


def test_floors() -> None:
    """Those with a reason are in pyproject.toml, wherever it names the package."""
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    table = page.partition("| floor | earlier releases |")[2].partition("\n\n")[0]
    floors = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    stated = [each for row in floors for each in re.split(", with ", row)]
    stated += re.findall(r"Jinja2 [\d.]+", page)
    assert len(stated) > 8
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = [*project["dependencies"]]
    needs += [need for extra in project["optional-dependencies"].values() for need in extra]
    for each in stated:
        name, version = each.lower().replace("opencv", "opencv-python-headless").split()
        wanted = {need for need in needs if re.match(rf"{name}\b(?!-)", need)}
        assert wanted == {f"{name}>={version}"}, each
