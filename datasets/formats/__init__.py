"""The registry of data formats, recognition of folders, and inspection of sources."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import PlainValidator, ValidationInfo

from ...detection.errors import ConfigError
from ..finding_kinds import IMAGE_KINDS, as_option
from ..findings import Fault, Finding, count_kinds, refuse
from ..listing import collected_unreadable, is_split_name, listed_once, subfolders
from ..records import RawImage, with_own_ids
from . import (
    coco,
    csv_boxes,
    cub,
    cvat_xml,
    ilsvrc,
    ilsvrc_det,
    image_folder,
    label_studio,
    labelme,
    shards,
    tiny_imagenet,
    voc,
    yolo,
)
from .format import DEFAULT_READING, Carries, Format, Inspected, Reading, Source

#: In the order in which `recognise` tries them; ILSVRC has VOC's XML files.
FORMATS: dict[str, Format[Any]] = {
    "ilsvrc": ilsvrc.FORMAT,
    "ilsvrc_det": ilsvrc_det.FORMAT,
    "cub": cub.FORMAT,
    "tiny_imagenet": tiny_imagenet.FORMAT,
    "voc": voc.FORMAT,
    "coco": coco.FORMAT,
    "yolo": yolo.FORMAT,
    "labelme": labelme.FORMAT,
    "label_studio": label_studio.FORMAT,
    "cvat": cvat_xml.FORMAT,
    "csv": csv_boxes.FORMAT,
    "image_folder": image_folder.FORMAT,
    "images": image_folder.IMAGES,
    "shards": shards.FORMAT,
}

#: Earlier names, which configs and checkpoints have.
_RENAMED = {"cls_loc": "ilsvrc"}

#: Any folder with images fits these, so that they count only where no other format fits.
_LAST = (image_folder.FORMAT, image_folder.IMAGES)

#: Folders that are looked into for data sets of their own.
_MOST_DATA_SETS = 50

_LOG = logging.getLogger(__name__)


def find_format(name: str, carries: Carries | None = None) -> Format[Any]:
    """The format of this name, among those of use for ``carries``; an earlier name is taken, with a
    warning. Raises ValueError with the known names and the nearest one."""
    known = [each.name for each in FORMATS.values() if each.has(carries)]
    if name in _RENAMED:
        _tell_new_name(name)
        name = _RENAMED[name]
    if name in known:
        return FORMATS[name]
    close = difflib.get_close_matches(name, known, n=1)
    near = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown format {name!r}{near} (known here: {', '.join(known)})")


@cache
def _tell_new_name(name: str) -> None:
    _LOG.warning("format %s is called %s now: write the new name", name, _RENAMED[name])


@dataclass(frozen=True)
class Recognition:
    """The format of a folder and why; ``others`` are formats that would fit too."""

    format: Format[Any]
    reason: str
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        others = f" (--format {' or '.join(self.others)} would fit too)" if self.others else ""
        return f"format: {self.format.name}, because {self.reason}{others}"


@listed_once()
def recognise(root: Path, carries: Carries | None = None) -> Recognition:
    """The format of a folder, among those of use for ``carries``; raises ConfigError that lists the
    known layouts, or the data sets that are in the folder if they are several."""
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    candidates = [each for each in FORMATS.values() if each.has(carries)]
    found = _recognised(root, candidates)
    inside = {} if found and _holds_several(found.format, root) else _data_sets_in(root, candidates)
    if len(inside) > 1:
        each = "; ".join(
            f"{folder}: " + ", ".join(f"{split} {source.text}" for split, source in sources.items())
            for folder, sources in inside.items()
        )
        raise ConfigError(
            f"{root}: there are {len(inside)} data sets in it; name the folder of one of them, or "
            f"in a config the sources of several: {each}"
        )
    if found:
        return found
    layouts = [f"{each.layout} ({each.name})" for each in candidates if each.layout]
    hint = "".join(f"; the folder {folder} is a data set" for folder in inside)
    raise ConfigError(f"{root}: no known layout: neither {', nor '.join(layouts)}{hint}")


def _recognised(root: Path, candidates: Sequence[Format[Any]]) -> Recognition | None:
    found: Recognition | None = None
    for each in candidates:
        if found and each in _LAST:
            break
        if reason := each.recognise(root):
            if found is None:
                found = Recognition(each, reason)
            else:
                found = replace(found, others=(*found.others, each.name))
    return found


def _holds_several(format: Format[Any], root: Path) -> bool:
    """Whether the format takes folders in ``root``, such as the years of VOC, as sources."""
    return any(getattr(each, "root", root) != root for each in format.splits(root).values())


def _data_sets_in(
    root: Path, candidates: Sequence[Format[Any]]
) -> dict[Path, Mapping[str, Source]]:
    """{folder: its splits} of the folders in ``root`` that have splits of their own; nothing where
    the folders are splits, or too many for data sets."""
    places = subfolders(root)
    if len(places) > _MOST_DATA_SETS or any(is_split_name(place.name) for place in places):
        return {}
    inside = {}
    for place in places:
        found = _recognised(place, candidates)
        splits = found.format.splits(place) if found else {}
        if any(map(is_split_name, splits)):
            inside[place] = splits
    return inside


def format_of_file(path: Path) -> Format[Any]:
    """The format of a file of annotations: the one that recognises it, else COCO."""
    return next((each for each in FORMATS.values() if each.recognise_file(path)), FORMATS["coco"])


def known_source(carries: Carries) -> PlainValidator:
    """The validator of a config's field of type `Source`: ``format`` selects the section, among
    the formats of use for ``carries``."""

    def check(value: Any, info: ValidationInfo) -> Source:
        if isinstance(value, Source):
            find_format(value.format, carries)
            return value
        if not isinstance(value, dict) or not isinstance(value.get("format"), str):
            raise ValueError("a data source is a mapping with a `format`")
        format = find_format(value["format"], carries)
        section, value = format.source, {**value, "format": format.name}
        if info.mode == "json":
            return section.model_validate_json(json.dumps(value))
        return section.model_validate(value)

    return PlainValidator(check)


def named_source(
    format: Format[Any], root: Path, split: str | None, annotations: Path | None = None
) -> Source:
    """A source from command-line options: the name of a split (None: all images of a folder without
    splits), or a file of ``annotations`` of the images in ``root``."""
    if format.named is not None:
        return format.named(root, split, annotations)
    if split is not None and root.is_dir() and (source := format.splits(root).get(split)):
        return source
    return format.source(root=root, split=split)


@listed_once()
def inspect(source: Source, reading: Reading = DEFAULT_READING) -> Inspected:
    """The usable images of a source, and all findings; raises ConfigError for a stream.

    Under ``on_bad_image: skip`` unusable images are warnings.
    """
    found = FORMATS[source.format].inspect
    if found is None:
        raise ConfigError(f"{source.title}: {source.format} are read as a stream only")
    with collected_unreadable() as unreadable:
        images, findings = found(source, reading)
    findings = [each for each in findings if str(each.file) not in unreadable]
    for folder, reason in unreadable.items():
        told = f"{reason}; what is in it is left out"
        findings.append(Finding("unreadable_folder", "error", Path(folder), told))
    if reading.rules.on_bad_image == "skip":
        findings = [_skipped(finding) for finding in findings]
    return images, findings


def _skipped(finding: Finding) -> Finding:
    if finding.severity != "error" or finding.kind not in IMAGE_KINDS:
        return finding
    return replace(finding, severity="warning", outcome="skipped")


def inspect_all(sources: Iterable[Source], reading: Reading = DEFAULT_READING) -> Inspected:
    """`inspect` for several sources, in their order, with ids as in `with_own_ids`."""
    images: list[RawImage] = []
    findings: list[Finding] = []
    for source in sources:
        found, faults = inspect(source, reading)
        images += with_own_ids(found, images)
        findings += faults
    return images, findings


def class_order(
    sources: Iterable[Source], images: Iterable[RawImage], ignored: Iterable[str] = ()
) -> tuple[str, ...]:
    """The classes of data without a class list in the config: the lists in the sources' own files,
    in their order and with classes that have no objects, then other names that occur, sorted.

    Raises `Fault` for a list that cannot be read.
    """
    listed = [FORMATS[source.format].classes(source) or () for source in sources]
    names = dict.fromkeys(name for names in listed for name in names)
    others = sorted({obj.name for image in images for obj in image.objects} - names.keys())
    return tuple(name for name in (*names, *others) if name not in set(ignored))


def with_names(source: Source, names: Sequence[str] | None) -> Source:
    """The source with these class names by number, where its format has numbers and none are
    given; its own file of names, if there is one, counts all the same."""
    if not names or getattr(source, "names", names) is not None:
        return source
    return source.model_copy(update={"names": tuple(names)})


def declared_classes(sources: Iterable[Source]) -> frozenset[str]:
    """The names in the lists of the sources' own files; a list that cannot be read has none."""
    names: set[str] = set()
    for source in sources:
        with suppress(Fault):  # reported by the reader
            names.update(FORMATS[source.format].classes(source) or ())
    return frozenset(names)


def read_images(source: Source, reading: Reading = DEFAULT_READING) -> list[RawImage]:
    """The images of `read_checked`."""
    return read_checked(source, reading)[0]


def read_checked(source: Source, reading: Reading = DEFAULT_READING) -> Inspected:
    """`inspect` for commands; raises `DataError` for errors, logs the other findings."""
    images, findings = inspect(source, reading)
    refuse(findings, source.title, as_option)
    if findings:
        _LOG.warning("%s: %s", source.title, count_kinds(findings))
    return images, findings


@listed_once()
def inspect_folders(sources: Sequence[Source]) -> list[Finding]:
    """Findings about several sources together, and about files that belong to none of them."""
    return [
        finding
        for name in dict.fromkeys(source.format for source in sources)
        for finding in FORMATS[name].inspect_folder(
            [each for each in sources if each.format == name]
        )
    ]
