"""The configuration of a detector: every field, its default and the reason for it.

Defaults come from the ResNet paper (arXiv:1512.03385), the Faster R-CNN paper
(arXiv:1506.01497) and detectron2's R101-C4 recipe; a comment names the source where they differ.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    SerializeAsAny,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from ...backbones import BACKBONES
from ...datasets.formats import known_source
from ...datasets.formats.format import Difficult, Source, is_annotated
from ..ops.nms import Method
from .base import (
    HELD_OUT,
    SOURCES,
    VALIDATION,
    Amount,
    AnchorRatios,
    AnchorSizes,
    DataSection,
    Fraction,
    HeldOut,
    NonNegative,
    OnBadBox,
    OnSizeMismatch,
    Positive,
    Precision,
    Section,
    Side,
    TrainConfig,
    TransformSpec,
)
from .network import NetworkSection

#: Factor of box deltas.
Weight = Annotated[float, Field(ge=1e-3, le=1e3)]
BoxSource = Annotated[SerializeAsAny[Source], known_source("boxes")]
BoxValidation = Annotated[
    Annotated[HeldOut, Tag(HELD_OUT)] | Annotated[tuple[BoxSource, ...], Tag(SOURCES)],
    VALIDATION,
]


class DataConfig(DataSection):
    #: The training images: all of these sources together.
    train: tuple[BoxSource, ...] = ()
    #: Sources, or ``{fraction: 0.1}``, which holds out a share of ``train``; empty trains without
    #: validation.
    val: BoxValidation = ()
    #: Images for ``eval --split test`` alone. Sources with ``annotated: false`` have no public
    #: annotations: detections are written for an evaluation server.
    test: tuple[BoxSource, ...] = ()
    #: Names in the annotations that are left out on purpose.
    ignore_classes: tuple[str, ...] = ()
    #: Training only. ``exclude``: as if absent (paper); ``ignore``: neither positive nor negative;
    #: ``include``: as any object (detectron2). COCO crowds are always ``ignore``.
    difficult: Difficult = "exclude"
    #: A box that leaves the image, has swapped corners, no area or values that are no numbers.
    on_bad_box: OnBadBox = "error"
    #: An image that has another size than its annotation says.
    on_size_mismatch: OnSizeMismatch = "error"
    #: Read images outside of a source's folder where its annotations name them.
    allow_outside: bool = False

    @model_validator(mode="after")
    def _annotations_known(self) -> DataConfig:
        for name in ("train", "val"):
            sources = getattr(self, name)
            if isinstance(sources, tuple) and not all(map(is_annotated, sources)):
                raise ValueError(f"{name}: `annotated: false` is for data.test: nothing to score")
        if len(set(map(is_annotated, self.test))) > 1:
            raise ValueError("test: all of its sources are annotated, or none")
        return self


#: What is smaller has hardly a cell of the feature map.
LEAST_SIDE = 32
#: A side of a resized image; `written.py` refuses smaller ones in new configs.
ImageSide = Annotated[
    Side, WithJsonSchema({"type": "integer", "minimum": LEAST_SIDE, "maximum": 10_000})
]


class ImageConfig(Section):
    #: Shorter sides in training, drawn at random; one value is single-scale training.
    short_side_train: Annotated[tuple[ImageSide, ...], Field(min_length=1, max_length=32)] = (600,)
    #: The shorter side in testing, in validation too.
    short_side_test: ImageSide = 600
    #: Longer images are resized to this longer side instead, here and in training.
    long_side_max: ImageSide = 1000
    #: Probability of the left-right flip, the paper's only augmentation for detection.
    flip: Fraction = 0.5
    #: More transforms of training images, each {name: …, params: {…}}.
    augment: tuple[TransformSpec, ...] = ()


class BackboneConfig(NetworkSection):
    depth: int = 101
    #: How many stages of the trunk stay fixed: of conv1, conv2_x, conv3_x, conv4_x, 2 freezes conv1
    #: and conv2_x.
    frozen_stages: NonNegative = 2

    @field_validator("frozen_stages")
    @classmethod
    def _stages_exist(cls, frozen: int, info: ValidationInfo) -> int:
        family = info.data.get("family")
        if family is not None and frozen > (stages := len(BACKBONES[family].strides) - 1):
            raise PydanticKnownError("less_than_equal", {"le": stages})
        return frozen


class RpnConfig(Section):
    #: Of the 3x3 layer: 1024 in detectron2's C4, 512 in the Faster R-CNN paper.
    channels: Annotated[int, Field(ge=1, le=16_384)] = 1024
    #: Sides in network pixels; the Faster R-CNN paper has 128, 256, 512.
    anchor_sizes: AnchorSizes = (32, 64, 128, 256, 512)
    #: height / width
    anchor_ratios: AnchorRatios = (0.5, 1.0, 2.0)
    #: ``drop`` leaves anchors across the image border out of training (Faster R-CNN paper).
    border_anchors: Literal["keep", "drop"] = "keep"
    #: Anchors with at least this IoU with an object are positive.
    positive_iou: Fraction = 0.7
    #: Anchors below this IoU with every object are negative, others have no loss.
    negative_iou: Fraction = 0.3
    #: The best anchors of each object are positive whatever their IoU.
    low_quality_matches: bool = True
    #: Anchors with a loss in each image.
    batch_per_image: Amount = 256
    #: Largest share of positive ones among them.
    positive_fraction: Fraction = 0.5
    #: The best boxes of an image that go into NMS in training.
    pre_nms_train: Amount = 12000
    #: Proposals of an image in training: the best that NMS leaves.
    post_nms_train: Amount = 2000
    #: As ``pre_nms_train``, in testing.
    pre_nms_test: Amount = 6000
    #: 300 proposals in the paper; COCO-era systems use 1000.
    post_nms_test: Amount = 300
    #: Of two proposals that overlap more, the worse is dropped.
    nms_iou: Fraction = 0.7
    #: Proposals with a side not longer than this many network pixels are dropped.
    min_size: Annotated[float, Field(ge=0)] = 0.0
    #: Smooth-L1 turning point; 0 is plain L1 (py-faster-rcnn: sigma 3, which is 1/9).
    smooth_l1_beta: Annotated[float, Field(ge=0)] = 0.0
    #: Divide the losses by ``fixed``: batch_per_image x images (detectron2), or by the anchors
    #: that were ``sampled``.
    normalizer: Literal["fixed", "sampled"] = "fixed"
    #: Factor of the box loss.
    box_loss_weight: Positive = 1.0


class RoiConfig(Section):
    #: RoIAlign (arXiv:1703.06870), or the rounded max-pooling of the paper's time.
    pool: Literal["align", "pool"] = "align"
    #: Bins on each side of a region's map.
    pool_size: Annotated[int, Field(ge=1, le=64)] = 14
    #: Samples per bin and axis; 0 adapts to the size of the region.
    sampling_ratio: Annotated[int, Field(ge=0, le=32)] = 0
    #: Stride of conv5_1; 2 on a 14x14 map or 1 on a 7x7 map both end at 7x7.
    tail_stride: Literal[1, 2] = 2
    #: Regions with a loss in each image: 128 in the paper, 512 in detectron2.
    batch_per_image: Amount = 512
    #: Largest share of positive ones among them.
    positive_fraction: Fraction = 0.25
    #: Regions with at least this IoU with an object are positive.
    positive_iou: Fraction = 0.5
    #: Regions in [negative_iou_low, positive_iou) are negative.
    negative_iou_low: Fraction = 0.0
    #: The objects' own boxes are regions in training too.
    append_ground_truth: bool = True
    #: One box for each region instead of one for each class.
    class_agnostic_boxes: bool = False
    #: Append the whole image's vector to each region's (ResNet paper, appendix B).
    context: bool = False
    #: Factors of dx, dy, dw, dh, which give targets a variance near 1.
    box_weights: tuple[Weight, Weight, Weight, Weight] = (10.0, 10.0, 5.0, 5.0)
    #: As ``rpn.smooth_l1_beta``; py-faster-rcnn has 1.
    smooth_l1_beta: Annotated[float, Field(ge=0)] = 0.0
    #: Factor of the box loss.
    box_loss_weight: Positive = 1.0


class RefineConfig(Section):
    #: How often regions are pooled and scored again from their own regressed boxes, old and new
    #: predictions joined (ResNet paper, appendix B); 0 is off, 1 the paper's.
    rounds: Annotated[int, Field(ge=0, le=32)] = 0


class VoteConfig(Section):
    #: Each kept box becomes the score-weighted mean of its class's boxes with at least this IoU;
    #: null is off. 0.5 in Gidaris & Komodakis (arXiv:1505.01749), 0.8 in Detectron.
    iou: Fraction | None = None
    #: The score of the voted box: its own (Detectron's default), or the mean of the voters'.
    score: Literal["keep", "average"] = "keep"


class SuppressConfig(Section):
    #: ``soft_nms`` lowers scores with overlap instead of dropping boxes (arXiv:1704.04503), ``wbf``
    #: merges boxes that overlap by more than test.nms_iou (arXiv:1910.13302).
    method: Method = "nms"
    #: Width of the Gaussian of Soft-NMS: larger lowers scores less.
    soft_sigma: Positive = 0.5
    #: Soft-NMS drops candidates that fall below this score, fusion those that are below it.
    soft_floor: Fraction = 0.001
    #: NMS over all classes together: one box for one place, that of the best class.
    class_agnostic: bool = False


class TestConfig(Section):
    #: 0 keeps every box up to max_detections: best for mAP; 0.05 is faster (-0.2 to -0.3 AP).
    score_threshold: Fraction = 0.0
    #: Of two boxes of a class that overlap more, the worse is dropped; 0.3 in the paper's time.
    nms_iou: Fraction = 0.5
    #: The best of an image that are kept; COCO evaluates 100.
    max_detections: Amount = 100
    suppress: SuppressConfig = SuppressConfig()
    refine: RefineConfig = RefineConfig()
    vote: VoteConfig = VoteConfig()
    #: Shorter sides of whole passes whose candidates are joined; empty: image.short_side_test.
    scales: Annotated[tuple[ImageSide, ...], Field(max_length=32)] = ()
    #: Join the candidates of the flipped image too.
    flip: bool = False
    #: Shorter sides of the feature pyramid that regions are scored on, each on the two adjacent
    #: ones that suit its size; proposals stay on one scale (ResNet paper, appendix B: 200, 400,
    #: 600, 800, 1000). Empty: regions are scored where they were proposed.
    pyramid: Annotated[tuple[ImageSide, ...], Field(max_length=32)] = ()
    #: Side in pixels that a region should have on its pyramid scale (SPP-net: 224).
    pyramid_region: Positive = 224.0

    #: Images in one pass of the network.
    batch_size: Amount = 1
    #: Precision of the network; boxes and scores are always float32.
    precision: Precision = "fp32"

    @model_validator(mode="after")
    def _options_fit(self) -> TestConfig:
        for name in ("scales", "pyramid"):
            sizes = getattr(self, name)
            if list(sizes) != sorted(set(sizes)):
                raise ValueError(f"{name} must rise: {list(sizes)}")
        if self.suppress.class_agnostic and (
            self.suppress.method != "nms" or self.vote.iou is not None
        ):
            raise ValueError("suppress.class_agnostic is for suppress.method=nms without vote")
        return self


class DetectorTrainConfig(TrainConfig):
    #: Batches of the validation loss at each evaluation; 0 leaves it out.
    val_loss_batches: NonNegative = 20


class EvalConfig(Section):
    #: The metric that selects ``best.pt``. ``ilsvrc_ap``, that of ILSVRC DET, is computed only
    #: where it is chosen.
    metric: Literal["voc_ap50", "voc_ap50_11point", "coco_ap", "coco_ap50", "ilsvrc_ap"] = (
        "voc_ap50"
    )
    #: What computes the COCO numbers: ``pycocotools``, the reference for numbers to publish, or
    #: ``hotcoco`` (``pip install "resdet[hotcoco]"``), which gives the same ones in seconds where
    #: the reference takes minutes and the other processes of a training wait.
    coco_library: Literal["pycocotools", "hotcoco"] = "pycocotools"
    #: Sides in px of the squares whose areas part small, medium and large objects in the COCO
    #: numbers by size; COCO's.
    sizes: tuple[Positive, Positive] = (32.0, 96.0)

    @field_validator("sizes")
    @classmethod
    def _sizes_rise(cls, sizes: tuple[float, float]) -> tuple[float, float]:
        if sizes[0] >= sizes[1]:
            raise ValueError(f"must rise: {list(sizes)}")
        return sizes


class DetectorConfig(Section):
    """A whole detector: data, model, training, testing."""

    data: DataConfig = DataConfig()
    image: ImageConfig = ImageConfig()
    backbone: BackboneConfig = BackboneConfig()
    rpn: RpnConfig = RpnConfig()
    roi: RoiConfig = RoiConfig()
    train: DetectorTrainConfig = DetectorTrainConfig()
    test: TestConfig = TestConfig()
    eval: EvalConfig = EvalConfig()
