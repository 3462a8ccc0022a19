"""The report page of a run folder.

It is made from ``config.yaml``, ``env.json``, ``metrics.jsonl``, ``eval/``, ``plots/`` and
``samples/`` of a run, and ``detections.jsonl`` and ``drawn/`` of an infer output. Missing or
damaged files are left out and named in the notes of the page.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from resdet.datasets.image import read_image
from resdet.detection.config.base import TrainConfig
from resdet.detection.config.files import read_stored, stated_task
from resdet.detection.engine.history import History, read_history
from resdet.detection.engine.plots import plot_curves
from resdet.detection.errors import ConfigError, ResdetError
from resdet.detection.evaluation.page import (
    Page,
    PageSection,
)
from resdet.detection.files import read_limited
from resdet.detection.inference.outputs import DRAWN
from resdet.detection.inference.records import CLASS_RECORDS, RECORDS, read_records
from resdet.detection.pages.shots import Shot
from resdet.detection.tasks.detector import DETECTION
from resdet.detection.tasks.registry import TASKS
from resdet.tools.run_evaluation import read_scores, read_views, scores_in_training, still_rising

#: Drawn images on the page, so that it stays a few MB.
MAX_DRAWN = 24
#: Longest side in pixels of a plot or a panel, and of an image in a gallery.
WIDE, SMALL = 1400, 800
#: Width and height at which the curves are shown.
CURVES = (1080, 324)
#: Width and height of an SVG file.
_NUMBER = r"([1-9]\d{0,5}(?:\.\d{0,9})?)"
_SHAPE = re.compile(rf'<svg[^>]* viewBox="0 0 {_NUMBER} {_NUMBER}"')
#: A run folder has at least one of these files.
RUN_FILES = ("config.yaml", "metrics.jsonl", "eval/metrics.json", "metrics.json")
FILES: Mapping[str, str] = {
    "config.yaml": "every setting of the run",
    "env.json": "versions and device",
    "train.log": "the log",
    "metrics.jsonl": "all logged values, a JSON object per line",
    "results.csv": "the evaluations, a row per evaluation",
    "weights": "checkpoints",
    "plots": "curves",
    "samples": "batches and detections as drawn images",
    "eval": "the evaluation: numbers, classes, detections",
    "tensorboard": "the same curves for TensorBoard",
}


def build_page(run_dir: Path, detections: Path | None = None, *, trust: bool = False) -> Page:
    """The page of ``run_dir``, with the drawings of an infer output folder. Images that its
    evaluation names outside of the run and its data are opened only with ``trust``.

    Raises ConfigError if ``run_dir`` is no run folder or ``detections`` has no drawings.
    """
    if not any((run_dir / name).is_file() for name in RUN_FILES):
        raise ConfigError(f"{run_dir}: not a run folder: it has none of {', '.join(RUN_FILES)}")
    if detections is not None and not (detections / DRAWN).is_dir():
        raise ConfigError(
            f"{detections}: not an output folder of infer with drawings: it has no {DRAWN}/"
        )
    notes: list[str] = []
    history = read_history(run_dir)
    notes += [f"metrics.jsonl:{line}: incomplete line, left out" for line in history.damaged]
    scores = read_scores(run_dir, notes) or scores_in_training(history, notes)
    details = [
        (name, text)
        for name in ("config.yaml", "env.json")
        if (text := _text(run_dir, name, notes))
    ]
    views = read_views(run_dir, scores, notes, trust)
    advice = (scores.advice, views.pop("doubled", ""), still_rising(history))
    sections = [
        _curves(run_dir, history, notes),
        *_galleries(run_dir, notes, views),
    ]
    if detections is not None:
        sections.append(_drawn(detections, notes))
    return Page(
        title=run_dir.resolve().name,
        metrics=scores.metrics,
        per_class=scores.per_class,
        facts=[*_config_facts(run_dir, notes), *_history_facts(history), *scores.facts],
        details=details,
        sections=[section for section in sections if section.images],
        files=[(str(run_dir / name), FILES[name]) for name in FILES if (run_dir / name).exists()],
        notes=notes,
        advice="\n".join(filter(None, advice)),
        **views,
        labels=scores.labels,
    )


def _text(run_dir: Path, name: str, notes: list[str]) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        return read_limited(run_dir / name).decode("utf-8", "replace")
    except FileNotFoundError:
        notes.append(f"{name}: not there")
    except OSError as error:
        notes.append(f"{name}: cannot be read: {error.strerror}")
    return ""


def _config_facts(run_dir: Path, notes: list[str]) -> list[tuple[str, str]]:
    path = run_dir / "config.yaml"
    if not path.is_file():
        return []
    try:
        task = TASKS.get(stated_task(path), DETECTION)
        config: Any = read_stored(task.schema, path)
        return [*task.facts(config), *_training_facts(config.train)]
    except ConfigError as error:
        notes.append(str(error))
        return []


def _training_facts(train: TrainConfig) -> list[tuple[str, str]]:
    steps = f"{train.iterations} steps" if train.epochs is None else f"{train.epochs:g} epochs"
    return [
        ("training", f"{steps}, batches of {train.batch_size} images, {train.precision}"),
        ("learning rate", f"{train.lr:g} for a batch of {train.base_batch_size}"),
        ("seed", str(train.seed)),
    ]


def _history_facts(history: History) -> list[tuple[str, str]]:
    if not history.entries:
        return []
    first, last = history.entries[0], history.entries[-1]
    facts = [("logged", f"steps {first.step} to {last.step}, {first.time} to {last.time}")]
    speeds = [entry.values.get("images_per_s", math.nan) for entry in history.of("train")]
    known = sorted(speed for speed in speeds if math.isfinite(speed))
    if known:
        facts.append(("training speed", f"{known[len(known) // 2]:.3g} images/s (median)"))
    return facts


def _curves(run_dir: Path, history: History, notes: list[str]) -> PageSection:
    """Plotted again: the plots in the folder may be older than the end of the history."""
    if not history.entries:
        notes.append("metrics.jsonl: nothing logged, no curves")
        return PageSection("Curves", ())
    with tempfile.TemporaryDirectory() as folder:
        drawing = plot_curves(run_dir, Path(folder) / "curves.svg").read_text(encoding="utf-8")
    return PageSection("Curves", [Shot.vector("losses and results", drawing, *CURVES)], first=True)


def _galleries(run_dir: Path, notes: list[str], views: Mapping[str, Any]) -> list[PageSection]:
    """Without the plots of an evaluation that the page draws itself."""
    plots = {
        "Precision and recall": ("errors", "pr_curve.png"),
        "Confusion": ("confused", "confusion_matrix.png"),
    }
    found = {
        title: [*run_dir.glob(f"eval/{name}"), *run_dir.glob(name)]
        for title, (view, name) in plots.items()
        if not views.get(view)
    } | {
        "Plots": [p for p in run_dir.glob("plots/*.[ps][nv]g") if p.name != "curves.png"],
        "Samples": list(run_dir.glob("samples/*.jpg")),
    }
    for title, paths in found.items():
        if not paths and title not in plots:  # which a classifier lacks
            notes.append(f"{title.lower()}: no images in the folder")
    return [
        PageSection(
            title,
            _images(sorted(paths), run_dir, notes, max_side=WIDE),
            folded=title in ("Plots", "Samples"),
        )
        for title, paths in found.items()
    ]


def _drawn(folder: Path, notes: list[str]) -> PageSection:
    """The drawings of an infer output, with the detections in words below."""
    paths = sorted((folder / DRAWN).rglob("*.jpg"))
    images = _images(paths[:MAX_DRAWN], folder, notes, max_side=SMALL)
    captions, failed = _captions(folder, notes)
    text = f"{len(images)} of {len(paths)} images in {folder / DRAWN}"
    return PageSection(
        "Detections",
        [replace(p, caption=captions.get(p.caption, p.caption)) for p in images],
        text=f"{text}; {failed} could not be used" if failed else text,
        small=True,
    )


def _captions(folder: Path, notes: list[str]) -> tuple[dict[str, str], int]:
    """{path of a drawing: its detections in words}, and the number of failed images."""
    captions: dict[str, str] = {}
    failed = 0
    ranked = folder / CLASS_RECORDS
    path = ranked if ranked.exists() else folder / RECORDS
    try:
        for record in read_records(path):
            failed += record.get("error") is not None
            if "drawn" in record:
                found = record["classes"][:1] if path == ranked else record["detections"]
                labels = Counter(each["label"] for each in found)
                words = ", ".join(f"{count} {label}" for label, count in labels.most_common(8))
                captions[record["drawn"]] = f"{record['file']}: {words or 'nothing found'}"
    except (OSError, TypeError, LookupError, ResdetError) as error:
        notes.append(f"{path}: cannot be used: {error}")
    return captions, failed


def _images(paths: Iterable[Path], folder: Path, notes: list[str], *, max_side: int) -> list[Shot]:
    """The images that can be read, captioned with their path in ``folder``."""
    images = []
    for path in paths:
        caption = path.relative_to(folder).as_posix()
        if path.suffix == ".svg":
            drawing = _text(folder, caption, notes)
            if shape := _SHAPE.search(drawing):
                height = round(CURVES[0] * float(shape[2]) / float(shape[1]))
                images.append(Shot.vector(caption, drawing, CURVES[0], height))
            elif drawing:
                notes.append(f"{path}: no drawing of a known shape")
            continue
        try:
            pixels = read_image(path).pixels
        except ResdetError as error:
            notes.append(str(error))
            continue
        images.append(Shot.inline(caption, pixels, max_side=max_side))
    return images
