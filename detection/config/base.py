"""The base class of config sections, and the sections that all tasks share.

Validation is strict: no string becomes a number, and unknown keys are errors. `files.py` reads the
files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    PlainSerializer,
    Tag,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from ..schedules import SCHEDULES
from ..trackers import TRACKERS

# Every limit is beyond what makes sense: configs come with other people's checkpoints too.
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
#: A learning rate; its product with a gradient is a float32.
Rate = Annotated[float, Field(gt=0, le=1e30)]
Count = Annotated[int, Field(ge=1, le=10**9)]
NonNegative = Annotated[int, Field(ge=0, le=10**9)]
#: Images, boxes or anchors that are in memory together.
Amount = Annotated[int, Field(ge=1, le=10**6)]
#: ``train.batch_size: auto``: no number yet, and none that a batch could have.
AUTO = 0


def _batch_size(value: Any, check: Callable[[Any], int]) -> int:
    if value == "auto":
        return AUTO
    if isinstance(value, str):
        raise PydanticKnownError("literal_error", {"expected": "a whole number or 'auto'"})
    return check(value)


#: Images of a training step; ``auto`` is the largest number that the GPU's memory holds.
BatchSize = Annotated[
    int,
    Field(ge=1, le=10**6),
    WrapValidator(_batch_size),
    PlainSerializer(lambda images: images or "auto", when_used="json"),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 10**6}, {"const": "auto"}]}
    ),
]
#: The side of an image or a crop in pixels, and at least one such side.
Side = Annotated[int, Field(ge=1, le=10_000)]
Sizes = Annotated[tuple[Side, ...], Field(min_length=1, max_length=32)]
#: Sides in pixels and ratios of height to width.
AnchorSizes = Annotated[
    tuple[Annotated[float, Field(ge=0.01, le=1e5)], ...], Field(min_length=1, max_length=64)
]
AnchorRatios = Annotated[
    tuple[Annotated[float, Field(ge=0.01, le=100)], ...], Field(min_length=1, max_length=64)
]
#: Precision of a network; boxes and scores are always float32. ``auto`` is bf16 where the device
#: computes it and fp32 where it would emulate it.
Precision = Literal["fp32", "bf16", "fp16", "auto"]
#: The name of a learning-rate schedule.
Schedule = Annotated[str, AfterValidator(lambda name: one_of(name, SCHEDULES))]
#: The name of a tracker.
TrackerName = Annotated[str, AfterValidator(lambda name: one_of(name, TRACKERS))]
#: An image that cannot be used is an error, or is left out and counted (``skip``).
OnBadImage = Literal["error", "skip"]
#: A truncated image is a bad image (``error``), used with a warning, or left out.
OnTruncated = Literal["error", "warn", "skip"]
#: A bad box is an error, left out (``drop``), clipped to the image, or its corners are swapped
#: (``fix``); all are counted.
OnBadBox = Literal["error", "drop", "clip", "fix"]
#: Boxes of an annotation that states another size of its image are an error, or are scaled to the
#: image if its shape is the stated one.
OnSizeMismatch = Literal["error", "scale"]


def one_of(value: str, known: Iterable[str]) -> str:
    """``value`` if it is one of ``known``; else raises pydantic's error of a ``Literal``."""
    names = list(known)
    if value not in names:
        raise PydanticKnownError("literal_error", {"expected": joined(map(repr, names))})
    return value


def joined(names: Iterable[str]) -> str:
    """``a, b or c``."""
    *rest, last = names
    return f"{', '.join(rest)} or {last}" if rest else last


class Section(BaseModel):
    """Base of every section: unknown keys, implicit conversions and NaN are errors."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config as a dict by key, such as ``data.train.0.split``; a list of plain
    values is one value."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, list) and any(isinstance(each, dict) for each in value):
            value = {str(index): each for index, each in enumerate(value)}
        found |= flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return found


class TransformSpec(Section):
    """An albumentations transform of `augment.ALLOWED`, with its parameters."""

    #: Of `datasets/loading/augment.py`.
    name: str
    #: Its keyword arguments.
    params: dict[str, JsonValue] = {}


class DataSection(Section):
    """The settings of data that all tasks share."""

    #: Prefix of the sources' relative paths; else the config file's folder, then the working
    #: folder.
    root: Path | None = None
    #: Class names in label order; those of the training data, sorted, when absent.
    classes: tuple[str, ...] | None = None
    #: What happens to images that are missing, damaged, truncated, too small, too elongated or of
    #: another size than their annotation says.
    on_bad_image: OnBadImage = "error"
    #: ``warn`` keeps a JPEG with the missing part grey; ``skip`` leaves out truncated images only.
    on_truncated: OnTruncated = "error"
    #: Smallest accepted side in pixels.
    min_side: Count = 16
    #: Largest accepted ratio of the sides.
    max_aspect: Annotated[float, Field(ge=1)] = 100.0
    #: Whether EXIF orientation turns an image, as viewers do. Boxes must have been drawn on the
    #: same.
    exif: Literal["apply", "ignore"] = "apply"
    #: Larger images are refused from their header, before decoding, because of the memory that they
    #: take; Pillow opens none above 178,956,970.
    max_pixels: Annotated[int, Field(ge=1, le=10**12)] = 89_478_485
    #: Whether what was read of a large data set is kept for the next start.
    cache_records: bool = True
    #: Processes that read and augment, for each training process; 0 reads in it.
    workers: Annotated[int, Field(ge=0, le=1024)] = 2

    def settings_of_reading(self) -> str:
        """What the section says about the reading of annotations, besides the sources."""
        others = {"root", "train", "val", "test", "source", "workers"}
        return self.model_dump_json(exclude=others)


class HeldOut(Section):
    """Validation images that are held out of ``data.train``, near copies on one side."""

    #: The share of the images, of each class as far as possible.
    fraction: Annotated[float, Field(gt=0, lt=1)]
    #: Seed of the random choice, which `--seed` does not change.
    seed: NonNegative = 0


def _kind_of_validation(value: Any) -> str:
    held_out = isinstance(value, dict | HeldOut)
    return HELD_OUT if held_out else OWN if value is None else SOURCES


#: The kinds of ``data.val``, which are no keys of a config.
KINDS = HELD_OUT, OWN, SOURCES = "<held out>", "<own>", "<sources>"
VALIDATION = Discriminator(_kind_of_validation)
#: ``data.val`` of tasks whose source has both parts: null is the source's own part, [] none.
Validation = Annotated[
    Annotated[HeldOut, Tag(HELD_OUT)]
    | Annotated[tuple[()], Tag(SOURCES)]
    | Annotated[None, Tag(OWN)],
    VALIDATION,
]


class TrainConfig(Section):
    """The settings of training that all tasks share."""

    #: A checkpoint to fine-tune in place of pretrained weights; ``--weights`` replaces it. Classes
    #: keep their rows by name, the rows of others are initialised.
    start_from: Path | None = None
    #: {class: its name in that checkpoint} where the two differ.
    start_classes: dict[str, str] = {}
    #: Also take the momentum of the optimizer from that checkpoint where the parameters are the
    #: same, and the weights before their moving average; ``--from RUN`` sets it.
    start_optimizer: bool = False
    #: Steps of the whole run. Warm-up, milestones and ``eval_every`` count steps too.
    iterations: Count = 18000
    #: Passes over the training images, fractions too, in place of ``iterations``, which follow.
    epochs: Annotated[float, Field(gt=0, le=1e6)] | None = None
    #: Images per step over all processes and accumulation steps; ``auto`` finds how many fit the
    #: memory of the GPU.
    batch_size: BatchSize = 16
    #: Splits each process's share of the batch into this many passes.
    accumulate: Amount = 1
    #: Learning rate at base_batch_size; the rate in use is lr x batch_size / base_batch_size.
    lr: Rate = 0.02
    #: The batch size that ``lr`` is for.
    base_batch_size: Count = 16
    #: Of SGD, without Nesterov's correction.
    momentum: Fraction = 0.9
    #: L2: this times the weights is added to their gradients.
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    #: Whether biases decay too.
    decay_bias: bool = True
    #: Whether the scale and shift of norm layers decay.
    decay_norm: bool = False
    #: First steps, in which the rate rises linearly to ``lr``.
    warmup_iterations: NonNegative = 1000
    #: The share of ``lr`` that the warm-up begins with.
    warmup_factor: Fraction = 0.001
    #: ``step``: x gamma at each milestone; ``plateau``: x gamma after so many evaluations without a
    #: better result; ``cosine``: half a cosine down to zero.
    schedule: Schedule = "step"
    #: Steps after which ``schedule: step`` lowers the rate.
    milestones: tuple[Count, ...] = ()
    #: Evaluations without a better result that ``schedule: plateau`` waits for.
    plateau_evaluations: Count = 5
    #: Factor of ``schedule: step`` and ``plateau``.
    gamma: Fraction = 0.1
    #: Precision of the network in training; weights and optimizer stay in fp32.
    precision: Precision = "fp32"
    #: What GPUs that have TF32 compute in it, in fp32, from factors with 10 bits of mantissa:
    #: ``convolutions`` is PyTorch's own choice, ``all`` takes matrix products too; ``none`` is for
    #: comparisons of numbers.
    tf32: Literal["none", "convolutions", "all"] = "convolutions"
    #: Compile (torch.compile) a classifier's network, a localizer's trunk, or a detector's trunk
    #: and the blocks of its tail: minutes at the start, for faster steps on a GPU.
    compile: bool = False
    #: Largest gradient norm; null does not clip.
    clip_norm: Positive | None = None
    #: Decay of the exponential moving average of the weights; null keeps none.
    ema_decay: Fraction | None = None
    #: Of new weights, order, crops and sampling.
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    #: The same weights from the same seed, bit for bit, on a GPU too, where it is slower; a CPU
    #: always gives them.
    deterministic: bool = False
    #: Steps from one line of the log to the next.
    log_every: Count = 20
    #: Where else the logged values go: ``tensorboard``, ``mlflow``, ``wandb``; each needs the extra
    #: of its name, and writes into the run folder.
    trackers: tuple[TrackerName, ...] = ()
    #: Same as ``trackers: [tensorboard]``.
    tensorboard: bool = False
    #: Steps from one evaluation of ``data.val`` to the next.
    eval_every: Count = 2000
    #: Steps from one ``last.pt`` to the next: what a killed run has to repeat at most.
    checkpoint_every: Count = 500
    #: Evaluations without a better result before training stops; null never stops early.
    patience: Count | None = None
    #: Consecutive non-finite losses before training ends with exit code 4.
    max_nonfinite: Count = 10

    @model_validator(mode="after")
    def _milestones_in_order(self) -> TrainConfig:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise: {list(self.milestones)}")
        if self.milestones and self.schedule == "plateau":
            raise ValueError("schedule plateau has no milestones; set milestones=[]")
        return self
