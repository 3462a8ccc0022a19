"""Whose weights are these, and what does each of their tensors become in our names?

A layout is one system's way of naming the tensors of a ResNet or of a Faster R-CNN C4, with the
conventions that its weights were trained under and that no tensor shows: pixels, max-pool, which
row is the background, how anchors are counted. Layouts are told apart by their tensors' names: one
file name has stood for different contents (detectron2 #4108).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ...detection.errors import WeightsError

Kind = Literal["classifier", "detector"]

#: Rules of a layout: a pattern for whole names and the name or the reason it stands for.
Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Layout:
    """One naming scheme. ``marks`` are patterns that must each match a name of the file."""

    title: str
    kind: Kind
    marks: tuple[str, ...]
    names: Rules
    ignored: Rules = ()
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
    #: Ours: norms, shortcuts and stride may vary, and a config comes with the weights.
    own: bool = False


_STAT = r"(?P<stat>weight|bias|running_mean|running_var)"
_HEAD = r"(?P<stat>weight|bias)"
_CONV = r"(?P<block>\d+)\.conv(?P<conv>[123])\.weight"
_NORM = rf"(?P<block>\d+)\.bn(?P<conv>[123])\.{_STAT}"
_DOWN = r"(?P<block>\d+)\.downsample\.0\.weight"
_DOWN_NORM = rf"(?P<block>\d+)\.downsample\.1\.{_STAT}"
_PIXELS = ((r"pixels?[._](?:mean|std|channels)", "read to name the pixels"),)
_COUNTERS = ((r".*\.num_batches_tracked", "a counter that frozen statistics do not need"),)


def _torch_stages(source: str, target: str) -> Rules:
    """The four kinds of names under ``source`` of every torchvision-style stage."""
    return (
        (rf"{source}\.{_CONV}", f"{target}.{{block}}.conv{{conv}}.weight"),
        (rf"{source}\.{_NORM}", f"{target}.{{block}}.conv{{conv}}.norm.{{stat}}"),
        (rf"{source}\.{_DOWN}", f"{target}.{{block}}.shortcut.weight"),
        (rf"{source}\.{_DOWN_NORM}", f"{target}.{{block}}.shortcut.norm.{{stat}}"),
    )


def _detectron2_stages(source: str, target: str) -> Rules:
    return (
        (
            rf"{source}(?P<rest>\.\d+\.(?:conv[123]|shortcut)\.(?:norm\.)?{_STAT})",
            f"{target}{{rest}}",
        ),
    )


def _heads(conv: str, logits: str, deltas: str, classes: str, boxes: str) -> Rules:
    """The two RPN outputs and the two sibling layers, under another system's names."""
    return (
        (rf"{re.escape(conv)}\.{_HEAD}", "rpn_head.conv.{stat}"),
        (rf"{re.escape(logits)}\.{_HEAD}", "rpn_head.logits.{stat}"),
        (rf"{re.escape(deltas)}\.{_HEAD}", "rpn_head.deltas.{stat}"),
        (rf"{re.escape(classes)}\.{_HEAD}", "roi_head.cls_logits.{stat}"),
        (rf"{re.escape(boxes)}\.{_HEAD}", "roi_head.box_deltas.{stat}"),
    )


#: ``res4_11`` and Caffe's own ``res4b11``, ``res4c`` are the same block.
_CAFFE_BLOCK = r"res(?P<stage>[2-5])(?:_(?P<block>\d+)|(?P<letter>[a-z])(?P<number>\d*))"
_CAFFE_CONV = rf"{_CAFFE_BLOCK}_branch(?P<branch>1|2a|2b|2c)"
_CAFFE_SHARED: Rules = (
    (r"conv1_w", "stem.conv1.weight"),
    (r"conv1_b", "stem.conv1.bias"),
    (rf"{_CAFFE_CONV}_w", "res{stage}.{block}.{caffe}.weight"),
    (r"fc1000_w", "fc.weight"),
    (r"fc1000_b", "fc.bias"),
)

LAYOUTS: dict[str, Layout] = {
    "resdet": Layout(
        title="resdet detector",
        kind="detector",
        marks=(r"trunk\.stem\.conv1\.weight", r"pixels\.mean"),
        names=((r"(?P<rest>(?:trunk|rpn_head|roi_head)\..+)", "{rest}"),),
        ignored=_PIXELS,
        own=True,
    ),
    "resdet_classifier": Layout(
        title="resdet classifier",
        kind="classifier",
        marks=(r"(?:network\.)?stem\.conv1\.weight", r"pixels\.mean"),
        names=((r"(?:network\.)?(?P<rest>(?:stem|res[2-5]|fc)\..+)", "{rest}"),),
        ignored=_PIXELS,
        own=True,
    ),
    "torchvision": Layout(
        title="torchvision classifier",
        kind="classifier",
        marks=(r"conv1\.weight", r"layer1\.0\.conv1\.weight"),
        names=(
            (r"conv1\.weight", "stem.conv1.weight"),
            (rf"bn1\.{_STAT}", "stem.conv1.norm.{stat}"),
            *_torch_stages(r"layer(?P<layer>[1-4])", "res{stage}"),
            (rf"fc\.{_HEAD}", "fc.{stat}"),
        ),
        ignored=_COUNTERS,
        pixels="torchvision",
    ),
    "detectron2_classifier": Layout(
        title="torchvision classifier in detectron2's names",
        kind="classifier",
        marks=(r"stem\.conv1\.weight", r"res2\.0\.conv1\.weight"),
        names=(
            (rf"stem\.conv1\.(?P<rest>(?:norm\.)?{_STAT})", "stem.conv1.{rest}"),
            *_detectron2_stages(r"res(?P<stage>[2-5])", "res{stage}"),
            (rf"(?:stem\.)?fc\.{_HEAD}", "fc.{stat}"),
        ),
        ignored=_COUNTERS,
        pixels="torchvision",
    ),
    "msra": Layout(
        title="MSRA classifier, norms as trained (detectron2's R-50.pkl, R-101.pkl)",
        kind="classifier",
        marks=(r"conv1_w", r"res_conv1_bn_gamma"),
        names=(
            *_CAFFE_SHARED,
            (
                r"res_conv1_bn_(?P<caffe_stat>gamma|beta|running_mean|running_var)",
                "stem.conv1.norm.{stat}",
            ),
            (
                rf"{_CAFFE_CONV}_bn_(?P<caffe_stat>gamma|beta|running_mean|running_var)",
                "res{stage}.{block}.{caffe}.norm.{stat}",
            ),
        ),
        pixels="msra",
    ),
    "msra_folded": Layout(
        title="MSRA classifier, norms folded to scale and shift (Detectron's R-50.pkl, R-101.pkl)",
        kind="classifier",
        marks=(r"conv1_w", r"res_conv1_bn_s"),
        names=(
            *_CAFFE_SHARED,
            (r"res_conv1_bn_(?P<caffe_stat>s|b)", "stem.conv1.norm.{stat}"),
            (rf"{_CAFFE_CONV}_bn_(?P<caffe_stat>s|b)", "res{stage}.{block}.{caffe}.norm.{stat}"),
        ),
        pixels="caffe",
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
        names=(
            (rf"backbone\.stem\.conv1\.(?P<rest>(?:norm\.)?{_STAT})", "trunk.stem.conv1.{rest}"),
            *_detectron2_stages(r"backbone\.res(?P<stage>[234])", "trunk.res{stage}"),
            *_detectron2_stages(r"roi_heads\.res5", "roi_head.res5"),
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
    ),
    "mmdetection": Layout(
        title="mmdetection (version 2 and later) Faster R-CNN C4, Caffe style",
        kind="detector",
        marks=(
            r"backbone\.layer1\.0\.conv1\.weight",
            r"rpn_head\.rpn_cls\.weight",
            r"roi_head\.shared_head\.layer4\.0\.conv1\.weight",
        ),
        names=(
            (r"backbone\.conv1\.weight", "trunk.stem.conv1.weight"),
            (rf"backbone\.bn1\.{_STAT}", "trunk.stem.conv1.norm.{stat}"),
            *_torch_stages(r"backbone\.layer(?P<layer>[123])", "trunk.res{stage}"),
            *_torch_stages(r"roi_head\.shared_head\.layer4", "roi_head.res5"),
            *_heads(
                "rpn_head.rpn_conv",
                "rpn_head.rpn_cls",
                "rpn_head.rpn_reg",
                "roi_head.bbox_head.fc_cls",
                "roi_head.bbox_head.fc_reg",
            ),
        ),
        ignored=_COUNTERS,
        pixels="msra",
        anchor_order="ratio_major",
        notes=("mmdetection bounds shrinking as well as growing box deltas; resdet only growing",),
    ),
    "jwyang": Layout(
        title="jwyang/faster-rcnn.pytorch ResNet",
        kind="detector",
        marks=(r"RCNN_base\.4\.0\.conv1\.weight", r"RCNN_rpn\.RPN_cls_score\.weight"),
        names=(
            (r"RCNN_base\.0\.weight", "trunk.stem.conv1.weight"),
            (rf"RCNN_base\.1\.{_STAT}", "trunk.stem.conv1.norm.{stat}"),
            *_torch_stages(r"RCNN_base\.(?P<slot>[456])", "trunk.res{stage}"),
            *_torch_stages(r"RCNN_top\.0", "roi_head.res5"),
            *_heads(
                "RCNN_rpn.RPN_Conv",
                "RCNN_rpn.RPN_cls_score",
                "RCNN_rpn.RPN_bbox_pred",
                "RCNN_cls_score",
                "RCNN_bbox_pred",
            ),
        ),
        ignored=_COUNTERS,
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

#: Files that people try and that no conversion makes right, with the reason.
OUT_OF_SCOPE: Rules = (
    (r"backbone\.body\..+", "torchvision detection models have a feature pyramid, not C4"),
    (r"backbone\.bottom_up\..+", "a detectron2 feature pyramid, not C4"),
    (r"neck\..+", "an mmdetection feature pyramid, not C4"),
    (
        r"(?:shared_head\.layer4|bbox_head\.fc_cls)\..+",
        "mmdetection version 1, whose anchors and boxes count pixels in another way",
    ),
)

_CAFFE_BRANCH = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_CAFFE_STAT = {"gamma": "weight", "beta": "bias", "s": "scale", "b": "shift"}


def recognise(names: Iterable[str]) -> str:
    """The layout that the names of a file's tensors belong to, a key of ``LAYOUTS``.

    Raises:
        WeightsError: of no known layout; says the first names and what is known.
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
    """Our name of a tensor, None when the layout does not know it."""
    for pattern, target in layout.names:
        match = re.fullmatch(pattern, name)
        if match:
            return target.format_map(_fields(match.groupdict()))
    return None


def why_ignored(name: str, layout: Layout) -> str | None:
    """Why a tensor is left out on purpose, None when it must not be."""
    return next((why for pattern, why in layout.ignored if re.fullmatch(pattern, name)), None)


def _fields(groups: Mapping[str, str | None]) -> dict[str, str]:
    """What the names leave implicit: torchvision's layer1 and jwyang's slot 4 are res2."""
    fields = {key: value for key, value in groups.items() if value is not None}
    if "layer" in fields:
        fields["stage"] = str(int(fields["layer"]) + 1)
    if "slot" in fields:
        fields["stage"] = str(int(fields["slot"]) - 2)
    if "letter" in fields:  # res4a, res4b1 ... res4b22 or res4a, res4b, res4c
        fields["block"] = fields["number"] or str(ord(fields["letter"]) - ord("a"))
    if "branch" in fields:
        fields["caffe"] = _CAFFE_BRANCH[fields["branch"]]
    if "caffe_stat" in fields:
        fields["stat"] = _CAFFE_STAT.get(fields["caffe_stat"], fields["caffe_stat"])
    return fields
