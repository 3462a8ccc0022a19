"""The folder of an exported model: its graphs and ``meta.json``, which says what they take, what
they give, what they were made of, and how well they agree with their checkpoint."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError, WeightsError, quoted
from ..extras import expect_extra
from ..files import (
    atomic_folder,
    expect_regular,
    read_limited,
    remove_leftovers,
    sha256_of,
    write_file,
)
from .runtimes import RUNTIMES

META = "meta.json"
#: Names of graphs, whose files end as in `FORMATS`: of a whole network, and of a detector that is
#: cut at its crops, whose last layers have a file of their own.
MODEL, TRUNK, RPN, MAP, HEAD, SIBLINGS = (
    *("model", "trunk", "rpn", "map", "head"),
    "siblings.safetensors",
)
PARTS = (TRUNK, RPN, MAP, HEAD)
#: {value of ``--format``: the ending of a graph's file}; OpenVINO's has a .bin beside it.
FORMATS = {"onnx": ".onnx", "openvino": ".xml"}
#: The script for machines without PyTorch, and what it needs for a detector that is cut at its
#: crops; they are not imported here, and not changed.
RUNNER = Path(__file__).with_name("runner.py")
PARTS_RUNNER = RUNNER.with_name("runner_parts.py")
FORMAT, FORMAT_VERSION = "resdet export", 2
#: A description with the longest class lists is a hundredth of it.
LARGEST_META = 16 * 2**20
#: The resize before every graph of a detector in words.
RESIZE = (
    "factor = short_side / min(h, w); if factor * max(h, w) > long_side_max: factor = long_side_max"
    " / max(h, w). New sides: max(1, floor(side * factor + 0.5)). OpenCV's INTER_LINEAR on uint8, "
    "or INTER_AREA where new / old of a side is below 0.5; an image of that size stays as it is. "
    "Boxes go back by x * w / new_w, y * h / new_h, and are clipped to the image"
)

#: The crops before a graph of a classifier or a localizer in words, after its `RESAMPLINGS`.
CROPS = (
    "an image of that size stays as it is. The middle crop begins at round((side - size) / 2), "
    "halves to even"
)


def graph_file(folder: Path, name: str) -> Path:
    """The file of a graph in ``folder``, in whatever format; that of the first if it has none."""
    paths = [folder / f"{name}{ending}" for ending in FORMATS.values()]
    return next((path for path in paths if path.is_file()), paths[0])


def parts_in(folder: Path) -> list[str]:
    """The graphs of a detector cut at its crops that are in ``folder``: not all have `MAP`."""
    return [name for name in PARTS if graph_file(folder, name).is_file()]


def is_export(path: Path) -> bool:
    """Whether ``path`` is a folder that `resdet export` wrote, whole or not."""
    if not (path / META).is_file():
        return False
    if any(graph_file(path, name).is_file() for name in (MODEL, TRUNK)):
        return True
    try:
        meta = json.loads(read_limited(path / META, LARGEST_META))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(meta, dict) and meta.get("format") == FORMAT


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``out``, which becomes ``out`` after the block; after an
    exception nothing is left. Raises ConfigError where ``out`` is not empty or not writable."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            remove_leftovers(out)
            raise ConfigError(f"{out}: already exists; give another --out, or remove it")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror or error}") from error
    with atomic_folder(out) as part:
        yield part


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write ``meta.json`` with format and version first."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **meta}
    write_file(folder / META, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_description(folder: Path) -> dict[str, Any]:
    """The content of ``meta.json``; the other files may be missing. Raises WeightsError for a
    damaged file, or one of another format."""
    path = folder / META
    try:
        meta = json.loads(read_limited(path, LARGEST_META))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise WeightsError(f"{path}: not the description of an exported model")
    if meta.get("format_version") != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: format_version {quoted(meta.get('format_version'))}; this resdet reads "
            f"{FORMAT_VERSION}: export the checkpoint again"
        )
    classes, versions, hashes = (meta.get(name) for name in ("classes", "versions", "sha256"))
    if not (
        isinstance(meta.get("task"), str)
        and isinstance(meta.get("config"), dict)
        and isinstance(classes, list)
        and classes
        and all(isinstance(name, str) for name in classes)
        and isinstance(versions, dict)
        and isinstance(hashes, dict)
    ):
        raise WeightsError(f"{path}: damaged: task, config, classes, versions or sha256 is missing")
    return meta


def read_meta(folder: Path) -> dict[str, Any]:
    """`read_description` of a model that is to be run; warns where the runtime of the graphs has
    another version than the one that the model was verified with.

    Raises:
        WeightsError: besides, where a file of the model is not the one that was exported.
        ConfigError: the runtime is not installed.
    """
    meta = read_description(folder)
    versions, hashes = meta["versions"], meta["sha256"]
    graphs = [graph_file(folder, name) for name in (MODEL, *PARTS)]
    graphs = [each for each in graphs if each.is_file()]
    if not graphs:
        raise WeightsError(
            f"{folder}: an export without its graph file ({' or '.join(FORMATS.values())}); copy "
            "the whole folder again, or export again"
        )
    for name in sorted({*hashes, *(each.name for each in graphs)}):
        _expect_exported(folder, name, hashes.get(name))
    runtime = RUNTIMES[graphs[0].suffix]
    here = expect_extra(runtime.extra)[runtime.package]
    there = versions.get(runtime.package)
    if here != there:
        warnings.warn(
            f"{folder}: verified with {runtime.package} {there}, here is {here}; "
            "`resdet eval` compares",
            stacklevel=2,
        )
    return meta


def files_of(meta: Mapping[str, Any]) -> list[str]:
    """The names of graphs and weights that a description lists; others that it lists are not of an
    export, and no name leads out of its folder."""
    endings = (*FORMATS.values(), ".bin")
    known = {f"{name}{end}" for name in (MODEL, *PARTS) for end in endings}
    return sorted(known.union({SIBLINGS}).intersection(meta["sha256"]))


def weights_hash(path: Path) -> str:
    """SHA-256 of a weights file, or of an exported model's description, which has those of its
    files."""
    return sha256_of(path / META if path.is_dir() else path)


def _expect_exported(folder: Path, name: str, sha256: object) -> None:
    """Raise WeightsError unless the file ``name`` in ``folder`` has the hash of the export."""
    path = folder / Path(name).name
    try:
        expect_regular(path)
        if sha256_of(path) == sha256:
            return
        reason = f"not the file that was exported (its SHA-256 is not that in {META})"
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    raise WeightsError(f"{path}: {reason}; copy the whole folder again, or export again")
