"""The interface of a data format: the config section of a source, and the functions that recognise,
read and write it. To add a format, write a file with a `Format` and add its line to
`formats.FORMATS`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from ...detection.config.base import OnSizeMismatch, Section
from ..findings import Fault, Finding
from ..headers import Header, read_header, read_headers
from ..image import DEFAULT_RULES, ImageRules
from ..records import RawImage, RawObject
from .writing import Writer

#: The annotation of each image: detectors learn from ``boxes``, classifiers from ``class``,
#: localizers from ``both``.
Carries = Literal["boxes", "class", "both", "nothing"]
#: The parts of a source with training and validation images.
Part = Literal["train", "val"]
#: Difficult objects of VOC are left out, marked ``ignore``, or used like others.
Difficult = Literal["exclude", "ignore", "include"]


class Source(Section):
    """The config section of one source. Fields of type Path may be relative in a config."""

    #: The name of the format.
    format: str

    @property
    def title(self) -> str:
        """The source in messages."""
        return self.format

    @property
    def text(self) -> str:
        """The source as it is written in a config, without defaults."""
        fields = type(self).model_fields
        stated = (
            f"{name}: {'null' if value is None else value}"
            for name, value in self
            if name == "format" or fields[name].is_required() or value != fields[name].default
        )
        return f"{{{', '.join(stated)}}}"


class RootSource(Source):
    """A data set in a folder."""

    #: The data set's folder.
    root: Path

    @property
    def title(self) -> str:
        return str(self.root)


class SplitSource(RootSource):
    """A split of a data set, by its name."""

    #: Name of the split; null takes all images of the folder.
    split: str | None

    @property
    def title(self) -> str:
        return f"{self.root}: {self.split!r}"


def is_annotated(source: Source) -> bool:
    """Whether the objects of its images are known; ``annotated: false`` is for images to test on
    whose annotations are not public."""
    return bool(getattr(source, "annotated", True))


def root_places(root: Path, *names: str | None) -> tuple[Path, ...]:
    """`Format.places` of a data set in ``root``, with those of its folders that lie elsewhere."""
    named = (root / name for name in names if name)
    return root, *(each for each in named if not each.resolve().is_relative_to(root.resolve()))


S = TypeVar("S", bound=Source)
#: The usable images of a source, and all findings.
Inspected = tuple[list[RawImage], list[Finding]]


@dataclass(frozen=True)
class Reading:
    """Reading options: ``workers`` processes share a large source, 0 reads in this process;
    ``part`` is used by sources that have both parts; ``allow_outside`` reads images that are
    outside of the source's folder where its annotations name them. ``boxes`` tells whether sources
    that carry both classes and boxes are read with their boxes; None: if they are there."""

    rules: ImageRules = DEFAULT_RULES
    difficult: Difficult = "ignore"
    on_size_mismatch: OnSizeMismatch = "error"
    workers: int = 0
    part: Part = "train"
    allow_outside: bool = False
    boxes: bool | None = None


DEFAULT_READING = Reading()


@dataclass(frozen=True)
class Contents:
    """What conversion needs besides the images: ``folder``, which their names are relative to;
    ``extras`` counts content other than boxes, names and ignored objects, by its name in the
    files."""

    folder: Path
    extras: Counter[str] = field(default_factory=Counter)


# ---------------------------------------------------------------------------------- reading


def checked_size(
    image: Path,
    claimed: tuple[float, float] | None,
    source: Path,
    rules: ImageRules,
    *,
    object: str = "",
    header: Header | None = None,
) -> tuple[int, int]:
    """(h, w) from the image's ``header``, which is read here if it is None, as displayed.

    ``claimed`` (h, w) is the size in ``source``, at ``object``; None if it has none. Raises
    `Fault` of kind ``unreadable_image``, ``size_matches_unrotated`` or ``size_mismatch``.
    """
    actual = _usable(image, header or read_header(image, rules))
    if claimed is None or list(claimed) == list(actual):
        return actual
    difference = f"says {claimed[1]:g}x{claimed[0]:g}, {image.name} is {actual[1]}x{actual[0]}"
    other: Literal["apply", "ignore"] = "ignore" if rules.exif == "apply" else "apply"
    if list(claimed) == list(_usable(image, read_header(image, replace(rules, exif=other)))):
        moment = "before" if other == "ignore" else "after"
        reason = f"{difference}: boxes were drawn {moment} EXIF rotation, set `exif: {other}`"
        raise Fault.of("size_matches_unrotated", source, reason, object=object, image=image)
    raise Fault.of("size_mismatch", source, difference, object=object, image=image)


def fit_to_image(
    image: RawImage,
    claimed: tuple[float, float] | None,
    reading: Reading,
    *,
    object: str = "",
    header: Header | None = None,
) -> tuple[RawImage, list[Finding]]:
    """The image with the size of its ``header``, which is read here if it is None, and findings.

    Under ``on_size_mismatch: scale`` its boxes are scaled from the ``claimed`` (h, w) if that is
    the shape of the image, rounding aside: the image was resized after it was annotated.
    Raises `Fault` as `checked_size` does.
    """
    rules, source = reading.rules, image.source
    try:
        size = checked_size(image.path, claimed, source, rules, object=object, header=header)
        return replace(image, size=size), []
    except Fault as fault:
        if fault.finding.kind != "size_mismatch" or claimed is None:
            raise
        if not all(0 < side < math.inf for side in claimed):
            raise
        size = _usable(image.path, header or read_header(image.path, rules))
        scale = size[0] / claimed[0], size[1] / claimed[1]
        # All four sides are rounded to pixels.
        if abs(claimed[1] * size[0] - claimed[0] * size[1]) > sum(claimed) + sum(size):
            raise
        if reading.on_size_mismatch == "error":
            reason = f"{fault.finding.reason}; data.on_size_mismatch=scale scales the boxes"
            raise Fault(replace(fault.finding, reason=reason)) from fault
        objects = tuple(_scaled(obj, scale) for obj in image.objects)
        told = replace(fault.finding, severity="warning", outcome="scaled")
        return replace(image, size=size, objects=objects), [told]


def fit_all(
    images: Sequence[tuple[RawImage, tuple[float, float] | None, str]], reading: Reading
) -> Inspected:
    """`fit_to_image` for many (image, claimed size, object), whose headers are read by
    ``reading.workers`` processes: the usable images in order, and all findings."""
    fitting, findings = list[RawImage](), list[Finding]()
    paths = [image.path for image, *_ in images]
    headers = read_headers(paths, reading.rules, workers=reading.workers)
    for (image, claimed, where), header in zip(images, headers, strict=True):
        try:
            fitted, faults = fit_to_image(image, claimed, reading, object=where, header=header)
        except Fault as fault:
            findings.append(fault.finding)
        else:
            fitting.append(fitted)
            findings += faults
    return fitting, findings


def _scaled(obj: RawObject, scale: tuple[float, float]) -> RawObject:
    """The object with its box, and the area of its mask, scaled by (vertical, horizontal)."""
    x1, y1, x2, y2 = obj.box
    vertical, horizontal = scale
    box = (x1 * horizontal, y1 * vertical, x2 * horizontal, y2 * vertical)
    area = None if obj.area is None else obj.area * vertical * horizontal
    return replace(obj, box=box, area=area)


def _usable(image: Path, header: Header) -> tuple[int, int]:
    """The size in a header; raises `Fault` for one that says why there is none."""
    if isinstance(header, str):
        raise Fault.of("unreadable_image", image, header, image=image)
    return header


# ---------------------------------------------------------------------------------- the interface


def _root_contents(source: Any, images: Sequence[RawImage]) -> Contents:
    """For formats without a class list whose names are relative to the root."""
    return Contents(source.root)


@dataclass(frozen=True, kw_only=True)
class Format(Generic[S]):
    """One data format; ``name`` is its key in `formats.FORMATS` and ``format`` in a config.

    ``splits(root)`` returns the sources in a folder by split, training first. A source that holds
    both parts is read as the part ``val`` for the split of that name, else as ``train``.
    ``inspect`` returns faults of the data as findings; it is None if the images are not files
    (shards). ``inspect_folder`` returns findings about several sources of a data set together.
    ``divide(source, parts, folder)`` returns the files {path: text} that define new splits, for
    parts {name: image ids}.
    """

    name: str
    source: type[S]
    carries: Carries
    #: What `recognise` looks for, in words; "" if folders are not recognised.
    layout: str = ""
    #: Why a folder is taken for this format, in words; "" if it is not.
    recognise: Callable[[Path], str] = lambda root: ""
    #: Whether a file holds the annotations of many images in this format.
    recognise_file: Callable[[Path], bool] = lambda path: False
    splits: Callable[[Path], Mapping[str, S]] = lambda root: {}
    inspect: Callable[[S, Reading], Inspected] | None = None
    inspect_folder: Callable[[Sequence[S]], list[Finding]] = lambda sources: []
    #: The files and folders that hold everything that is read; None: it is not known, and records
    #: are not cached.
    places: Callable[[S], tuple[Path, ...] | None] = lambda source: None
    #: ``named(root, split, annotations)``: a source from options; None: ``source(root, split)``.
    named: Callable[[Path, str | None, Path | None], S] | None = None
    contents: Callable[[S, Sequence[RawImage]], Contents] = _root_contents
    #: The class list of a source in its order, None if the format or the data have none.
    classes: Callable[[S], tuple[str, ...] | None] = lambda source: None
    #: Of formats that carry both: whether the boxes of this source are there.
    boxed: Callable[[S], bool] = lambda source: True
    writer: Writer | None = None
    divide: Callable[[S, Mapping[str, Sequence[str]], Path | None], dict[Path, str]] | None = None

    def has(self, carries: Carries | None) -> bool:
        """Whether its sources are of use where ``carries`` is needed; None: anywhere. Classifiers
        take those with boxes, too."""
        return carries in (None, self.carries) or (carries, self.carries) == ("class", "both")
