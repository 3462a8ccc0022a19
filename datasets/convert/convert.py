"""Conversion of a data set into another annotation format, with a list of what is lost."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ...detection.errors import ConfigError, DataError, first_few
from ..findings import Finding
from ..formats import FORMATS
from ..formats.writing import ROUNDED, Outgoing, Place, Splits, Writer, write_new
from ..image import IMAGE_SUFFIXES
from ..records import RawImage
from .placing import all_or_nothing, placer
from .reading import SourceSplit, normal

#: The file in a converted data set that lists what was lost.
NOTES = "conversion.txt"

#: Unicode categories that some formats do not keep: controls, lone surrogates, line ends.
_FORBIDDEN = {"Cc", "Cs", "Zl", "Zp"}
_NOT_IN_XML = "\ufffe\uffff"
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class ConversionPlan:
    """A data set ready to be written as ``target``.

    ``losses`` affect training or evaluation of a detector; ``notes`` are all other changes;
    ``resolved`` are the images and boxes that could not be used as they were.
    """

    target: str
    splits: Splits
    classes: tuple[str, ...]
    losses: tuple[str, ...]
    notes: tuple[str, ...]
    resolved: tuple[Finding, ...] = ()


def plan_conversion(parts: Sequence[SourceSplit], target: str) -> ConversionPlan:
    """Choose image names, convert the objects, and list what the target format cannot store.

    Raises `DataError` for names that collide or that some formats cannot store.
    """
    if any(part.format == target for part in parts):
        raise ConfigError(f"the data set is {target} already")
    writer = _writer(target)
    classes = _classes(parts)
    losses: dict[str, list[str]] = {}
    splits = {part.split: _outgoing(part, writer, losses) for part in parts}
    rounded = losses.pop(ROUNDED, [])
    _expect_distinct_names(splits, target)
    resolved = tuple(finding for part in parts for finding in part.findings)
    notes = (
        *_ignored_note(parts, writer),
        *_extras_note(parts),
        *_resolved_notes(resolved),
        *([_counted(ROUNDED, rounded)] if rounded else []),
        *_class_notes(splits, classes, target),
        *_renaming_note(parts, splits),
    )
    return ConversionPlan(
        target, splits, classes, tuple(map(_counted, losses, losses.values())), notes, resolved
    )


def _writer(name: str) -> Writer:
    writer = FORMATS[name].writer
    if writer is None:
        raise ConfigError(f"{name} is not written")
    return writer


def expect_lossless(plan: ConversionPlan) -> None:
    """Raise `DataError` if the plan has losses."""
    if plan.losses:
        lost = "; ".join(plan.losses)
        raise DataError(
            f"{plan.target} cannot hold all of it: {lost}. --allow-loss converts the rest"
        )


def write_plan(
    plan: ConversionPlan,
    out: Path,
    *,
    link: bool = False,
    copy: bool = True,
    replace: bool = False,
    report: Callable[[], None] = lambda: None,
) -> None:
    """Write the data set into ``out``, a new or empty folder, completely or not at all.

    Images are copied byte by byte, hard-linked, or without ``copy`` left where they are; ``report``
    is called after each. With ``replace`` the folder may have contents, which are deleted. Raises
    `DataError` for errors of the file system.
    """
    with all_or_nothing(out, replace=replace) as folder:
        place: Place = placer(link=link, report=report) if copy else lambda source, target: report()
        _writer(plan.target).write(folder, plan.splits, plan.classes, place)
        lines = [*(f"lost: {line}" for line in plan.losses), *plan.notes, *map(str, plan.resolved)]
        write_new(folder / NOTES, "".join(f"{line}\n" for line in lines))


# ---------------------------------------------------------------------------------- objects


def _outgoing(part: SourceSplit, writer: Writer, losses: dict[str, list[str]]) -> list[Outgoing]:
    """The images of a split in the target format; adds what it cannot store to ``losses``."""
    images = []
    for image in part.images:
        fits = [writer.fit(obj, image.size) for obj in image.objects]
        for number, (obj, (_, loss)) in enumerate(zip(image.objects, fits, strict=True), 1):
            if loss:
                where = obj.reference or f"object {number}"
                losses.setdefault(loss, []).append(f"{image.source}: {where} ({obj.name})")
        held = tuple(replace(obj, reference="") for obj, _ in fits if obj)
        images.append(Outgoing(image.path, _name(image, part, writer), image.size, held))
    return images


def _counted(what: str, cases: Sequence[str]) -> str:
    return f"{what}: {len(cases)} ({first_few(cases, 2)})"


def _ignored_note(parts: Sequence[SourceSplit], writer: Writer) -> Iterable[str]:
    ignored = sum(obj.ignore for part in parts for image in part.images for obj in image.objects)
    if ignored and writer.ignored:
        yield f"{writer.ignored}: {ignored}"


def _resolved_notes(findings: Sequence[Finding]) -> Iterable[str]:
    cases: dict[str, list[str]] = {}
    for finding in findings:
        if finding.outcome:
            what = f"{'boxes' if finding.box else 'images'} {finding.outcome}"
            cases.setdefault(what, []).append(str(finding))
        else:
            yield str(finding)
    yield from (_counted(what, found) for what, found in cases.items())


def _extras_note(parts: Sequence[SourceSplit]) -> Iterable[str]:
    extras = sum((part.contents.extras for part in parts), Counter[str]())
    if extras:
        yield "not converted: " + ", ".join(f"{name} {n}" for name, n in extras.most_common())


# ---------------------------------------------------------------------------------- class names


def _classes(parts: Sequence[SourceSplit]) -> tuple[str, ...]:
    names = list(dict.fromkeys(name for part in parts for name in part.classes))
    for name in names:
        _expect_portable(name, f"class {name!r}")
    return tuple(names if any(part.has_list for part in parts) else sorted(names))


def _expect_portable(name: str, what: str) -> None:
    if name != name.strip() or name.startswith(_BYTE_ORDER_MARK):
        raise DataError(f"{what}: has blanks around it, which not every format keeps")
    if any(unicodedata.category(each) in _FORBIDDEN or each in _NOT_IN_XML for each in name):
        raise DataError(f"{what}: has characters that not every format can hold")


def _class_notes(splits: Splits, classes: tuple[str, ...], target: str) -> Iterable[str]:
    if _writer(target).keeps_class_list:
        return
    name = target.upper() if target == "voc" else target
    seen = {obj.name for part in splits.values() for image in part for obj in image.objects}
    unseen = [name for name in classes if name not in seen]
    if unseen:
        vanish = f"so that classes without objects vanish: {', '.join(unseen)}"
        yield f"{name} has no class list, {vanish}"
    if list(classes) != sorted(classes):
        yield f"{name} has no class list; the order was: {', '.join(classes)}"


# ---------------------------------------------------------------------------------- image names


def _name(image: RawImage, part: SourceSplit, writer: Writer) -> PurePosixPath:
    """The path of the image below the folder of its split, or, for one outside, below the folder
    that has all of these; raises `DataError`."""
    path, folder = normal(image.path), normal(part.contents.folder)
    if not path.is_relative_to(folder):
        folder = part.above
    name = PurePosixPath(path.relative_to(folder).as_posix())
    if writer.flat:
        name = PurePosixPath("_".join(name.parts))
    _expect_portable(name.stem if writer.flat else str(name), f"image {str(image.path)!r}")
    if writer.known_suffixes and name.suffix.lower() not in IMAGE_SUFFIXES:
        raise DataError(f"{image.path}: the format finds images by extension, not one with this")
    return name


def _expect_distinct_names(splits: Splits, target: str) -> None:
    """No two images share a name or, where the format pairs by stem, a stem.

    In VOC all splits share one folder, and an image may be in several if annotated alike.
    """
    writer = _writer(target)
    first: dict[object, tuple[str, Outgoing]] = {}
    errors = []
    for split, images in splits.items():
        for image in images:
            name = image.name.with_suffix("") if writer.pairs_by_stem else image.name
            key = name if writer.flat else (split, name)
            other_split, other = first.setdefault(key, (split, image))
            if other is not image and (split == other_split or image != other):
                errors.append(f"{other.source} ({other_split}) and {image.source} ({split})")
    if errors:
        raise DataError(
            f"{target} cannot tell {len(errors)} pairs of images apart by name, or they are one "
            f"image annotated differently: {first_few(errors)}"
        )


def _renaming_note(parts: Sequence[SourceSplit], splits: Splits) -> Iterable[str]:
    renamed = [
        f"{image.path} is {written.name}"
        for part in parts
        for image, written in zip(part.images, splits[part.split], strict=True)
        if image.path.name != written.name.name
    ]
    if renamed:
        yield _counted("images renamed, for VOC has no subfolders", renamed)
