"""The layouts of weights files: each system's names of a network's tensors, and its conventions.

Conventions are properties that no tensor shows: pixel normalization, max-pool, position of the
background row, order of anchors, settings of testing. Layouts are recognised by tensor names, not
by file names, which are ambiguous (detectron2 #4108).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from ...detection.errors import WeightsError

Kind = Literal["classifier", "detector"]

#: A pattern in a name and its replacement, as `re.sub` takes them; applied one after another.
Renames = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
#: (pattern of whole names, reason).
Reasons = tuple[tuple[str, str], ...]
#: (setting of our config, value).
Settings = tuple[tuple[str, int | float | str], ...]

_PIXELS = ((r"pixels?[._](?:mean|std|channels)", "read to name the pixels"),)
_COUNTERS = ((r".*\.num_batches_tracked", "a counter that frozen statistics do not need"),)


@dataclass(frozen=True)
class Layout:
    """One naming scheme; ``marks`` are patterns that must each match a name of the file."""

    title: str
    kind: Kind
    marks: tuple[str, ...]
    #: From its names to ours.
    renames: Renames
    #: Tensors that are left out on purpose.
    ignored: Reasons = _COUNTERS
    #: An entry of PIXELS, where the file has no mean of its own; None where it always does.
    pixels: str | None = None
    #: ``pad1``: 3x3 padded by one; ``ceil``: Caffe's, no padding and the last window cut off.
    max_pool: Literal["pad1", "ceil"] = "pad1"
    #: ``float``: centre of cell k at 16k; ``rounded``: py-faster-rcnn's integers, centre 16k + 7.5.
    anchors: Literal["float", "rounded"] = "float"
    anchor_order: Literal["size_major", "ratio_major"] = "size_major"
    background: Literal["first", "last"] = "last"
    rpn: Literal["sigmoid", "softmax"] = "sigmoid"
    notes: tuple[str, ...] = ()
    #: The settings with which networks of the system are tested.
    testing: Settings = ()
    #: Our own layout: family, norms, shortcuts and stride are those of the config beside it.
    own: bool = False


#: The layers that a detector adds to its backbone.
HEADS = (
    "rpn_head.conv",
    "rpn_head.logits",
    "rpn_head.deltas",
    "roi_head.cls_logits",
    "roi_head.box_deltas",
)
# Our names. Before `rewrites`, folded norms still have a scale and a shift, and conv1 a bias.
_NORM = r"norm\.(?:weight|bias|running_mean|running_var|scale|shift)"
_STEM = rf"stem\.conv1\.(?:weight|bias|{_NORM})"
_BLOCK = rf"\d+\.(?:conv[123]|shortcut)\.(?:weight|{_NORM})"
_OURS = {
    "classifier": rf"{_STEM}|res[2-5]\.{_BLOCK}|fc\.(?:weight|bias)",
    "detector": rf"trunk\.(?:{_STEM}|res[234]\.{_BLOCK})|roi_head\.res5\.{_BLOCK}"
    rf"|(?:{'|'.join(HEADS)})\.(?:weight|bias)",
}
# Our own files may be of any family of backbones, with its stage names.
_OWN = {"classifier": r"(?!pixels\.).+", "detector": r"(?:trunk|rpn_head|roi_head)\..+"}


def _heads(conv: str, logits: str, deltas: str, classes: str, boxes: str) -> Renames:
    """The layers of the RPN and the two sibling layers under another system's names."""
    pairs = zip((conv, logits, deltas, classes, boxes), HEADS, strict=True)
    return tuple((rf"^{re.escape(theirs)}\b", name) for theirs, name in pairs)


_TORCHVISION: Renames = (
    (r"\bbn([123])\.", r"conv\1.norm."),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
    (r"\blayer([1-4])\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"^(trunk\.)?conv1\.", r"\1stem.conv1."),
)
_CAFFE: Renames = (
    (r"^fc1000_", "fc."),
    (r"^conv1_", "stem.conv1."),
    (r"^res_conv1_", "stem.conv1."),
    # res4_11 and Caffe's own res4b11, res4c: the same block.
    (r"^(res\d)(?:_|[a-z])(\d+)_", r"\1.\2."),
    (r"^(res\d)([a-z])_", lambda match: f"{match[1]}.{ord(match[2]) - ord('a')}."),
    (r"\bbranch1_", "shortcut."),
    (r"\bbranch2([abc])_", lambda match: f"conv{'abc'.index(match[1]) + 1}."),
    (r"\bbn_gamma$", "norm.weight"),
    (r"\bbn_beta$", "norm.bias"),
    (r"\bbn_s$", "norm.scale"),
    (r"\bbn_b$", "norm.shift"),
    (r"\bbn_(running_\w+)$", r"norm.\1"),
    (r"\bw$", "weight"),
    (r"\bb$", "bias"),
)

#: detectron2: Base-RCNN-C4.yaml and config/defaults.py; mmdetection: faster-rcnn_r50-caffe-c4.py.
_TESTED_AT_800: Settings = (
    ("image.short_side_test", 800),
    ("image.long_side_max", 1333),
    ("rpn.pre_nms_test", 6000),
    ("rpn.post_nms_test", 1000),
    ("test.score_threshold", 0.05),
    ("test.nms_iou", 0.5),
    ("test.max_detections", 100),
)

#: The middle crop of most ImageNet classifiers.
_CROP_224: Settings = (("test.resize", 256), ("test.size", 224))
#: torchvision's transforms; MSRA does not say how it resized.
_TORCHVISIONS_CROP: Settings = (*_CROP_224, ("test.resampling", "pillow"))

LAYOUTS: dict[str, Layout] = {
    "resdet": Layout(
        title="resdet detector",
        kind="detector",
        marks=(r"trunk\..+", r"pixels\.mean"),
        renames=(),
        ignored=_PIXELS,
        own=True,
    ),
    "resdet_classifier": Layout(
        title="resdet classifier",
        kind="classifier",
        marks=(r"network\..+|stem\.conv1\.weight", r"pixels\.mean"),
        renames=((r"^network\.", ""),),
        ignored=_PIXELS,
        own=True,
    ),
    "torchvision": Layout(
        title="torchvision classifier",
        kind="classifier",
        marks=(r"conv1\.weight", r"layer1\.0\.conv1\.weight"),
        renames=_TORCHVISION,
        pixels="torchvision",
        testing=_TORCHVISIONS_CROP,
    ),
    "detectron2_classifier": Layout(
        title="torchvision classifier in detectron2's names",
        kind="classifier",
        marks=(r"stem\.conv1\.weight", r"res2\.0\.conv1\.weight"),
        renames=((r"^stem\.fc\.", "fc."),),
        pixels="torchvision",
        testing=_TORCHVISIONS_CROP,
    ),
    "msra": Layout(
        title="MSRA classifier, norms as trained (detectron2's R-50.pkl, R-101.pkl)",
        kind="classifier",
        marks=("conv1_w", "res_conv1_bn_gamma"),
        renames=_CAFFE,
        ignored=(),
        pixels="msra",
        testing=_CROP_224,
    ),
    "msra_folded": Layout(
        title="MSRA classifier, norms folded to scale and shift (Detectron's R-50.pkl, R-101.pkl)",
        kind="classifier",
        marks=("conv1_w", "res_conv1_bn_s"),
        renames=_CAFFE,
        ignored=(),
        pixels="caffe",
        testing=_CROP_224,
        notes=("folded norms became mean 0 and variance 1 - eps, which multiply and add the same",),
    ),
    "detectron2": Layout(
        title="detectron2 Faster R-CNN C4",
        kind="detector",
        marks=(
            r"backbone\.res2\.0\.conv1\.weight",
            r"roi_heads\.res5\.0\.conv1\.weight",
            r"proposal_generator\.rpn_head\.objectness_logits\.weight",
        ),
        renames=(
            (r"^backbone\.", "trunk."),
            (r"^roi_heads\.res5\.", "roi_head.res5."),
            *_heads(
                "proposal_generator.rpn_head.conv",
                "proposal_generator.rpn_head.objectness_logits",
                "proposal_generator.rpn_head.anchor_deltas",
                "roi_heads.box_predictor.cls_score",
                "roi_heads.box_predictor.bbox_pred",
            ),
        ),
        ignored=(
            *_COUNTERS,
            *_PIXELS,
            (r"proposal_generator\.anchor_generator\.cell_anchors\.\d+", "made from the config"),
        ),
        pixels="msra",
        testing=_TESTED_AT_800,
    ),
    "mmdetection": Layout(
        title="mmdetection (version 2 and later) Faster R-CNN C4, Caffe style",
        kind="detector",
        marks=(
            r"backbone\.layer1\.0\.conv1\.weight",
            r"rpn_head\.rpn_cls\.weight",
            r"roi_head\.shared_head\.layer4\.0\.conv1\.weight",
        ),
        renames=(
            (r"^backbone\.", "trunk."),
            (r"^roi_head\.shared_head\.", "roi_head."),
            *_heads(
                "rpn_head.rpn_conv",
                "rpn_head.rpn_cls",
                "rpn_head.rpn_reg",
                "roi_head.bbox_head.fc_cls",
                "roi_head.bbox_head.fc_reg",
            ),
            *_TORCHVISION,
        ),
        pixels="msra",
        anchor_order="ratio_major",
        testing=_TESTED_AT_800,
        notes=("mmdetection bounds shrinking as well as growing box deltas; resdet only growing",),
    ),
    "jwyang": Layout(
        title="jwyang/faster-rcnn.pytorch ResNet",
        kind="detector",
        marks=(r"RCNN_base\.4\.0\.conv1\.weight", r"RCNN_rpn\.RPN_cls_score\.weight"),
        renames=(
            (r"^RCNN_base\.0\.", "trunk.conv1."),
            (r"^RCNN_base\.1\.", "trunk.bn1."),
            (r"^RCNN_base\.([456])\.", lambda match: f"trunk.layer{int(match[1]) - 3}."),
            (r"^RCNN_top\.0\.", "roi_head.layer4."),
            *_heads(
                "RCNN_rpn.RPN_Conv",
                "RCNN_rpn.RPN_cls_score",
                "RCNN_rpn.RPN_bbox_pred",
                "RCNN_cls_score",
                "RCNN_bbox_pred",
            ),
            *_TORCHVISION,
        ),
        pixels="caffe",
        max_pool="ceil",
        anchors="rounded",
        anchor_order="ratio_major",
        background="first",
        rpn="softmax",
        notes=(
            "trained with rounded anchors centred at 16k + 7.5 and boxes that include their last"
            " pixel",
            "trained with 7x7 RoI maps that are the 2x2 means of 8x8 aligned samples",
        ),
    ),
}

#: Recognised files that cannot be converted.
OUT_OF_SCOPE: Reasons = (
    (r"backbone\.body\..+", "torchvision detection models have a feature pyramid, not C4"),
    (r"backbone\.bottom_up\..+", "a detectron2 feature pyramid, not C4"),
    (r"neck\..+", "an mmdetection feature pyramid, not C4"),
    (
        r"(?:shared_head\.layer4|bbox_head\.fc_cls)\..+",
        "mmdetection version 1, whose anchors and boxes count pixels in another way",
    ),
)


def recognise(names: Iterable[str]) -> str:
    """The layout that the names of a file's tensors belong to, a key of ``LAYOUTS``.

    Raises:
        WeightsError: unknown layout, with the first names and the known layouts.
    """
    present = list(names)
    for name, layout in LAYOUTS.items():
        if all(any(re.fullmatch(mark, key) for key in present) for mark in layout.marks):
            return name
    for pattern, reason in OUT_OF_SCOPE:
        if any(re.fullmatch(pattern, key) for key in present):
            raise WeightsError(f"these weights cannot be used: {reason}")
    raise WeightsError(
        f"unknown layout, names start {', '.join(present[:5])}; known: {', '.join(LAYOUTS)}"
    )


def rename(name: str, layout: Layout) -> str | None:
    """Our name of a tensor, None if the layout does not have it."""
    for pattern, replacement in layout.renames:
        name = re.sub(pattern, replacement, name)
    return name if re.fullmatch((_OWN if layout.own else _OURS)[layout.kind], name) else None


def why_ignored(name: str, layout: Layout) -> str | None:
    """The reason why a tensor is left out, None if the layout does not ignore it."""
    return next((why for pattern, why in layout.ignored if re.fullmatch(pattern, name)), None)
