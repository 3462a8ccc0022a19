"""One HTML page about a run over images: what was found, the least certain images first.

The page holds small images within a budget of bytes, whose boxes its script ``found.js`` draws from
any score on; the other images are named, with links to their drawings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ...datasets.class_words import with_words
from ..errors import ConfigError, first_few
from ..files import write_file
from ..pages.rendering import render_html
from ..pages.shots import BUDGET, ImageBudget, Reader, Shot, class_hex, read_shot, scaled_box
from ..printing import printable
from .records import CLASS_RECORDS, INPUTS, META, RECORDS, read_meta, read_records

#: The name of the page in the folder of a run.
PAGE = "page.html"
#: The least certain images, further ones of classes that these do not show, and their longer side.
UNSURE, MORE, SIDE = 240, 60, 400
#: Detections of an image in the page, those of the highest scores; the counts are of all.
MAX_DETECTIONS = 100
#: Beyond this number of classes only the counts of all together are in the page.
MAX_CLASSES = 100
#: Images named below those that are shown, failed images, classes of the legend.
MAX_NAMED, MAX_FAILED, MAX_LEGEND = 5000, 200, 30
#: The scores of the slider.
SCORES = tuple(round(number / 100, 2) for number in range(100))

Record = Mapping[str, Any]


@dataclass(frozen=True)
class FoundCase:
    """An image of the page: its whole ``path`` and its ``name`` in the folder of all; ``words`` are
    its results, ``ranked`` the best classes of a classifier or localizer with their scores,
    ``drawn`` is the link to its drawing, or empty."""

    path: str
    name: str
    words: str
    drawn: str
    shot: Shot
    ranked: Sequence[tuple[str, float]]


def write_folder_page(
    out: Path,
    sources: Mapping[str, Path],
    read: Reader,
    *,
    words: Mapping[str, str] | None = None,
    located: bool = False,
) -> Path:
    """Write ``page.html`` of the run in ``out``; ``sources`` are the files of its images by name,
    ``words`` those of `class_words`; ``located`` are the boxes of a localizer.

    Raises DataError or ConfigError for a folder without complete records.
    """
    meta, words = read_meta(out), words or {}
    meta = {**meta, "classes": [with_words(str(name), words) for name in meta["classes"]]}
    ranks = (out / CLASS_RECORDS).exists()
    read_all = read_records(out / (CLASS_RECORDS if ranks else RECORDS))
    records = [_named(record, words) for record in read_all]
    records = [_best_box(record) for record in records] if located else records
    path = out / PAGE
    try:
        write_file(path, _page(meta, records, sources, read, ranks=ranks, located=located))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def doubt(record: Record) -> float:
    """The sum of s (1 - s) over the scores: if they were probabilities, the variance of the number
    of right results."""
    return float(sum(each["score"] * (1 - each["score"]) for each in _found(record)))


def _page(
    meta: Mapping[str, Any],
    records: Sequence[Record],
    sources: Mapping[str, Path],
    read: Reader,
    *,
    ranks: bool,
    located: bool,
) -> str:
    classes = meta["classes"]
    labels = {name: label for label, name in enumerate(classes)}
    usable = [record for record in records if record.get("error") is None]
    folder = _common_folder([record["file"] for record in records])
    failed = [
        (each["file"].removeprefix(folder), each["error"])
        for each in records
        if each.get("error") is not None
    ]
    usable.sort(key=lambda record: (-doubt(record), record["file"]))
    chosen = _chosen(usable)
    budget = ImageBudget(BUDGET)
    cases, results = [], []
    for record in chosen:
        source = sources.get(record["file"])
        shot, scale = _shot(record["file"], source, read, budget)
        cases.append(_case(record, shot, folder))
        results.append(_results(record, labels, scale))
    shown = {record["file"] for record in chosen}
    others = [record for record in usable if record["file"] not in shown]
    counts = Counter(labels[each["label"]] for record in usable for each in _found(record))
    least = min([meta["score_threshold"], *meta.get("class_thresholds", {}).values()])
    data = {
        "classes": classes,
        "colours": [class_hex(label) for label in range(len(classes))],
        "scores": SCORES,
        "least": least,
        "ranks": ranks or located,
        "counts": _counts(usable, labels),
        "cases": results,
    }
    return render_html(
        Path(__file__).with_name("found.html.j2"),
        {"colour": class_hex},
        scripts=("boxes.js", "found.js"),
        data=data,
        cases=cases,
        ranks=ranks,
        located=located,
        folder=folder,
        kept=_kept(meta),
        images=len(usable),
        total=len(records),
        failed=failed[:MAX_FAILED],
        failures=len(failed),
        legend=[(label, classes[label]) for label, _ in counts.most_common(MAX_LEGEND)],
        named=[_case(record, Shot(""), folder) for record in others[:MAX_NAMED]],
        hidden=max(0, len(others) - MAX_NAMED),
        facts=_facts(meta),
        records=CLASS_RECORDS if ranks else RECORDS,
    )


def _named(record: Record, words: Mapping[str, str]) -> Record:
    """With the words of classes that are ids beside them."""
    parts = [part for part in ("detections", "classes") if words and part in record]
    named = {
        part: [{**each, "label": with_words(each["label"], words)} for each in record[part]]
        for part in parts
    }
    return {**record, **named}


def _best_box(record: Record) -> Record:
    """Of a localizer, which has one box of each likely class, the best one, and all in words."""
    if "detections" not in record:
        return record
    ranked = sorted(record["detections"], key=lambda each: -each["score"])
    return {**record, "detections": ranked[:1], "ranked": ranked}


def _common_folder(names: Sequence[str]) -> str:
    """The folder that all names are in, with a slash at its end; "" without."""
    levels = zip(*(name.split("/")[:-1] for name in names), strict=False)
    common = takewhile(lambda level: len(set(level)) == 1, levels)
    return "".join(f"{level[0]}/" for level in common) if len(names) > 1 else ""


def _found(record: Record) -> Sequence[Mapping[str, Any]]:
    """The detections, or the best class."""
    found: Sequence[Mapping[str, Any]] = record.get("detections", record.get("classes", [])[:1])
    return found


def _chosen(records: Sequence[Record]) -> list[Record]:
    """The first records, and the first one of each class that they do not show."""
    chosen = list(records[:UNSURE])
    seen = {each["label"] for record in chosen for each in _found(record)}
    for record in records[UNSURE:]:
        if len(chosen) == UNSURE + MORE:
            break
        own = {each["label"] for each in _found(record)}
        if not own <= seen:
            chosen.append(record)
            seen |= own
    return chosen


def _shot(name: str, source: Path | None, read: Reader, budget: ImageBudget) -> tuple[Shot, float]:
    if source is None:
        return Shot(name, why="it is none of the given images"), 1.0
    return read_shot(printable(name), source, read, budget, SIDE)


def _case(record: Record, shot: Shot, folder: str) -> FoundCase:
    counts = Counter(each["label"] for each in _found(record))
    ranking = record.get("ranked", record.get("classes"))
    numbered = ranking is None  # a classifier's image has one best class
    words = ", ".join(
        f"{count} {label}" if numbered else label for label, count in counts.most_common(8)
    )
    ranked = [(each["label"], each["score"]) for each in ranking or ()]
    drawn = quote(record["drawn"]) if "drawn" in record else ""
    path = record["file"]
    return FoundCase(path, path.removeprefix(folder), words or "nothing found", drawn, shot, ranked)


def _results(record: Record, labels: Mapping[str, int], scale: float) -> list[list[float]]:
    """(x1, y1, x2, y2, label, score) by falling score, in pixels of the shown image; the best class
    of a classifier has a box without area."""
    found = sorted(_found(record), key=lambda each: -each["score"])
    return [
        [*scaled_box(each.get("box", (0, 0, 0, 0)), scale), labels[each["label"]], each["score"]]
        for each in found[:MAX_DETECTIONS]
    ]


def _counts(records: Sequence[Record], labels: Mapping[str, int]) -> dict[str, list[list[int]]]:
    """The number of results, and of images with any, from each of SCORES on: lists by class, the
    last one of all classes together."""
    tables = {name: np.zeros((len(labels) + 1, len(SCORES)), np.int64) for name in ("found", "in")}
    for record in records:
        best: dict[int, int] = {}
        for each in _found(record):
            # The last score of the slider that the result reaches.
            place = int(np.searchsorted(SCORES, each["score"], side="right")) - 1
            for row in (labels[each["label"]], len(labels)):
                tables["found"][row, : place + 1] += 1
                best[row] = max(best.get(row, -1), place)
        for row, place in best.items():
            tables["in"][row, : place + 1] += 1
    own = len(labels) if len(labels) <= MAX_CLASSES else 0
    return {name: [*table[:own].tolist(), table[-1].tolist()] for name, table in tables.items()}


def _kept(meta: Mapping[str, Any]) -> str:
    """The scores from which on results were kept, where those of classes differ; "" elsewhere."""
    of_classes = meta.get("class_thresholds", {})
    general = meta["score_threshold"]
    words = [f"{name} {of_classes.get(name, general):.3g}" for name in meta["classes"]]
    return first_few(words, 20) if of_classes else ""


def _facts(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of the run, but for its classes."""
    shown = {name: value for name, value in meta.items() if name != "classes"}
    if INPUTS in shown:
        shown[INPUTS] = first_few(shown[INPUTS])
    return [*((name, str(value)) for name, value in shown.items()), ("settings in", META)]
