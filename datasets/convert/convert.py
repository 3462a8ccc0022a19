"""What does a data set become in another annotation format, and what is lost on the way?"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ...detection.errors import ConfigError, DataError
from ..formats.outgoing import Fit, Outgoing, Splits, write_new
from ..formats.source import Format, SourceSplit
from ..formats.write_coco import fit_coco, write_coco
from ..formats.write_voc import fit_voc, write_voc
from ..formats.write_yolo import fit_yolo, write_yolo
from ..image import IMAGE_SUFFIXES
from ..records import RawImage, RawObject, first_few
from .placing import all_or_nothing, placer

#: The file in a converted data set that says what was lost.
NOTES = "conversion.txt"

_FITS: dict[Format, Callable[[RawObject, tuple[int, int]], Fit]] = {
    "voc": fit_voc,
    "coco": fit_coco,
    "yolo": fit_yolo,
}
_CROWDS_FROM_DIFFICULT = (
    "difficult objects become crowds (iscrowd 1): ignored as before, but a crowd excuses any "
    "number of detections inside it"
)
_DIFFICULT_FROM_CROWDS = (
    "crowds become difficult objects: ignored as before, but each excuses only detections that "
    "overlap it by half"
)
#: Controls, lone surrogates and Unicode's line ends: not every format carries them unchanged.
_FORBIDDEN = {"Cc", "Cs", "Zl", "Zp"}
_NOT_IN_XML = "\ufffe\uffff"
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Plan:
    """A data set ready to be written as ``target``.

    ``losses`` change what a detector learns or is measured by, ``notes`` tell of all else.
    """

    target: Format
    splits: Splits
    classes: tuple[str, ...]
    losses: tuple[str, ...]
    notes: tuple[str, ...]


def plan_conversion(parts: Sequence[SourceSplit], source: Format, target: Format) -> Plan:
    """Name every image, fit every object, and say what the target cannot hold.

    Raises `DataError` for names that collide or that not every format carries.
    """
    if source == target:
        raise ConfigError(f"the data set is {source} already")
    classes = _classes(parts, source)
    losses: dict[str, list[str]] = {}
    splits = {part.split: _outgoing(part, target, losses) for part in parts}
    _expect_distinct_names(splits, target)
    notes = (
        *_ignored_note(parts, target),
        *_extras_note(parts),
        *_class_notes(splits, classes, target),
        *_renaming_note(parts, splits),
    )
    return Plan(target, splits, classes, tuple(map(_counted, losses, losses.values())), notes)


def expect_lossless(plan: Plan) -> None:
    """Raise `DataError` if the plan has losses."""
    if plan.losses:
        lost = "; ".join(plan.losses)
        raise DataError(
            f"{plan.target} cannot hold all of it: {lost}. --allow-loss converts the rest"
        )


def write_plan(
    plan: Plan, out: Path, *, link: bool = False, report: Callable[[], None] = lambda: None
) -> None:
    """Write the data set into ``out``, a new or empty folder, all of it or nothing.

    Images are copied byte by byte, or hard-linked; ``report`` is called after each. Raises
    `DataError` for what the file system refuses.
    """
    with all_or_nothing(out) as folder:
        place = placer(link=link, report=report)
        if plan.target == "voc":
            write_voc(folder, plan.splits, place)
        elif plan.target == "coco":
            write_coco(folder, plan.splits, plan.classes, place)
        else:
            write_yolo(folder, plan.splits, plan.classes, place)
        lines = [*(f"lost: {line}" for line in plan.losses), *plan.notes]
        write_new(folder / NOTES, "".join(f"{line}\n" for line in lines))


# ---------------------------------------------------------------------------------- objects


def _outgoing(part: SourceSplit, target: Format, losses: dict[str, list[str]]) -> list[Outgoing]:
    """The images of a split with what ``target`` can hold; adds to ``losses`` what it cannot."""
    images = []
    for image in part.images:
        fits = [_FITS[target](obj, image.size) for obj in image.objects]
        for number, (obj, (_, loss)) in enumerate(zip(image.objects, fits, strict=True), 1):
            if loss:
                where = obj.reference or f"object {number}"
                losses.setdefault(loss, []).append(f"{image.source}: {where} ({obj.name})")
        held = tuple(replace(obj, reference="") for obj, _ in fits if obj)
        images.append(Outgoing(image.path, _name(image, part.folder, target), image.size, held))
    return images


def _counted(what: str, cases: Sequence[str]) -> str:
    return f"{what}: {len(cases)} ({first_few(cases, 2)})"


def _ignored_note(parts: Sequence[SourceSplit], target: Format) -> Iterable[str]:
    ignored = sum(obj.ignore for part in parts for image in part.images for obj in image.objects)
    if ignored and target == "coco":
        yield f"{_CROWDS_FROM_DIFFICULT}: {ignored}"
    if ignored and target == "voc":
        yield f"{_DIFFICULT_FROM_CROWDS}: {ignored}"


def _extras_note(parts: Sequence[SourceSplit]) -> Iterable[str]:
    extras = sum((part.extras for part in parts), Counter[str]())
    if extras:
        yield "not converted: " + ", ".join(f"{name} {n}" for name, n in extras.most_common())


# ---------------------------------------------------------------------------------- class names


def _classes(parts: Sequence[SourceSplit], source: Format) -> tuple[str, ...]:
    names = list(dict.fromkeys(name for part in parts for name in part.classes))
    for name in names:
        _expect_portable(name, f"class {name!r}")
    return tuple(sorted(names) if source == "voc" else names)


def _expect_portable(name: str, what: str) -> None:
    if name != name.strip() or name.startswith(_BYTE_ORDER_MARK):
        raise DataError(f"{what}: has blanks around it, which not every format keeps")
    if any(unicodedata.category(each) in _FORBIDDEN or each in _NOT_IN_XML for each in name):
        raise DataError(f"{what}: has characters that not every format can hold")


def _class_notes(splits: Splits, classes: tuple[str, ...], target: Format) -> Iterable[str]:
    if target != "voc":
        return
    seen = {obj.name for part in splits.values() for image in part for obj in image.objects}
    unseen = [name for name in classes if name not in seen]
    if unseen:
        yield f"VOC has no class list, so that classes without objects vanish: {', '.join(unseen)}"
    if list(classes) != sorted(classes):
        yield f"VOC has no class list; the order was: {', '.join(classes)}"


# ---------------------------------------------------------------------------------- image names


def _name(image: RawImage, folder: Path, target: Format) -> PurePosixPath:
    """Where the image will stand below its split's folder; raises `DataError`.

    Annotation files are not trusted: a name that leads out of the folder is refused.
    """
    try:
        relative = Path(os.path.normpath(image.path)).relative_to(os.path.normpath(folder))
    except ValueError:
        raise DataError(f"{image.source}: {image.path} is not below {folder}") from None
    name = PurePosixPath(relative.as_posix())
    if target == "voc":
        name = PurePosixPath("_".join(name.parts))
    _expect_portable(name.stem if target == "voc" else str(name), f"image {str(image.path)!r}")
    if target == "yolo" and name.suffix.lower() not in IMAGE_SUFFIXES:
        raise DataError(f"{image.path}: YOLO finds images by extension, not one with this")
    return name


def _expect_distinct_names(splits: Splits, target: Format) -> None:
    """No two images share a name or, where the format pairs by stem, a stem.

    In VOC all splits share one folder, and an image may be in several if annotated alike.
    """
    first: dict[object, tuple[str, Outgoing]] = {}
    errors = []
    for split, images in splits.items():
        for image in images:
            name = image.name if target == "coco" else image.name.with_suffix("")
            key = name if target == "voc" else (split, name)
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
