"""All kinds of findings, with severity and meaning, and the settings that resolve them.

`docs/findings.md` contains the same table, and the HTML report shows its sentences.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, get_args

#: ``error``: training stops. ``warning``: it continues, results may suffer. ``note``: information.
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

#: An error that a setting can resolve.
_RESOLVED: tuple[Severity, ...] = ("error", "warning")
#: {kind: (possible severities, the usual one first; meaning)}. Faults of boxes and images are
#: warnings if ``data.on_bad_box`` or ``data.on_bad_image`` resolves them.
KINDS: Mapping[str, tuple[tuple[Severity, ...], str]] = {
    # Files and lists.
    "missing_folder": (("error",), "a folder of the layout is missing"),
    "unreadable_folder": (_RESOLVED, "a folder that this user may not read"),
    "missing_file": (("error",), "a file of the layout is missing"),
    "missing_image_set": (("error",), "the list of a split is missing"),
    "unreadable_image_set": (("error",), "the list of a split is not readable UTF-8 text"),
    "empty_image_set": (("error",), "the list of a split is empty"),
    "no_images": (("error",), "the folder of a split has no images"),
    "malformed_file": (
        ("error",),
        "an unreadable file or invalid line: a list, the class mapping, the solution, a label file",
    ),
    "malformed_xml": (("error",), "not XML, too large, with entities, or without `<annotation>`"),
    "malformed_json": (("error",), "not JSON, or not a JSON object; with line and column"),
    "missing_key": (("error",), "a JSON file without `images`, `annotations` or `categories`"),
    "reader_crashed": (("error",), "reading an annotation crashed the process"),
    "missing_image": (
        _RESOLVED,
        "the image file of a list entry or annotation is missing",
    ),
    "ambiguous_image": (("error",), "several images of the same name, such as `a.jpg`, `a.png`"),
    "resolved_name": (
        ("note",),
        "names of images that are not their paths, but fit one file alone; that file is used",
    ),
    "image_outside": (
        ("error", "warning", "note"),
        "images outside of the source's folder, which are read only under `data.allow_outside`",
    ),
    "missing_annotation": (("error",), "the annotation of a list entry is missing"),
    "bad_image": (("error",), "an image without id, file name or a valid size"),
    "image_id_twice": (("error",), "two images have the same id"),
    "listed_twice": (
        _RESOLVED,
        "an image is listed twice, or has two annotations; in a COCO file, under two ids, it "
        "counts twice",
    ),
    "listed_in_two_splits": (("warning",), "an image is listed in two splits"),
    "unlabelled_image": (("warning",), "YOLO images without a label file; read as without objects"),
    "missing_split": (("warning",), "splits of a YAML file that are not in the folder"),
    "orphan_annotation": (
        ("warning",),
        "an annotation without an image, in no list",
    ),
    "orphan_image": (("warning",), "an image without an annotation, in no list"),
    "unlisted_image": (
        ("note", "warning"),
        "images in no list or JSON file are not used; a warning in ILSVRC",
    ),
    "other_filename": (("warning",), "`<filename>` names another image; the XML's name is used"),
    "stray_file": (("note",), "a file that is not an image, or a folder that is not a split"),
    "image_without_class": (("warning",), "an image outside the class folders is not used"),
    "missing_solution": (("error",), "`LOC_val_solution.csv` has no row for a listed image"),
    "unlisted_solution": (("warning",), "rows of `LOC_val_solution.csv` for images in no list"),
    "solution_mismatch": (("warning",), "the boxes in `LOC_val_solution.csv` differ from the XML"),
    # Sizes.
    "size_mismatch": (
        _RESOLVED,
        "the stated size is not that of the image; a warning if its boxes are scaled",
    ),
    "size_matches_unrotated": (
        _RESOLVED,
        "the sizes agree only before (or after) EXIF rotation, so the boxes are misplaced: set "
        "`data.exif`",
    ),
    "unstated_size": (("note",), "images of the size 0x0, for which that of the file is used"),
    # Classes.
    "given_names": (
        ("note",),
        "a YOLO folder without a file of names: the numbers mean the given classes",
    ),
    "no_class_label": (
        ("note",),
        "shapes of labelme named `__ignore__` or `_background_`, which are of no class; left out",
    ),
    "image_labels": (
        ("warning",),
        "images of labelme with flags, labels of the whole image, and no shapes; not used",
    ),
    "unknown_class": (("error",), "a class name that is not in the class list"),
    "misspelt_class": (
        ("error",),
        "a class name that is nearly one in the class list, unless the data list both",
    ),
    "similar_classes": (
        ("warning",),
        "two class names that differ only in letter case, spaces or punctuation, or a name of at "
        "most 3 objects and at least 5 letters, without digits, that is one slip (a letter "
        "missing, added, replaced or moved) away from one of at least 10 times as many objects; "
        "reported only without a class list",
    ),
    "absent_class": (("warning",), "a class without an object to learn in the training split"),
    "permuted_classes": (("warning",), "a category id means different classes in two COCO files"),
    "bad_category": (("error",), "an entry of `categories` without id or name"),
    "group_category": (
        ("note",),
        "a category without objects that is the supercategory of all others: it is no class",
    ),
    "category_id_twice": (("error",), "two categories have the same id"),
    "category_name_twice": (("error",), "two categories have the same name"),
    "unknown_category": (
        ("error",),
        "a `category_id` that is not in `categories`, or a class number without a name",
    ),
    "no_classes": (("error",), "there are no class folders"),
    "empty_class": (("error",), "a class folder without images"),
    "nested_classes": (
        ("warning", "note"),
        "class folders with several folders of images in them, or what may be the only one; a note "
        "where it is rarely a class",
    ),
    "class_not_in_train": (("error",), "a class that occurs only outside the training split"),
    "class_missing_in_split": (("warning",), "a split lacks classes of the training split"),
    "several_classes": (("error",), "objects of several classes, expected one class per image"),
    "other_class": (("error",), "the class of an object differs from the class of its image"),
    # Objects.
    "no_objects": (("error",), "the data set has no objects"),
    "no_objects_in_image": (("warning",), "an annotation without a usable object"),
    "several_objects": (("note",), "several objects, while nearly all images have one"),
    "image_without_box": (
        _RESOLVED,
        "an image without a box for training or evaluation; a warning if such training images "
        "are skipped",
    ),
    "unnamed_object": (("error",), "an object without a class name"),
    "missing_box": (("error",), "an object without `<bndbox>`"),
    "several_boxes": (("error",), "an object with several `<bndbox>`"),
    "not_a_number": (("error",), "a coordinate, size or class number that is not a number"),
    "not_a_fraction": (("error",), "a YOLO coordinate outside 0..1, probably in pixels"),
    "unclear_difficult": (("warning",), "`<difficult>` is neither a number nor empty; read as no"),
    "malformed_object": (
        ("error",),
        "a `bbox` that is not four numbers, an invalid `iscrowd`, or a label line without five "
        "columns",
    ),
    "bad_area": (("warning",), "an `area` that is not a number of square pixels"),
    "outline": (
        ("note",),
        "polygons, circles and rotated boxes, of which the boxes around them are used",
    ),
    "unknown_image": (("error",), "an `image_id` that is not in `images`"),
    "annotation_id_zero": (("note",), "pycocotools never matches annotation id 0; resdet does"),
    "annotation_id_twice": (("note",), "pycocotools confuses equal annotation ids, resdet not"),
    "missing_iscrowd": (("note",), "annotations without `iscrowd`; read as no crowd"),
    "box_from_mask": (
        ("note",),
        "COCO objects without `bbox`; the box of their mask is used",
    ),
    "unusual_value": (
        ("note",),
        "numbers as text, Booleans, with decimals or a decimal comma, names that are numbers, "
        "where the meaning is certain",
    ),
    "duplicate_object": (("warning",), "the class and box of an earlier object of the image"),
    # Boxes.
    "non_finite_box": (_RESOLVED, "NaN, infinite, null or empty coordinates"),
    "no_area": (_RESOLVED, "a box without width or height"),
    "swapped_corners": (
        _RESOLVED,
        "right edge left of the left edge, or bottom above top",
    ),
    "outside_image": (_RESOLVED, "a box entirely outside the image"),
    "partly_outside": (
        _RESOLVED,
        "a box with less than half of its area inside the image; a warning for half or more, "
        "which is clipped",
    ),
    "rounded_box": (
        ("note",),
        "boxes that leave the image by less than a pixel, or 0.1 % of its side; clipped",
    ),
    "tiny_box": (("warning",), "a box side of one pixel or less, possibly a stray click"),
    "zero_based_coordinates": (("warning",), "read as 1-based, but some coordinates are 0"),
    "one_based_coordinates": (("warning",), "read as 0-based, but none is 0 and some are 1"),
    "anchors_do_not_fit": (
        ("warning",),
        "other anchor sizes would give more than 10 % of the objects an anchor with an IoU of 0.5, "
        "or more than half have none",
    ),
    # Images.
    "unreadable_image": (
        _RESOLVED,
        "an image file whose header or content cannot be read",
    ),
    "undecodable_image": (_RESOLVED, "not an image, an unsupported format, or damaged"),
    "decoder_crashed": (("error",), "decoding an image crashed the process"),
    "truncated_image": (
        _RESOLVED,
        "a truncated file; also a warning if `data.on_truncated` is `skip` or `warn`",
    ),
    "oversized_image": (
        _RESOLVED,
        "more pixels than `data.max_pixels`, according to the header",
    ),
    "tiny_image": (_RESOLVED, "an image with a side below `data.min_side`"),
    "elongated_image": (
        _RESOLVED,
        "an image with an aspect ratio above `data.max_aspect`",
    ),
    "no_end_marker": (("warning",), "a JPEG without its end marker; the pixels are complete"),
    "damaged_image": (
        _RESOLVED,
        "an image that the decoder calls corrupt; a JPEG follows `data.on_truncated`",
    ),
    "rotated_image": (("note",), "the EXIF orientation rotates the image"),
    "odd_orientation": (
        ("note",),
        "an EXIF orientation that is none of 1 to 8, or cannot be read; it is ignored",
    ),
    "animated_image": (("warning",), "several frames or pages; only the first is read"),
    "unusual_mode": (
        ("note", "warning"),
        "grey, palette, CMYK, transparent or 16-bit; a warning for nearly black 16-bit images",
    ),
    "wrong_extension": (("note",), "the extension does not match the format; the content is used"),
    # Copies.
    "same_image": (("warning",), "the same bytes as another image of the split"),
    "label_conflict": (("warning",), "the same bytes as an image of another class"),
    "same_image_in_splits": (("warning",), "the same bytes as an image of an earlier split"),
    "similar_image": (("warning",), "nearly the same pixels as another image of the split"),
    "similar_image_in_splits": (("warning",), "nearly the same pixels as one of an earlier split"),
}

#: Faults of boxes that ``on_bad_box`` can resolve.
BOX_KINDS = frozenset(
    {"non_finite_box", "no_area", "swapped_corners", "outside_image", "partly_outside"}
)
#: Faults of images that ``on_bad_image`` can resolve.
IMAGE_KINDS = frozenset(
    {"missing_image", "image_outside"}
    | {"unreadable_folder", "unreadable_image", "undecodable_image", "truncated_image"}
    | {"tiny_image", "elongated_image", "oversized_image"}
    | {"size_mismatch", "size_matches_unrotated"}
)
#: {setting: the faults that it resolves}; of two that resolve one, the first is proposed.
RESOLVED_BY = {
    "data.on_bad_box=drop": BOX_KINDS,
    "data.allow_outside=true": frozenset({"image_outside"}),
    "data.on_bad_image=skip": IMAGE_KINDS,
}
#: {setting: what it does to them}.
EFFECTS = {
    "data.on_bad_box=drop": "leaves such boxes out",
    "data.allow_outside=true": "reads such images",
    "data.on_bad_image=skip": "leaves such images out",
}


def meaning(kind: str) -> str:
    """Meaning of a kind; "" for an unknown kind."""
    return KINDS[kind][1] if kind in KINDS else ""


def settings_of(kinds: Collection[str]) -> dict[str, set[str]]:
    """{setting: those of the ``kinds`` that it resolves}, each kind once."""
    left, settings = set(kinds), {}
    for setting, resolved in RESOLVED_BY.items():
        if found := left & resolved:
            settings[setting] = found
            left -= found
    return settings


def as_option(setting: str) -> str:
    """``--on-bad-box drop`` for ``data.on_bad_box=drop``."""
    name, value = setting.removeprefix("data.").split("=")
    return f"--{name.replace('_', '-')}" + f" {value}" * (value != "true")
