"""The config that ``check-data`` proposes for a folder, and the command to run next."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from resdet.datasets.finding_remedies import settings_for
from resdet.datasets.image import DEFAULT_RULES
from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.proposed_base import CLASSIFIER, propose_detector

if TYPE_CHECKING:
    from resdet.datasets.checks.check import DataSet, Report
    from resdet.datasets.formats.format import Carries, Source

#: The command that trains on a proposed config.
_COMMANDS: Mapping[Carries, str] = {"boxes": "train-det", "class": "train-cls"}
#: The share of the images that validates where a data set has no such part.
_HELD_OUT = 0.2
#: The setting that reads images outside of a data folder.
_OUTSIDE = "data.allow_outside=true"
_PART = re.compile(r"(?:^|_)(train(?!_?val)|val|test)")


def _trained_on(data: DataSet) -> Carries:
    """What the proposed training learns: of classes with boxes, the classes."""
    from resdet.datasets.formats import FORMATS

    both = any(FORMATS[source.format].carries == "both" for source in data.listing)
    return "class" if both else data.content


def next_command(args: argparse.Namespace, data: DataSet, report: Report, training: str) -> str:
    """The command to run after the check that ``args`` asked for: one that leads to training, or
    past errors that settings settle, or else the check again, for when the files are mended.

    ``training`` is the command that trains on the config, where one was checked. "" where nothing
    here trains on such data.
    """
    settings = settings_for(report.findings)
    if settings is None or (_trained_on(data) not in _COMMANDS and settings):
        # The page shows where to mend.
        return _again(args, *([] if args.out else ["--out", "checked"]))
    if args.cfg:
        return _again(args, *settings) if settings else _on_config(training, args.cfg, args.words)
    if _trained_on(data) not in _COMMANDS or "train" not in _parts(data):
        return ""
    if args.write_config:
        command = "check-data" if settings else _COMMANDS[_trained_on(data)]
        return _on_config(command, args.write_config, settings)
    if _OUTSIDE in settings:  # their classes and boxes are not known yet
        return _again(args, "--allow-outside")
    return _again(args, "--write-config", "mine.yaml")


def validation_hint(data: DataSet, config: Any) -> str:
    """How images for validation are held out, where training has none; "" elsewhere."""
    if config is not None:
        without = config.data.val == ()
    else:
        parts = _parts(data)
        without = _trained_on(data) in _COMMANDS and "train" in parts and "val" not in parts
    if not without:
        return ""
    hint = f"no validation images: data.val={{fraction: {_HELD_OUT}}} holds out a share of training"
    return hint if config else f"{hint}, as the config of --write-config does"


def _on_config(command: str, config: Path | str, words: Sequence[str]) -> str:
    return shlex.join(["resdet", command, "--cfg", str(config), *words])


def _again(args: argparse.Namespace, *more: str) -> str:
    """The check that was asked for, with ``more`` words."""
    words = ["resdet", "check-data", *args.words]
    for option in ("cfg", "annotations", "classes", "out"):
        if value := getattr(args, option):
            words += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    words += ["--format", args.format.name] if args.format else []
    words += ["--allow-outside"] if args.allow_outside else []
    words += ["--max-pixels", str(args.max_pixels)] if args.max_pixels and not args.cfg else []
    zero_based = args.coordinates == "zero_based"
    words += ["--coordinates", args.coordinates] if zero_based else []
    words += ["--quick"] if args.quick and more[:1] != ("--write-config",) else []
    return shlex.join([*words, *more])


def write_config(data: DataSet, report: Report, path: Path) -> None:
    """Write a config that trains on the folder; a fifth of the images is held out where it has no
    validation part. Raises ConfigError if nothing trains on such data, and for an existing file."""
    learned = _trained_on(data)
    if learned not in _COMMANDS:
        raise ConfigError(f"{data.origin}: without annotations there is nothing to train on")
    if "train" not in _parts(data):
        raise ConfigError(
            f"{data.origin}: a config needs images for training, there are {', '.join(data.splits)}"
        )
    command = _COMMANDS[learned]
    folder = path.absolute().parent
    if learned == "boxes":
        section = _detector_data(data, report, folder)
    else:
        section = _class_data(data, folder)
    if data.rules.max_pixels != DEFAULT_RULES.max_pixels:
        section["max_pixels"] = data.rules.max_pixels
    kept = 1.0 if "val" in _parts(data) else 1 - _HELD_OUT
    proposed = CLASSIFIER
    if learned == "boxes":
        proposed = propose_detector(report.scales, _images(data, report), kept)
    content = {"base": proposed.base, "data": section, **proposed.changes}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    note = f"# Start: resdet {command} --cfg {path.name}\n{proposed.comment}"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(note + text)
    except FileExistsError:
        raise ConfigError(f"--write-config {path}: is there already") from None
    except OSError as error:
        raise ConfigError(f"--write-config {path}: {error.strerror or error}") from error
    say(f"written: {path}, with base: {proposed.base}")
    for reason in proposed.reasons:
        say(f"  {reason}")


def _images(data: DataSet, report: Report) -> int:
    """The number of images of training, also those that will be held out."""
    named = [_part(name) for name in data.splits]
    part = "train" if "train" in named else ""
    return sum(split.images for split in report.splits if _part(split.name) == part)


def _part(split: str) -> str:
    """``train``, ``val`` or ``test`` by the name of a split, or "" where it says none of them."""
    known = _PART.search(split.lower())
    return known.group(1) if known else ""


def _parts(data: DataSet) -> dict[str, list[Source]]:
    """The sources of training, validation and test, by the names of the splits. Where one is named
    train, those of other names are left out: often they are the whole that was divided."""
    parts: dict[str, list[Source]] = {}
    for name, source in zip(data.splits, data.listing, strict=True):
        parts.setdefault(_part(name), []).append(source)
    others = parts.pop("", [])
    return parts if "train" in parts or not others else {"train": others, **parts}


def _detector_data(data: DataSet, report: Report, folder: Path) -> dict[str, Any]:
    parts = _parts(data)
    listed: dict[str, Any] = {
        part: [_fields(source, folder) for source in parts[part]]
        for part in ("train", "val", "test")
        if part in parts
    }
    listed.setdefault("val", {"fraction": _HELD_OUT})
    if any(found.kind == "image_outside" and found.severity == "note" for found in report.findings):
        listed["allow_outside"] = True
    return {**listed, "classes": [each.name for each in report.classes]}


def _class_data(data: DataSet, folder: Path) -> dict[str, Any]:
    """One source with both parts."""
    source = _fields(data.listing[0], folder)
    if source["format"] != "image_folder":
        return {"source": source}
    folders = {part: found[0] for part, found in _parts(data).items()}
    train = folders.get("train", data.listing[0])
    names = {"train": getattr(train, "train", ".")}
    if "val" in folders:
        names["val"] = getattr(folders["val"], "train", "val")
    else:
        names["val_fraction"] = _HELD_OUT
    return {"source": {"format": "image_folder", "root": source["root"], **names}}


def _fields(source: Source, folder: Path) -> dict[str, Any]:
    """The fields of a source that differ from the defaults. Paths are relative to ``folder``, that
    of the config, if they are below it, so that both can be moved, else absolute."""

    def path(value: Path) -> str:
        absolute = value.absolute()
        return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)

    fields = {
        name: path(value) if isinstance(value, Path) else value
        for name, value in source
        if name in ("format", "split")
        or isinstance(value, Path)
        or value != type(source).model_fields[name].default
    }
    return dict(sorted(fields.items(), key=lambda field: field[0] != "format"))
