"""Which kinds of faults are there, how grave is each, and what does it mean?

`docs/data.md` has this table for users and the report's page its sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..detection.errors import DataError
from .records import RawBox, first_few

#: ``error``: training refuses. ``warning``: it goes on, results may suffer. ``note``: to know.
Severity = Literal["error", "warning", "note"]

#: {kind: (the severities it can have, the usual one first; what it means)}. Faults of boxes are
#: warnings where ``data.on_bad_box`` takes care of them.
KINDS: Mapping[str, tuple[tuple[Severity, ...], str]] = {
    # Files and lists.
    "missing_folder": (("error",), "a folder of the layout is not there"),
    "missing_file": (("error",), "a file of the layout is not there"),
    "missing_image_set": (("error",), "the list of a split is not there"),
    "unreadable_image_set": (("error",), "the list of a split cannot be read as UTF-8 text"),
    "empty_image_set": (("error",), "the list of a split has no lines"),
    "malformed_file": (("error",), "a line of a list, of the mapping or of the solution is wrong"),
    "malformed_xml": (("error",), "not XML, too large, with entities, or no `<annotation>`"),
    "malformed_json": (("error",), "not JSON, or no object; with line and column"),
    "missing_key": (("error",), "a JSON without `images`, `annotations` or `categories`"),
    "reader_crashed": (("error",), "the process that read an annotation died of it"),
    "missing_image": (("error",), "listed or annotated, but there is no such image"),
    "ambiguous_image": (("error",), "several images of one name, such as `a.jpg` and `a.png`"),
    "missing_annotation": (("error",), "listed, but there is no annotation"),
    "bad_image": (("error",), "an entry of `images` without id, file name or a sensible size"),
    "image_id_twice": (("error",), "two images have one id"),
    "listed_twice": (
        ("error", "warning"),
        "one image stands in a list twice; in a COCO file, under two ids, it counts twice",
    ),
    "listed_in_two_splits": (("warning",), "one image stands in two splits"),
    "orphan_annotation": (("warning",), "an annotation without an image, listed nowhere"),
    "orphan_image": (("warning",), "an image without annotation, listed nowhere"),
    "unlisted_image": (
        ("note", "warning"),
        "images that no list or JSON names are not used; a warning in CLS-LOC",
    ),
    "other_filename": (("warning",), "`<filename>` names another image; the XML's name decides"),
    "stray_file": (("note",), "a file that is no image, or a folder that is no split"),
    "image_without_class": (("warning",), "an image beside the class folders is not used"),
    "missing_solution": (("error",), "`LOC_val_solution.csv` has no row for a listed image"),
    "unlisted_solution": (("warning",), "rows of `LOC_val_solution.csv` without a listed image"),
    "solution_mismatch": (("warning",), "`LOC_val_solution.csv` has other boxes than the XML"),
    # Sizes.
    "size_mismatch": (("error",), "the annotation says another size than the image has"),
    "size_matches_unrotated": (
        ("error",),
        "the sizes agree only before (or after) EXIF rotation, so the boxes lie wrong: set "
        "`data.exif`",
    ),
    # Classes.
    "unknown_class": (("error",), "a name that is not in the class list"),
    "misspelt_class": (("error",), "a name that is not in the class list, but nearly"),
    "similar_classes": (
        ("warning",),
        "two names that differ only in letter case, spaces or punctuation; only told where no "
        "class list is given",
    ),
    "absent_class": (("warning",), "a class without an object in training"),
    "permuted_classes": (("warning",), "a category id is another class in another COCO file"),
    "bad_category": (("error",), "an entry of `categories` without id or name"),
    "category_id_twice": (("error",), "two categories have one id"),
    "category_name_twice": (("error",), "one name has two category ids"),
    "unknown_category": (("error",), "a `category_id` that is not in `categories`"),
    "no_classes": (("error",), "no class folders"),
    "empty_class": (("error",), "a class folder without images"),
    "class_not_in_train": (("error",), "a class that only another split has"),
    "class_missing_in_split": (("warning",), "a split lacks classes that training has"),
    "several_classes": (("error",), "objects of several classes, where an image has one"),
    "other_class": (("error",), "the object's class is not the image's"),
    # Objects.
    "no_objects": (("error",), "the whole data set has no object"),
    "no_objects_in_image": (("warning",), "an annotation without an object that can be used"),
    "several_objects": (("note",), "several objects, where nearly all images have one"),
    "image_without_box": (
        ("error", "warning"),
        "no box to learn from, or to be measured by; a warning where such training images are "
        "left out",
    ),
    "unnamed_object": (("error",), "an object without a class name"),
    "missing_box": (("error",), "an object without `<bndbox>`"),
    "several_boxes": (("error",), "an object with several `<bndbox>`"),
    "not_a_number": (("error",), "a coordinate or size that is no number"),
    "unclear_difficult": (("warning",), "`<difficult>` is neither number nor empty: taken as no"),
    "malformed_object": (("error",), "a `bbox` that is not four numbers, or a strange `iscrowd`"),
    "unknown_image": (("error",), "an `image_id` that is not in `images`"),
    "annotation_id_zero": (("note",), "pycocotools never matches annotation 0; resdet does"),
    "annotation_id_twice": (("note",), "pycocotools mixes such annotations up; resdet does not"),
    "missing_iscrowd": (("note",), "annotations without `iscrowd`: taken as no crowds"),
    "duplicate_object": (("warning",), "class and box of an earlier object of the image"),
    # Boxes.
    "non_finite_box": (("error", "warning"), "NaN, infinite, null or empty coordinates"),
    "no_area": (("error", "warning"), "no width or no height"),
    "swapped_corners": (("error", "warning"), "right of left, or below above"),
    "outside_image": (("error", "warning"), "entirely outside the image"),
    "partly_outside": (
        ("error", "warning"),
        "less than half inside the image; a warning where half or more is, which is clipped "
        "to the image",
    ),
    "tiny_box": (("warning",), "a side of one pixel or less: a click rather than an object?"),
    "zero_based_coordinates": (("warning",), "read as counted from 1, but some coordinates are 0"),
    "one_based_coordinates": (("warning",), "read as counted from 0, but none is 0 and some are 1"),
    "anchors_do_not_fit": (
        ("warning",),
        "more than a tenth of the objects overlap no anchor by half at the training scale",
    ),
    # Images.
    "unreadable_image": (("error",), "a file whose header or bytes cannot be read"),
    "undecodable_image": (("error",), "not an image, of a refused format, or damaged"),
    "decoder_crashed": (("error",), "the process that decoded an image died of it"),
    "truncated_image": (
        ("error", "warning"),
        "the file ends early; a warning where `data.on_truncated` is `skip` or `warn`",
    ),
    "oversized_image": (("error",), "more pixels than `data.max_pixels`, by its header"),
    "tiny_image": (("error",), "a side of less than 16 pixels"),
    "elongated_image": (("error",), "one side is more than 100 times the other"),
    "no_end_marker": (("warning",), "a JPEG without its last bytes; the pixels are complete"),
    "damaged_image": (("warning",), "a JPEG whose decoder met damage: parts may be wrong"),
    "rotated_image": (("note",), "EXIF says it is turned"),
    "animated_image": (("warning",), "several frames or pages; only the first is read"),
    "unusual_mode": (
        ("note", "warning"),
        "grey, palette, CMYK, transparent or 16-bit; a warning for 16 bits nearly black",
    ),
    "wrong_extension": (("note",), "named like another format; contents decide"),
    # Copies.
    "same_image": (("warning",), "the bytes of another image of the split"),
    "same_image_in_splits": (("warning",), "the bytes of an image of an earlier split"),
    "similar_image": (("warning",), "nearly the pixels of another image of the split"),
    "similar_image_in_splits": (("warning",), "nearly the pixels of one of an earlier split"),
}


def meaning(kind: str) -> str:
    """What a kind means; "" for one that is not in the table."""
    return KINDS[kind][1] if kind in KINDS else ""


#: What was done to a bad box; "" where nothing was.
Outcome = Literal["", "dropped", "clipped", "fixed"]

#: Faults of a box that ``on_bad_box`` decides about.
BOX_KINDS = frozenset(
    {"non_finite_box", "no_area", "swapped_corners", "outside_image", "partly_outside"}
)


@dataclass(frozen=True)
class Finding:
    """One fault of one object or file; as text it is one line: file, object, reason.

    ``kind`` is one of `finding_kinds.KINDS`. ``file`` is where to mend it (annotation file or
    image), ``image`` what to look at.
    """

    kind: str
    severity: Severity
    file: Path
    reason: str
    object: str = ""
    image: Path | None = None
    #: As annotated, in displayed pixels of ``image``.
    box: RawBox | None = None
    outcome: Outcome = ""

    def __str__(self) -> str:
        parts = (str(self.file), self.object, self.reason, self.outcome)
        return _one_line(": ".join(part for part in parts if part))


def _one_line(text: str) -> str:
    """Names and ids come from files: what would break the line, or the terminal, is spelt out."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class Fault(DataError):
    """An error that ends the reading of one object or file; whoever reads many goes on."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding)
        self.finding = finding

    @classmethod
    def of(
        cls, kind: str, file: Path, reason: str, *, object: str = "", image: Path | None = None
    ) -> Fault:
        return cls(Finding(kind, "error", file, reason, object, image))


def count_kinds(findings: Iterable[Finding]) -> str:
    """``missing_image 2, no_area 1``: the most frequent kind first."""
    kinds = Counter(finding.kind for finding in findings)
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())


def refuse(findings: Iterable[Finding], what: str) -> None:
    """Raise `DataError` if there are errors among the findings: their counts, and the first few."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    lines = [str(error) for error in errors]
    boxes = any(error.kind in BOX_KINDS for error in errors)
    raise DataError(
        f"{what}: {len(errors)} error{'s' * (len(errors) > 1)} ({count_kinds(errors)}): "
        + first_few(lines)
        + ("; data.on_bad_box=drop would leave such boxes out" if boxes else "")
        + ("; `resdet check-data` lists all" if len(lines) > 5 else "")
    )
