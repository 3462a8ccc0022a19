"""The evaluation of a run folder, as parts of its report page."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from resdet.datasets.class_words import with_words
from resdet.datasets.image import read_image
from resdet.detection.config.files import read_stored, stated_task
from resdet.detection.config.paths import opened_paths
from resdet.detection.engine.history import History
from resdet.detection.errors import ImageError, ResdetError, first_few
from resdet.detection.evaluation.advice import costliest, doubled
from resdet.detection.evaluation.class_page import ConfusionTable, class_view, confusion_table
from resdet.detection.evaluation.definitions import DEFINITIONS
from resdet.detection.evaluation.error_page import error_view
from resdet.detection.evaluation.image_records import IMAGES, read_images
from resdet.detection.evaluation.page import HEADLINES, ClassTable, Metric, class_table
from resdet.detection.files import read_limited
from resdet.detection.tasks.detector import DETECTION
from resdet.detection.tasks.named_paths import OPTION
from resdet.detection.tasks.registry import TASKS

#: A class of a lower AP is hardly found.
HARDLY = 0.1
#: Confusions that the advice names.
MAX_PAIRS = 3
#: The gain of the last evaluation in training from which on a longer one is worth trying.
STILL_RISING = 0.01


@dataclass(frozen=True)
class Scores:
    """``score`` is the score threshold with the largest F1."""

    metrics: Sequence[Metric] = ()
    per_class: ClassTable = field(default_factory=ClassTable)
    facts: Sequence[tuple[str, str]] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    advice: str = ""
    score: float = 0.5
    confused: ConfusionTable | None = None
    #: Detections of this score and above are in ``confused``.
    confusion_score: float = 0.0


def read_scores(run_dir: Path, notes: list[str]) -> Scores | None:
    """The evaluation of a run, or of the folder that eval wrote."""
    places = [run_dir / "eval" / "metrics.json", run_dir / "metrics.json"]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        notes.append("eval/metrics.json: not there, no per-class numbers")
        return None
    try:
        raw = json.loads(read_limited(path).decode("utf-8"))
        scores = _scores(_with_words(raw))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        notes.append(f"{path}: cannot be used: {error}")
        return None
    notes += [str(note) for note in raw.get("notes", ())]
    return scores


def _scores(raw: Mapping[str, Any]) -> Scores:
    definitions, intervals = raw["definitions"], raw.get("intervals", {})
    score = raw.get("operating_points", {}).get("best_f1", {}).get("score")
    table = _confused(raw)
    baseline = {k: value for k, value in raw.get("baseline", {}).items() if value is not None}
    texts = {
        name: f"{definitions.get(name, '')}; the mean box of the class: {value:.3f}"
        for name, value in baseline.items()
    }
    confusion_score = raw.get("confusion", {}).get("score", 0.0)
    advice = (
        _hardly_found(raw["per_class"]),
        costliest(_dap(raw), _pairs(table), confusion_score),
        _no_better(raw["metrics"], baseline),
    )
    return Scores(
        [
            Metric(name, value, {**definitions, **texts}.get(name, ""), **intervals.get(name, {}))
            for name, value in raw["metrics"].items()
        ],
        class_table(raw["per_class"], definitions),
        [("images evaluated", str(raw["images"]))],
        {name: label for label, name in enumerate(raw.get("classes", ()))},
        "\n".join(filter(None, advice)),
        0.5 if score is None else score,
        table,
        confusion_score,
    )


def _with_words(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``metrics.json`` with the words of classes that are ids beside them."""
    words = raw.get("class_words", {})
    return {
        **raw,
        "classes": [with_words(name, words) for name in raw.get("classes", ())],
        "per_class": [
            {
                key: with_words(value, words) if isinstance(value, str) else value
                for key, value in row.items()
            }
            for row in raw["per_class"]
        ],
    }


def _dap(raw: Mapping[str, Any]) -> Mapping[str, float | None]:
    costs: Mapping[str, float | None] = raw.get("errors", {}).get("dap", {})
    return costs


def _no_better(metrics: Mapping[str, float | None], baseline: Mapping[str, float]) -> str:
    """Of a localizer that learned less than the mean box of each class knows; "" elsewhere."""
    own, mean = (each.get("true_class_error") for each in (metrics, baseline))
    if own is None or mean is None or own < mean:
        return ""
    return (
        "it finds objects no better than the mean box of each class in training does, which is at "
        f"the same place in every image and has an error of {mean:.3f}. To do: train longer, or "
        "with pretrained weights"
    )


def _hardly_found(rows: Sequence[Mapping[str, Any]]) -> str:
    """The classes of a detector that it does not find although it finds others, which no type of
    error shows, and what to do; "" without such classes."""
    known = [row for row in rows if row.get("objects") and row.get("voc_ap50") is not None]
    lost = [row for row in known if row["voc_ap50"] < HARDLY]
    if not lost or len(lost) == len(known):
        return ""
    lost.sort(key=lambda row: -row["objects"])
    names = first_few([f"{row['name']} ({row['objects']} objects)" for row in lost])
    return (
        f"hardly found at all: {names}. To do: choose the class below; see with check-data --cfg "
        "whether anchors fit its objects and how many are in training; train longer"
    )


def _confused(raw: Mapping[str, Any]) -> ConfusionTable | None:
    """Of a detector, with no object as the last class; None for other tasks."""
    if "confusion" not in raw:
        return None
    found = raw["confusion"]["counts"]  # a row for each predicted class
    counts = {
        (true, predicted): count
        for predicted, row in enumerate(found)
        for true, count in enumerate(row)
        if count
    }
    totals = Counter[int]()
    for (true, _), count in counts.items():
        totals[true] += count
    classes = [*raw["classes"], "no object"]
    between = {pair: count for pair, count in counts.items() if len(classes) - 1 not in pair}
    pairs = confusion_table(between, totals, classes).pairs
    return replace(confusion_table(counts, totals, classes), pairs=pairs)


def _pairs(table: ConfusionTable | None) -> list[str]:
    """The most frequent confusions in words."""
    pairs = table.pairs[:MAX_PAIRS] if table else ()
    return [f"{each.true} as {each.predicted} ({each.count})" for each in pairs]


def read_views(run_dir: Path, scores: Scores, notes: list[str], trust: bool) -> dict[str, Any]:
    """What went wrong in each image of an evaluation, as fields of the page. Images outside of the
    run and its data are opened only with ``trust`` in who made the folder."""
    folders = [folder for folder in (run_dir / "eval", run_dir) if (folder / IMAGES).is_file()]
    if not folders:
        notes.append(f"eval/{IMAGES}: not there, no images of errors; `resdet eval` writes it")
        return {}
    try:
        records = read_images(folders[0])
        read = _pixels if trust else partial(_known_pixels, _known_folders(run_dir))
        if records.task == DETECTION.name:
            view = error_view(records, read, scores.score)
            confused = {"confused": scores.confused, "confusion_score": scores.confusion_score}
            return {"errors": view, "doubled": doubled(records), **confused}
        labels = scores.labels if len(scores.labels) == len(records.classes) else records.classes
        return {"confusions": class_view(replace(records, classes=tuple(labels)), read)}
    except ResdetError as error:
        notes.append(str(error))
    except (LookupError, TypeError, ValueError, AttributeError):
        notes.append(f"{folders[0] / IMAGES}: damaged; `resdet eval` writes it again")
    return {}


def _pixels(path: Path) -> Any:
    return read_image(path).pixels


def _known_pixels(folders: Sequence[Path], path: Path) -> Any:
    if not any(path.resolve().is_relative_to(folder) for folder in folders):
        raise ImageError(f"{path}: outside of the run and its data; {OPTION} opens it")
    return _pixels(path)


def _known_folders(run_dir: Path) -> list[Path]:
    """The run folder and the data that its config names."""
    known = [run_dir]
    for path in (run_dir / "config.yaml", run_dir.parent / "config.yaml"):
        with suppress(ResdetError, OSError):
            task = TASKS.get(stated_task(path), DETECTION)
            known += opened_paths(read_stored(task.schema, path)).values()
            break
    return [path.resolve() for path in known]


def still_rising(history: History) -> str:
    """What the last evaluations in training say about a longer one; "" unless the last one is the
    best of all and clearly better than the one before."""
    evaluations = history.of("eval")
    for name, (higher, *_) in HEADLINES.items():
        known = [each for each in evaluations if math.isfinite(each.values.get(name, math.nan))]
        if len(known) < 2:
            continue
        values = [each.values[name] if higher else -each.values[name] for each in known]
        if values[-1] < max(values[:-1]) + STILL_RISING:
            return ""
        before, last = known[-2:]
        return (
            f"{name} was still getting better when the training ended: {before.values[name]:.3f} "
            f"at step {before.step}, {last.values[name]:.3f} at step {last.step}. To do: train "
            "longer, --resume RUN with more train.iterations or train.epochs"
        )
    return ""


def scores_in_training(history: History, notes: list[str]) -> Scores:
    evaluations = history.of("eval")
    if not evaluations:
        return Scores()
    last = evaluations[-1]
    notes.append(f"the metrics are those of the last evaluation in training, at step {last.step}")
    return Scores(
        [Metric(name, value, DEFINITIONS.get(name, "")) for name, value in last.values.items()]
    )
