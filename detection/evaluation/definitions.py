"""Definitions of the measures of detections, as printed and written beside the numbers."""

from __future__ import annotations

from collections.abc import Mapping

_TEXTS: Mapping[str, str] = {
    "voc_ap50": "VOC AP at IoU >= 0.5, area under the curve (VOC 2010 and later), difficult "
    "objects ignored; mean over classes with objects",
    "voc_ap50_11point": "VOC AP at IoU >= 0.5, mean precision at the 11 recalls 0, 0.1 .. 1, exact "
    "(VOC 2007; a note says where the kit's floating point gives another number), difficult "
    "objects ignored; mean over classes with objects",
    "ilsvrc_ap": "ILSVRC DET AP, area under the curve, at IoU >= 0.5, of objects of w x h px >= "
    "w h / ((w + 10) (h + 10)) if that is less; mean over classes with objects",
    "coco_ap": "COCO AP, mean over IoU 0.50:0.05:0.95, 101 recalls, 100 detections per image and "
    "class",
    "coco_ap50": "COCO AP at IoU 0.50",
    "coco_ap75": "COCO AP at IoU 0.75",
    "coco_ap_small": "COCO AP of objects with an area up to {small} px (the "
    "annotation's `area`, a mask's in COCO; the box's where there is none)",
    "coco_ap_medium": "COCO AP of objects with an area from {small} to {large} px",
    "coco_ap_large": "COCO AP of objects with an area from {large} px",
    "coco_ar1": "COCO recall, mean over IoU 0.50:0.05:0.95, 1 detection per image and class",
    "coco_ar10": "COCO recall with 10 detections per image and class",
    "coco_ar100": "COCO recall with 100 detections per image and class",
    "coco_ar_small": "COCO recall, 100 detections, area up to {small} px",
    "coco_ar_medium": "COCO recall, 100 detections, area from {small} to {large} px",
    "coco_ar_large": "COCO recall, 100 detections, area from {large} px",
}

#: Sides in px of the squares whose areas part small, medium and large objects in COCO.
COCO_SIZES = (32.0, 96.0)


def definitions(sizes: tuple[float, float] = COCO_SIZES) -> dict[str, str]:
    """The definition of each metric; two numbers are comparable only if these lines agree."""
    small, large = (f"{side:g} x {side:g}" for side in sizes)
    return {name: text.format(small=small, large=large) for name, text in _TEXTS.items()}


DEFINITIONS: Mapping[str, str] = definitions()

CLASS_DEFINITIONS: Mapping[str, str] = {
    "objects": "objects to be found",
    "ignored": "difficult or crowd objects, neither right nor wrong",
    "detections": "detections of any score",
    "threshold": "the score threshold with the largest F1 at IoU >= 0.5",
    "precision": "fraction of the detections at that threshold or above that are right",
    "recall": "fraction of the objects found at that threshold",
    "f1": "harmonic mean of that precision and recall",
    "voc_ap50_11point_recalls": "voc_ap50_11point with the recalls as the kit computes them "
    "(matlab: 0:0.1:1, whose fourth is above 3/10) and as its ports do (python: numpy.arange, also "
    "above 6/10 and 7/10)",
}
