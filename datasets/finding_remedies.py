"""What settles each kind of finding: a setting, a command, or what to mend in the files.

The report of ``check-data`` shows the sentence beside the findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .finding_kinds import settings_of
from .findings import Finding

_DROP = "data.on_bad_box=drop leaves the box out, counted"
_SKIP = "data.on_bad_image=skip leaves the image out, counted"
_FILE = "mend the file, or export it again"
_LISTED = "correct the list, or make new ones: resdet split"
_NAMES = "data.classes is the list of the names that count, data.ignore_classes of those left out"
_COPIES = "remove one of the two"
_PARTS = "resdet split --group-near divides again and keeps copies in one part"
_NOTHING = "nothing to do"

#: {kind: what settles it}, for every kind in `KINDS`.
REMEDIES: Mapping[str, str] = {
    # Files and lists.
    "missing_folder": "add the folder, or name the layout: --format",
    "unreadable_folder": f"chmod -R u+rX FOLDER, by its owner, or run as its owner; {_SKIP}",
    "missing_file": "add the file, or name the layout: --format",
    "missing_image_set": "resdet split makes the lists; split: null of the source takes all images",
    "unreadable_image_set": "save the list as UTF-8 text, one image a line",
    "empty_image_set": _LISTED,
    "no_images": "put the images there, or correct the path of the source",
    "malformed_file": _FILE,
    "malformed_xml": _FILE,
    "malformed_json": _FILE,
    "missing_key": _FILE,
    "reader_crashed": _FILE,
    "missing_image": f"put the image there; {_SKIP}",
    "ambiguous_image": "rename one of the images",
    "resolved_name": _NOTHING,
    "image_outside": "data.allow_outside=true reads the image; or name a folder above as root",
    "missing_annotation": "add the annotation, or take the image off the list",
    "bad_image": _FILE,
    "image_id_twice": "give one of the images another id or name",
    "listed_twice": "take one of the two entries off the list, or one of the two annotations away",
    "listed_in_two_splits": f"take the image off one of the lists; {_PARTS}",
    "unlabelled_image": "add label files; empty ones say that there is no object",
    "missing_split": "correct the paths in the YAML file, or add the folders",
    "orphan_annotation": "add its image, or delete the annotation",
    "orphan_image": "annotate the image, or delete it",
    "unlisted_image": "to use the images, add them to a list: resdet split",
    "other_filename": f"if the image is the wrong one, rename it; else {_NOTHING}",
    "stray_file": _NOTHING,
    "image_without_class": "move the image into the folder of its class",
    "missing_solution": "add the row, or take the image off the list",
    "unlisted_solution": _NOTHING,
    "solution_mismatch": "take both files from the same release",
    # Sizes.
    "size_mismatch": (
        f"data.on_size_mismatch=scale scales the boxes, if the shape is the stated one; {_SKIP}"
    ),
    "size_matches_unrotated": f"data.exif=ignore, if the boxes were drawn before rotation; {_SKIP}",
    "unstated_size": _NOTHING,
    # Classes.
    "given_names": f"see that the names are in the order of the numbers; then {_NOTHING}",
    "no_class_label": _NOTHING,
    "image_labels": "annotate objects; for a classifier, sort the images into folders of classes",
    "unknown_class": _NAMES,
    "misspelt_class": f"correct the name in the annotation; {_NAMES}",
    "similar_classes": f"if they are one class, give both one name in the annotations; {_NAMES}",
    "absent_class": "annotate objects of it for training, or leave it out of data.classes",
    "permuted_classes": "see that the boxes have the right names; then " + _NOTHING,
    "bad_category": _FILE,
    "group_category": _NOTHING,
    "category_id_twice": "give one of the categories another id",
    "category_name_twice": "give one of the categories another name",
    "unknown_category": "add the category with its name; resdet check-data --classes names numbers",
    "no_classes": "make a folder for each class, or name the layout: --format",
    "empty_class": "put images of the class there, or delete the folder",
    "nested_classes": (
        "see that the classes are right; train and val of the source name the folder above them"
    ),
    "class_not_in_train": f"put images of it into the training split; {_NAMES}",
    "class_missing_in_split": "resdet split divides each class over all parts",
    "several_classes": "leave one class in the image; detectors take several",
    "other_class": "correct the class of the object, or move the image",
    # Objects.
    "no_objects": "annotate objects, or name the right annotations: --annotations",
    "no_objects_in_image": f"annotate the object; without one, {_NOTHING}",
    "several_objects": _NOTHING,
    "image_without_box": f"annotate the object; {_SKIP}",
    "unnamed_object": "name the object in the annotation",
    "missing_box": "draw the box, or delete the object",
    "several_boxes": "leave one box in the object",
    "not_a_number": "correct the value in the annotation",
    "not_a_fraction": "divide pixels by the sides of the image, as YOLO files have them",
    "unclear_difficult": "write 0 or 1",
    "malformed_object": "correct the object in the annotation",
    "bad_area": f"correct it; without, the area of the box counts: {_NOTHING}",
    "outline": _NOTHING,
    "unknown_image": "add the image to `images`, or delete the object",
    "annotation_id_zero": f"for pycocotools, number from 1; else {_NOTHING}",
    "annotation_id_twice": f"for pycocotools, number them again; else {_NOTHING}",
    "missing_iscrowd": _NOTHING,
    "box_from_mask": _NOTHING,
    "unusual_value": f"see that the values mean what is said; then {_NOTHING}",
    "duplicate_object": "delete one of the two objects",
    # Boxes.
    "non_finite_box": f"draw the box again; {_DROP}",
    "no_area": f"draw the box again; {_DROP}",
    "swapped_corners": f"data.on_bad_box=fix swaps the corners; {_DROP}",
    "outside_image": f"draw the box again; {_DROP}",
    "partly_outside": f"data.on_bad_box=clip clips the box; {_DROP}",
    "rounded_box": _NOTHING,
    "tiny_box": "look at it: delete the object if it was a click",
    "zero_based_coordinates": "coordinates: zero_based of the source, if it is so in all files",
    "one_based_coordinates": "coordinates: one_based of the source, if it is so in all files",
    "anchors_do_not_fit": "rpn.anchor_sizes=[...] with the sizes named there, or larger images",
    # Images.
    "unreadable_image": f"replace the file; {_SKIP}",
    "undecodable_image": f"replace the file; {_SKIP}",
    "decoder_crashed": "replace the file, or take it off the list",
    "truncated_image": f"replace the file; data.on_truncated=warn uses what is there; {_SKIP}",
    "oversized_image": f"scale the image down; a larger data.max_pixels takes it; {_SKIP}",
    "tiny_image": f"a smaller data.min_side takes it; {_SKIP}",
    "elongated_image": f"a larger data.max_aspect takes it; {_SKIP}",
    "no_end_marker": _NOTHING,
    "damaged_image": f"replace the file; data.on_truncated=warn uses what is there; {_SKIP}",
    "rotated_image": "data.exif=ignore, if the boxes were drawn before rotation; else " + _NOTHING,
    "odd_orientation": _NOTHING,
    "animated_image": "save the frames as images of their own, if the others count too",
    "unusual_mode": "look at it: if it is nearly black, scale 16-bit values to 8 bits",
    "wrong_extension": f"rename the file for other tools; here {_NOTHING}",
    # Copies.
    "same_image": _COPIES,
    "label_conflict": f"{_COPIES}: an image has one class",
    "same_image_in_splits": f"{_COPIES}; {_PARTS}",
    "similar_image": f"look at both: {_COPIES} if they are one",
    "similar_image_in_splits": f"look at both: {_COPIES} if they are one; {_PARTS}",
}


def remedy(kind: str) -> str:
    """What settles the kind; "" for an unknown kind."""
    return REMEDIES.get(kind, "")


def settings_for(findings: Iterable[Finding]) -> list[str] | None:
    """The settings that settle all errors among the findings; None if they do not settle all."""
    errors = {finding.kind for finding in findings if finding.severity == "error"}
    settings = settings_of(errors)
    return list(settings) if errors <= set().union(*settings.values()) else None
