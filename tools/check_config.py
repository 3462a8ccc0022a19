"""The config that ``check-data`` proposes for a folder, and the command to run next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.datasets.checks.check import DataSet, Report
    from resdet.datasets.formats.format import Carries, Source

#: What a proposed config builds on: networks that a CPU trains without pretrained weights.
_BASES: Mapping[Carries, tuple[str, str]] = {
    "boxes": ("train-det", "bccd_r18.yaml"),
    "class": ("train-cls", "caltech40_r18.yaml"),
}
_PART = re.compile(r"(?:^|_)(train|val|test)")


def next_command(data: DataSet, report: Report, config: Path | None) -> str:
    """The command to run after a check of a folder; "" where errors are in the way, or nothing
    here trains on such data."""
    if any(finding.severity == "error" for finding in report.findings):
        return ""
    if data.content not in _BASES:
        return ""
    if config is not None:
        return f"resdet {_BASES[data.content][0]} --cfg {shlex.quote(str(config))}"
    root = shlex.quote(str(data.origin))
    if data.content == "boxes" and "val" not in _parts(data):
        return _split_command(data)
    return f"resdet check-data {root} --write-config mine.yaml"


def write_config(data: DataSet, report: Report, path: Path) -> None:
    """Write a config that trains on the folder. Raises ConfigError if there is no validation part,
    if nothing trains on such data, and for an existing file."""
    if data.content not in _BASES:
        raise ConfigError(f"{data.origin}: without annotations there is nothing to train on")
    command, base = _BASES[data.content]
    section = _detector_data(data, report) if data.content == "boxes" else _class_data(data)
    text = yaml.safe_dump({"base": base, "data": section}, sort_keys=False, allow_unicode=True)
    note = (
        f"# Start: resdet {command} --cfg {path.name}\n"
        f"# {base} is a small network that trains from scratch on a CPU.\n"
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(note + text)
    except FileExistsError:
        raise ConfigError(f"--write-config {path}: is there already") from None
    except OSError as error:
        raise ConfigError(f"--write-config {path}: {error.strerror or error}") from error


def _parts(data: DataSet) -> dict[str, list[Source]]:
    """The sources of training, validation and test, by the names of the splits. Where one is named
    train, those of other names are left out: often they are the whole that was divided."""
    parts: dict[str, list[Source]] = {}
    for name, source in zip(data.splits, data.listing, strict=True):
        known = _PART.search(name.lower())
        parts.setdefault(known.group(1) if known else "", []).append(source)
    others = parts.pop("", [])
    return parts if "train" in parts or not others else {"train": others, **parts}


def _split_command(data: DataSet) -> str:
    from resdet.datasets.formats import FORMATS

    root = str(data.origin)
    format = FORMATS[data.listing[0].format]
    if format.divide is None:
        words = ["resdet", "convert-data", root, "--to", "coco", "--out", f"{root}_coco"]
        return shlex.join(words)
    files = ["--annotations", str(getattr(data.listing[0], "annotations", ""))]
    names = getattr(data.listing[0], "names", None)
    classes = ["--classes", ",".join(names)] if names else []
    words = ["resdet", "split", root, *(files if files[1] else ()), *classes, "--parts"]
    return shlex.join([*words, "train=0.8", "val=0.2"])


def _detector_data(data: DataSet, report: Report) -> dict[str, Any]:
    parts = _parts(data)
    if "val" not in parts or "train" not in parts:
        raise ConfigError(
            f"{data.origin}: a config needs images for training and for validation, there are "
            f"{', '.join(data.splits)}; first: {_split_command(data)}"
        )
    listed: dict[str, Any] = {
        part: [_absolute(source) for source in parts[part]]
        for part in ("train", "val", "test")
        if part in parts
    }
    return {"root": None, **listed, "classes": [each.name for each in report.classes]}


def _class_data(data: DataSet) -> dict[str, Any]:
    """One source with both parts; without validation images a fifth of each class is held out."""
    source = _absolute(data.listing[0])
    if source["format"] != "image_folder":
        return {"root": None, "source": source}
    folders = {part: found[0] for part, found in _parts(data).items()}
    train = folders.get("train", data.listing[0])
    names = {"train": getattr(train, "train", ".")}
    if "val" in folders:
        names["val"] = getattr(folders["val"], "train", "val")
    else:
        names["val_fraction"] = 0.2
    return {
        "root": None,
        "source": {"format": "image_folder", "root": source["root"], **names},
        "classes": None,
    }


def _absolute(source: Source) -> dict[str, Any]:
    """The fields of a source that differ from the defaults, with absolute paths."""
    fields = {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in source
        if name in ("format", "split")
        or isinstance(value, Path)
        or value != type(source).model_fields[name].default
    }
    return dict(sorted(fields.items(), key=lambda field: field[0] != "format"))
