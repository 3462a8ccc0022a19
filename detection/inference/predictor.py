"""The `Predictor`: a model that is applied to images and gives results that know their names."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar, Unpack, overload

import torch

from ...datasets.image import ImageRules, LoadedImage
from ..errors import ConfigError, ImageError
from ..evaluation.prediction import DTYPES, autocast
from .calls import Call, CallOptions, OnError, StreamOptions, pick_device
from .image_inputs import (
    ArrayValues,
    ImageInput,
    expand,
    image_name,
    is_film,
    is_image,
    is_place,
    load_image,
)
from .image_results import FailedImage, ImageResult, check_threshold
from .ordered import in_order
from .outputs import BOXES, Output
from .pipeline import ImagePipeline, Pipeline, Prepared, expect_ready
from .result_image import ResultImage, path_of
from .tiles import TiledPipeline, Tiling

#: The intact part of a truncated JPEG is used, with a warning.
KEEP_TRUNCATED = ImageRules(on_truncated="warn")
PRECISIONS = ("auto", *DTYPES)
#: Threads that read images ahead of the network.
READERS = 2

Result = TypeVar("Result", bound=ImageResult[Any])


@dataclass(frozen=True)
class ModelFacts:
    """A model in words: its network, how it is tested (sizes, networks, options), its files, and
    what classes that are ids are called."""

    architecture: str = "model"
    testing: str = ""
    origin: tuple[Path, ...] = ()
    class_words: Mapping[str, str] = field(default_factory=dict)


class Predictor(Generic[Result]):
    """A model with its class names and the rules for reading images: ``model("street.jpg")``.

    Results are `DetectionResult`, or the `ClassResult` of a classifier. ``classes`` are the names
    in label order. Results that score less than ``score_threshold`` are left out; None is the
    default of `resdet infer`: 0.5, of classifiers and localizers 0. A predictor can be pickled,
    copied, and used from several threads at a time.
    """

    def __init__(
        self,
        pipeline: ImagePipeline[Any],
        *,
        classes: Sequence[str],
        device: torch.device | str = "cpu",
        rules: ImageRules = KEEP_TRUNCATED,
        precision: str = "fp32",
        facts: ModelFacts | None = None,
        output: Output[Any] = BOXES,
        score_threshold: float | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.device = torch.device(device)
        self.rules = rules
        self.precision = precision
        self.facts = facts or ModelFacts()
        self.output = output
        wanted = output.threshold if score_threshold is None else score_threshold
        self.score_threshold = check_threshold(wanted)
        self.pipeline = pipeline
        pipeline.to(self.device)
        pipeline.eval()

    @property
    def testing(self) -> str:
        """Sizes, networks and options in words."""
        return self.facts.testing

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:10]) + (", …" if len(self.classes) > 10 else "")
        origin = ", ".join(map(str, self.facts.origin)) or "memory"
        lines = [
            self.facts.architecture,
            f"{len(self.classes)} classes: {names}",
            f"testing with: {self.testing}",
            f"score threshold {self.score_threshold:g}, on {self.device} in {self.precision}",
            f"from {origin}",
        ]
        return "Predictor: " + "\n  ".join(lines)

    def tiled(self, side: int = 800, overlap: float = 0.2) -> Self:
        """A predictor that looks at each image in tiles too, for objects that are too small in an
        image as large as it: `TiledPipeline`, with this one's networks.

        Raises ConfigError for a classifier or localizer, and for numbers out of range.
        """
        pipeline: object = self.pipeline
        if not isinstance(pipeline, Pipeline):
            raise ConfigError("tiles need a detector's checkpoint, or its export with --graphs two")
        other = copy.copy(self)
        other.pipeline = TiledPipeline(pipeline, Tiling(side, overlap))
        words = f"whole images and tiles of {side} px that overlap by {overlap:g}"
        other.facts = replace(self.facts, testing="; ".join(filter(None, (self.testing, words))))
        return other

    # ------------------------------------------------------------------------------ prediction

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a path is an iterable of str as well
        self,
        images: ImageInput,
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[CallOptions],
    ) -> Result: ...

    @overload
    def __call__(
        self,
        images: Iterable[ImageInput],
        *,
        on_error: Literal["raise"] = "raise",
        **options: Unpack[CallOptions],
    ) -> list[Result]: ...

    @overload
    def __call__(
        self, images: Any, *, on_error: Literal["return"], **options: Unpack[CallOptions]
    ) -> Any: ...

    def __call__(
        self, images: Any, *, on_error: OnError = "raise", **options: Unpack[CallOptions]
    ) -> Any:
        """The result of one image, or the list of those of several: of the elements of any
        iterable, of an array or tensor of four dimensions, or of the files of a folder, a glob or a
        list (.txt).

        Boxes are in displayed pixels (after EXIF), on the CPU. ``score_threshold=None`` replaces
        that of the model. ``channels="rgb"`` and ``value_range=None`` say what arrays and tensors
        hold: see `ArrayValues`. Images of equal network size share a batch of up to
        ``batch_size=1``, unpadded, so that a result does not depend on its neighbours.

        Raises ImageError for an image that cannot be used, unless ``on_error`` is ``return``: then
        a `FailedImage` is in its place. Raises ConfigError for wrong arguments.
        """
        if is_film(images):
            raise ConfigError(f"{images}: a video; stream({images!r}) gives its frames in turn")
        found = list(self.stream(images, on_error=on_error, **options))
        return found[0] if is_image(images) and not is_place(images) else found

    @overload
    def stream(
        self, source: Any, *, on_error: Literal["raise"] = "raise", **options: Unpack[StreamOptions]
    ) -> Iterator[Result]: ...

    @overload
    def stream(
        self, source: Any, *, on_error: OnError, **options: Unpack[StreamOptions]
    ) -> Iterator[Result | FailedImage]: ...

    def stream(
        self, source: Any, *, on_error: OnError = "raise", **options: Unpack[StreamOptions]
    ) -> Iterator[Any]:
        """The results of `__call__`, one after the other: a generator, which holds a few images in
        memory, however many there are. Threads read images ahead of the network.

        The source may also be a video, a glob of videos, the number of a webcam or the URL of a
        stream: then there is a result for every ``every=1``-th frame, with its number and time in
        ``frame`` and ``time``. Raises ImageError after the last frame of a file that was cut.
        """
        call = Call.of(options, on_error, self.score_threshold)
        one = is_image(source) and not is_place(source)
        return self._stream(expand(source, call.every), call, readers=0 if one else READERS)

    def predict(
        self,
        images: Sequence[ImageInput],
        *,
        score_threshold: float | None = None,
        batch_size: int = 1,
    ) -> list[Result]:
        """`__call__` for a list, by default with every result, whatever its score.

        A detector's ``test.score_threshold`` applies before.
        """
        if is_image(images):
            raise ConfigError("predict takes a list of images: write predict([image])")
        least = 0.0 if score_threshold is None else score_threshold
        return self(images, score_threshold=least, batch_size=batch_size)

    def _stream(
        self, items: Iterable[tuple[str, Any]], call: Call, readers: int
    ) -> Iterator[Result | FailedImage]:
        def read(item: tuple[str, Any]) -> tuple[str, Any, Prepared | ImageError]:
            name, image = item
            try:
                return name, image, self.prepare(image, call.values)
            except ImageError as error:
                return name, image, error

        with ExitStack() as stack:
            if isinstance(items, Generator):
                stack.callback(items.close)  # also for who leaves early
            if readers:
                pool = stack.enter_context(ThreadPoolExecutor(readers, "decode"))
                loaded = in_order(pool, read, items, call.batch_size + readers, wait=True)
            else:
                loaded = map(read, items)
            while chunk := list(islice(loaded, call.batch_size)):
                usable = [each for _, _, each in chunk if isinstance(each, Prepared)]
                found = iter(self.detect(usable, score_threshold=call.score_threshold))
                for name, image, prepared in chunk:
                    yield self._result(name, image, prepared, found, call.on_error)

    def _result(
        self,
        name: str,
        image: Any,
        prepared: Prepared | ImageError,
        found: Iterator[Any],
        on_error: OnError,
    ) -> Result | FailedImage:
        """The result of one image; that of a usable one is the next of ``found``."""
        error = prepared if isinstance(prepared, ImageError) else None
        if isinstance(prepared, Prepared):
            result = self.result(name, image, prepared, next(found))
            if self.output.is_finite(result.found):
                return result
            error = ImageError(f"{name}: the network gave {self.output.numbers} that are NaN")
        assert error is not None  # noqa: S101  not usable
        if on_error == "raise":
            raise error
        return FailedImage(name, error, path_of(image))

    # ---------------------------------------------------------------------------------- steps

    def prepare(
        self,
        image: ImageInput,
        values: ArrayValues | None = None,
        loaded: LoadedImage | None = None,
    ) -> Prepared:
        """Read and check one image, unless it is ``loaded``, and make the networks' input; safe to
        call from several threads."""
        loaded = loaded or load_image(image, self.rules, values or ArrayValues())
        return Prepared(loaded, self.pipeline.sample(loaded.pixels, image_name(image)))

    def detect(
        self, prepared: Sequence[Prepared], *, score_threshold: float | None = None
    ) -> list[Any]:
        """The `Detections`, or `RankedClasses`, of prepared images, in their order."""
        expect_ready(self.pipeline)
        with autocast(self.device, self.precision):
            found = self.pipeline.detect(prepared)
        if score_threshold is None:
            return list(found)
        return [one[~(one.scores < score_threshold)] for one in found]  # NaN stays, to be told

    def result(self, name: str, image: ImageInput, prepared: Prepared, found: Any) -> Result:
        """The result of one image called ``name``, whose ``found`` is that of `detect`."""
        about = ResultImage.of(name, image, prepared.loaded, self.rules)
        made: Any = self.output.result(found, self.classes, about)
        return made

    def to(
        self, device: torch.device | str | int | None = None, *, precision: str | None = None
    ) -> Self:
        """Move the networks to a device, as `resdet.load` names it, or compute in another
        ``precision``: ``fp32``, ``bf16``, ``fp16`` or ``auto``. Weights stay float32. Returns self.

        Raises ConfigError for an unknown device or precision.
        """
        if precision not in (None, *PRECISIONS):
            raise ConfigError(f"precision {precision!r}: choose from {', '.join(PRECISIONS)}")
        self.device = self.device if device is None else pick_device(device)
        self.precision = precision or self.precision
        self.pipeline.to(self.device)
        return self
