"""The configurations of both stages of a localizer: every field, its default and the reason for it.

Defaults are those of the ResNet paper (arXiv:1512.03385, appendix C) if it states them. Settings
shared with classifiers are in `classifier.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ...backbones.norm import Norm
from ...datasets.formats import known_source
from ...datasets.formats.format import Source
from .base import (
    Amount,
    AnchorRatios,
    AnchorSizes,
    Count,
    DataSection,
    Fraction,
    NonNegative,
    OnBadBox,
    OnSizeMismatch,
    Positive,
    Precision,
    Rate,
    Schedule,
    Section,
    Side,
    Sizes,
    Validation,
)
from .classifier import CropConfig, CropTestConfig, CropTrainConfig, NetworkConfig

LocalizationSource = Annotated[SerializeAsAny[Source], known_source("both")]


class LocalizerDataConfig(DataSection):
    """Classes are wnids."""

    #: Where the training and the validation images are.
    source: LocalizationSource | None = None
    #: As in the config of a classifier.
    val: Validation = None
    #: Crops have one size, whatever that of the image.
    min_side: Count = 1
    #: As in the config of a detector.
    on_bad_box: OnBadBox = "error"
    #: As in the config of a detector.
    on_size_mismatch: OnSizeMismatch = "error"


class LocalizerCropConfig(CropConfig):
    """The training crops: those of classification; boxes are clipped to them."""

    kind: Literal["paper", "resized"] = "paper"
    #: An object of which a smaller part is in the crop is neither positive nor negative.
    least_visible: Fraction = 0.3


class LocalizerNetworkConfig(NetworkConfig):
    needs_trunk = True

    #: Fine-tuned with the exact statistics of the classifier it starts from.
    norm: Norm = "frozen"


class HeadConfig(Section):
    """Anchors and their per-class outputs. The paper gives no sizes."""

    #: The map that the two sibling layers read: of conv5_x, stride 32, or of conv4_x, stride 16.
    level: Literal["conv5", "conv4"] = "conv5"
    #: Sides in crop pixels.
    anchor_sizes: AnchorSizes = (64, 128, 224)
    #: height / width
    anchor_ratios: AnchorRatios = (0.5, 1.0, 2.0)
    #: Each anchor has outputs of its own, or all of a position share one set ("1000-d").
    outputs: Literal["per_anchor", "shared"] = "per_anchor"
    #: Which logits of a sampled anchor have a loss: that of the image's class (``own``), or
    #: ``every`` one, the other classes being negative.
    classes_in_loss: Literal["own", "every"] = "own"
    #: Anchors with at least this IoU with an object are positive.
    positive_iou: Fraction = 0.7
    #: Anchors below this IoU with every object are negative, others have no loss.
    negative_iou: Fraction = 0.3
    #: The best anchors of each object are positive whatever their IoU.
    low_quality_matches: bool = True
    #: Anchors with a loss in each image, half of them positive.
    per_image: Annotated[int, Field(ge=2, le=10**6, multiple_of=2)] = 8
    #: Smooth-L1 turning point; 0 is plain L1.
    smooth_l1_beta: Annotated[float, Field(ge=0)] = 0.1111111111111111
    #: Factor of the box loss.
    box_loss_weight: Positive = 1.0


class LocalizerTrainConfig(CropTrainConfig):
    """The learning rates are ours: the paper gives the batch size only."""

    iterations: Count = 60_000
    lr: Rate = 0.01
    warmup_iterations: NonNegative = 500
    schedule: Schedule = "cosine"


class AnswerConfig(Section):
    """The settings of testing that both stages share."""

    #: Checkpoints of classifiers that say which classes to look for; several are averaged. Without
    #: one, only images whose class is known can be located.
    classifiers: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    #: Number of classes to locate in each image, the most likely first; ILSVRC evaluates five.
    top: Annotated[int, Field(ge=1, le=5)] = 5
    #: The best box becomes the score-weighted mean of the class's boxes that overlap it by at
    #: least this IoU; null leaves it as it is.
    vote_iou: Fraction | None = None
    #: Precision of all networks, including the classifiers.
    precision: Precision = "fp32"


class LocalizerTestConfig(AnswerConfig, CropTestConfig):
    #: ``centre``: the middle crop; ``dense``: whole images at ``short_sides``, whose boxes are
    #: joined. Evaluations during training take the middle crop.
    protocol: Literal["centre", "dense"] = "dense"
    #: Not stated in the paper; those of its dense classification less the largest two, at which a
    #: large object is larger than any anchor.
    short_sides: Sizes = (224, 256, 384)


class LocalizerConfig(Section):
    """Stage one, the per-class RPN: data, network, training, testing."""

    #: Distinguishes the configs of the two stages, and of other tasks.
    task: Literal["localization"] = "localization"
    data: LocalizerDataConfig = LocalizerDataConfig()
    crop: LocalizerCropConfig = LocalizerCropConfig()
    network: LocalizerNetworkConfig = LocalizerNetworkConfig()
    head: HeadConfig = HeadConfig()
    train: LocalizerTrainConfig = LocalizerTrainConfig()
    test: LocalizerTestConfig = LocalizerTestConfig()


class ProposalConfig(Section):
    """The proposals of stage two."""

    #: Checkpoints of stage one; the proposals of several are joined.
    weights: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    #: The best of each class in each image, times the number of networks.
    count: Amount = 200
    #: Overlap above which the worse of two is dropped.
    nms_iou: Fraction = 0.7
    #: ``proposals.safetensors`` of another run, with the proposals of the training images. Null
    #: computes them when training starts.
    file: str | None = None


class RegionConfig(Section):
    """The warping and sampling of training regions."""

    #: Side of the square that regions are warped to.
    size: Side = 224
    #: Its margin that shows the surroundings (R-CNN: 16 of 227 pixels).
    padding: Annotated[int, Field(ge=0, le=5000)] = 16
    #: Probability of the left-right flip.
    flip: Fraction = 0.5
    #: Regions with this IoU with an object, or more, are positive, all others negative.
    positive_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    #: Share of the positive ones in a batch (R-CNN: 32 of 128).
    positive_fraction: Fraction = 0.25
    #: As ``head.classes_in_loss`` of stage one.
    classes_in_loss: Literal["own", "every"] = "own"
    #: Smooth-L1 turning point; R-CNN's loss is squared, Fast R-CNN has 1.
    smooth_l1_beta: Annotated[float, Field(ge=0)] = 1.0
    #: Factor of the box loss.
    box_loss_weight: Positive = 1.0

    @model_validator(mode="after")
    def _padding_fits(self) -> RegionConfig:
        if 2 * self.padding >= self.size:
            raise ValueError(f"padding {self.padding} leaves nothing of size {self.size}")
        return self


class RegionTestConfig(AnswerConfig):
    #: Regions in one pass of the network.
    batch_size: Amount = 64


class RegionLocalizerConfig(Section):
    """Stage two, the R-CNN: data, regions, network, training, testing."""

    #: As in stage one.
    task: Literal["localization_rcnn"] = "localization_rcnn"
    data: LocalizerDataConfig = LocalizerDataConfig()
    proposals: ProposalConfig = ProposalConfig()
    region: RegionConfig = RegionConfig()
    network: LocalizerNetworkConfig = LocalizerNetworkConfig()
    train: LocalizerTrainConfig = LocalizerTrainConfig()
    test: RegionTestConfig = RegionTestConfig()


#: The config of either stage.
AnyLocalizerConfig = LocalizerConfig | RegionLocalizerConfig
