"""Commands as functions, for notebooks, programs and threads.

run = resdet.train("mine.yaml", "train.lr=0.01", out="runs/a")
evaluation = resdet.evaluate(run.weights, "test.nms_iou=0.4")
report = resdet.check_data("data/mine", quick=True)
summary = resdet.infer(run.weights, "photos/", out="found")

They take the options of their commands as keywords, print what the commands print, write the same
files, and raise a `ResdetError` in place of an exit code. Signals are handled in the main thread
only: there the first Ctrl-C ends a training or a prediction of a folder after a saved checkpoint or
record, and the result says so.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, Unpack

from resdet.detection.errors import ConfigError, DataError, first_few

if TYPE_CHECKING:
    from resdet.datasets.checks.check import Report
    from resdet.detection.evaluation.report import Evaluation
    from resdet.detection.inference.folder import FolderSummary
    from resdet.detection.tasks.trained_run import TrainedRun

Place = str | os.PathLike[str]
Places = Place | Sequence[Place]

#: The options whose command takes several values in one word, separated by commas.
_LISTS = ("classes", "sizes", "thresholds")


class TrainOptions(TypedDict, total=False):
    """The options of `train`, which are those of ``resdet train-det``; ``fork`` is ``--from``, and
    ``resume=True`` finds the latest run of the config."""

    out: Place | None
    resume: Place | bool | None
    fork: Place | None
    weights: Place | None
    reset_head: bool
    device: str | None
    seed: int | None
    amp: bool
    trust_paths: bool


class EvaluateOptions(TypedDict, total=False):
    """The options of `evaluate`, which are those of ``resdet eval``."""

    cfg: Place | None
    predictions: Place | None
    annotations: Place | None
    manifest: Place | None
    split: str
    out: Place | None
    device: str | None
    compile: str | None
    classes: Sequence[str]
    sizes: Sequence[float]
    conf: float | None
    thresholds: Sequence[float]
    resamples: int
    no_coco: bool
    hotcoco: bool
    save_json: bool
    save_voc: bool
    mean_box: bool
    submission: Place | None
    trust_paths: bool


class CheckOptions(TypedDict, total=False):
    """The options of `check_data`, which are those of ``resdet check-data``."""

    cfg: Place | None
    format: str | None
    annotations: Places | None
    coordinates: str
    classes: Sequence[str]
    write_classes: Place | None
    write_config: Place | None
    out: Place | None
    allow_outside: bool
    max_pixels: int | None
    quick: bool
    workers: int | None
    no_cache: bool


class InferOptions(TypedDict, total=False):
    """The options of `infer`, which are those of ``resdet infer``; ``conf`` may map classes to
    their minimum scores."""

    out: Place | None
    conf: float | str | Sequence[str] | Mapping[str, float]
    classes: Sequence[str]
    agnostic_nms: bool
    batch_size: int
    device: str | None
    compile: str | None
    workers: int
    draw: bool
    tile: int | None
    overlap: float | None
    save_crop: bool
    sort_by_class: bool
    coco_ids: Place | None
    format: str | Sequence[str]
    resume: bool
    shard: str
    every: int | None
    page: bool
    include_hidden: bool
    max_pixels: int | None
    timeout_per_image: float | None
    manifest: Place | None
    engine: str
    actors: int | None
    parts: str
    strict: bool
    trust_paths: bool


def train(cfg: Place | None = None, *overrides: str, **options: Unpack[TrainOptions]) -> TrainedRun:
    """Train the detector, classifier or localizer of a config, as ``resdet train-det``,
    ``train-cls`` and ``train-loc`` do; without ``cfg``, as in ``train(None, "train.iterations=90",
    resume="runs/a")``, the run of the option ``resume`` or ``fork``.

    Raises ConfigError, DataError and WeightsError before the first step, DivergedError when the
    loss stays non-finite, and what `Training.run` raises.
    """
    from resdet.tools.training import train as run

    words = [] if cfg is None else [f"--cfg={os.fspath(cfg)}"]
    done = run(_arguments("train-det", [*words, *_words(overrides)], options, TrainOptions))
    assert done is not None  # noqa: S101  there is no option for a dry run
    return done


def evaluate(
    weights: Places | None = None, *overrides: str, **options: Unpack[EvaluateOptions]
) -> Evaluation | None:
    """Evaluate trained weights, several as an ensemble, or the detections in the option
    ``predictions``, as ``resdet eval`` does.

    Returns the numbers, or None for images without annotations, whose detections are only written.
    Raises ConfigError, DataError and WeightsError.
    """
    from resdet.tools.eval import evaluate as run

    given = {**options, "weights": weights}
    return run(_arguments("eval", _words(overrides), given, EvaluateOptions, "weights"))


def check_data(*words: Place, **options: Unpack[CheckOptions]) -> Report:
    """Check the data set in a folder, or of the option ``cfg`` with overrides as ``words``, as
    ``resdet check-data`` does. Returns the report, also of data with errors.

    Raises ConfigError for wrong options and for a folder that cannot be checked.
    """
    from resdet.tools.check_data import inspect

    return inspect(_arguments("check-data", _words(words), options, CheckOptions))[1]


def infer(weights: Places, *inputs: Place, **options: Unpack[InferOptions]) -> FolderSummary:
    """Run a model on images, folders, globs, lists or videos and write the results to a folder, as
    ``resdet infer`` does; ``inputs`` may have overrides. `resdet.load` gives results in memory.

    With ``manifest`` the summary names only the first failures.

    Raises ConfigError and WeightsError; and DataError, after everything is written, if all images
    failed, or one that was named itself, or any with ``strict``.
    """
    from resdet.tools.infer import infer as run

    given = {**options, "weights": weights}
    args = _arguments("infer", _words(inputs), given, InferOptions, "weights")
    summary, code = run(args)
    if code and not summary.interrupted:
        failed = first_few((f"{name}: {why}" for name, why in summary.failures), 3)
        raise DataError(f"{len(summary.failures)} of {summary.total} inputs failed: {failed}")
    return summary


class _Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError, where one of a command would end the process."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}")


def _arguments(
    command: str, words: Sequence[str], options: Mapping[str, Any], known: type, *further: str
) -> argparse.Namespace:
    """The options of a command under the names of its parser; ``known`` is their TypedDict.

    Raises TypeError for another option, ConfigError for a value that the command refuses.
    """
    from resdet.tools.cli import COMMANDS

    names = known.__annotations__
    if unknown := [name for name in options if name not in (*names, *further)]:
        expected = ", ".join(names)
        raise TypeError(f"unknown option {', '.join(unknown)}; the options are {expected}")
    parser = _Parser(prog=command, add_help=False, allow_abbrev=False)
    import_module(COMMANDS[command]).add_arguments(parser)
    given = [
        word
        for name, value in options.items()
        for word in _option(name, value, default=parser.get_default(name))
    ]
    return parser.parse_intermixed_args([*words, *given])


def _option(name: str, value: Any, default: Any) -> Iterable[str]:
    """The words of one option: ``draw=False`` is ``--no-draw``, a list repeats the option."""
    option = "from" if name == "fork" else name.replace("_", "-")
    if value is None or (value is False and default is not True):
        return []
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    if isinstance(value, Mapping):
        value = [f"{key}={each}" for key, each in value.items()]
    elif isinstance(value, str | os.PathLike) or not isinstance(value, Iterable):
        value = [value]
    elif name in _LISTS:
        value = [",".join(map(str, value))]
    return [f"--{option}={each}" for each in value]


def _words(given: Iterable[Place]) -> list[str]:
    """Positional arguments, none of which may be taken for an option."""
    words = [os.fspath(each) for each in given]
    if options := [word for word in words if word.startswith("-")]:
        raise ConfigError(f"{options[0]}: options are keywords here, as in out='runs/a'")
    return words
