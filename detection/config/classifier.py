"""The configuration of a classifier: every field, its default and the reason for it.

Defaults are the recipe of the ResNet paper (arXiv:1512.03385, section 3.4). Settings shared with
detectors are in `base.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from ...backbones.blocks import Shortcut
from ...backbones.norm import Norm
from ...datasets.formats import known_source
from ...datasets.formats.format import Source
from .base import (
    Amount,
    BatchSize,
    Count,
    DataSection,
    Fraction,
    NonNegative,
    Positive,
    Precision,
    Rate,
    Schedule,
    Section,
    Side,
    Sizes,
    TrainConfig,
    TransformSpec,
    Validation,
)
from .network import NetworkSection

ClassSource = Annotated[SerializeAsAny[Source], known_source("class")]


class ClassifierDataConfig(DataSection):
    #: Where the training and the validation images are.
    source: ClassSource | None = None
    #: ``{fraction: 0.1}`` holds out a share of the training images, [] trains without validation;
    #: null takes the validation part of the source.
    val: Validation = None
    #: Crops have one size, whatever that of the image.
    min_side: Count = 1


class CropConfig(Section):
    """The training crops."""

    #: ``paper``: a square of a resized image, with AlexNet's colours; ``resized``: a part of
    #: random area and shape, resized (GoogLeNet); ``padded``: shifted by some pixels (CIFAR).
    kind: Literal["paper", "resized", "padded"] = "paper"
    #: Side of the crops in px.
    size: Side = 224
    #: Probability of the left-right flip.
    flip: Fraction = 0.5
    #: ``paper``: the shorter side is drawn evenly from this range.
    short_sides: tuple[Side, Side] = (256, 480)
    #: ``paper``: std of the multiples of the principal components of colour.
    colour_std: Annotated[float, Field(ge=0)] = 0.1
    #: ``resized``: ranges of area (of the image's) and of width / height.
    scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    #: See ``scale``.
    ratio: tuple[Positive, Positive] = (0.75, 1.3333333333333333)
    #: ``resized``: photometric transforms of the allowed list, such as ColorJitter.
    augment: tuple[TransformSpec, ...] = ()
    #: ``padded``: black pixels added on each side before the crop is cut.
    padding: Annotated[int, Field(ge=0, le=1000)] = 4


class NetworkConfig(NetworkSection):
    needs_trunk = False

    #: Paper, section 3.3: ``A`` zero-padded identity, ``B`` projections where dimensions grow,
    #: ``C`` all projections; ``none`` is its plain net.
    shortcut: Shortcut = "B"
    norm: Norm = "batch"


class CropTrainConfig(TrainConfig):
    """Training on large batches of crops, of classifiers and localizers."""

    batch_size: BatchSize = 256
    base_batch_size: Count = 256
    #: As in the paper's and torchvision's training; "no bias decay" recipes switch both off.
    decay_bias: bool = True
    decay_norm: bool = True
    log_every: Count = 100
    eval_every: Count = 5000
    checkpoint_every: Count = 1000
    #: With several processes, BN statistics are computed over the images of all, as in one
    #: process; false: over each process's own, which saves communication in each layer.
    sync_norm: bool = True


class ClassifierTrainConfig(CropTrainConfig):
    iterations: Count = 600_000
    lr: Rate = 0.1
    warmup_iterations: NonNegative = 0
    #: "Divided by 10 when the error plateaus".
    schedule: Schedule = "plateau"
    #: The fraction of each target that is distributed evenly over all classes.
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class CropTestConfig(Section):
    """The sizes of images and crops in testing."""

    #: Shorter side of the images that crops are cut from, and the side of the crops.
    resize: Side = 256
    #: See ``resize``.
    size: Side = 224
    #: Shorter sides of whole images that are tested fully convolutionally.
    short_sides: Sizes = (224, 256, 384, 480, 640)
    #: ``opencv`` resizes as in training; ``pillow`` as torchvision's transforms do, which belongs
    #: to converted ImageNet classifiers: antialiased, and the longer side is rounded down.
    resampling: Literal["opencv", "pillow"] = "opencv"
    #: Average with the flipped images; ten crops always do.
    flip: bool = False
    #: Precision of the network; scores are always float32.
    precision: Precision = "fp32"

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.size > self.resize:
            raise ValueError(f"a crop of size {self.size} does not fit into resize {self.resize}")
        if list(self.short_sides) != sorted(set(self.short_sides)):
            raise ValueError(f"short_sides must rise: {list(self.short_sides)}")
        return self


class ClassifierTestConfig(CropTestConfig):
    """Testing by `resdet eval`; evaluations during training take one crop."""

    #: ``one_crop``: the middle; ``ten_crop``: corners and middle of the middle square, flipped too
    #: (AlexNet); ``multi_scale``:
    #: whole images at ``short_sides`` (paper, section 3.4). Softmax scores are averaged.
    protocol: Literal["one_crop", "ten_crop", "multi_scale"] = "one_crop"
    #: Images in one pass of the network.
    batch_size: Amount = 32


class ClassifierConfig(Section):
    """A whole classifier: data, network, training, testing."""

    #: Distinguishes configs of tasks; detectors have no such field.
    task: Literal["classification"] = "classification"
    data: ClassifierDataConfig = ClassifierDataConfig()
    crop: CropConfig = CropConfig()
    network: NetworkConfig = NetworkConfig()
    train: ClassifierTrainConfig = ClassifierTrainConfig()
    test: ClassifierTestConfig = ClassifierTestConfig()
