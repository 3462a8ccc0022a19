"""Top-1 and top-5 error: worked by hand, with ties, without images, and as files."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from resdet.detection.errors import DataError
from resdet.detection.evaluation.classification import (
    Classification,
    evaluate_scores,
    label_ranks,
)
from resdet.detection.evaluation.report import print_report, write_report
from resdet.detection.structures import Record
from rich.console import Console

NAMES = ("ant", "=bee", "cat", "dog", "eel", "fox", "gnu")


def record(name: str, label: int | None) -> Record:
    return Record(name, Path(f"{name}.jpg"), (4, 4), image_label=label)


def scored(**rows: list[float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(row) for name, row in rows.items()}


RECORDS = [record("a", 0), record("b", 0), record("c", 1), record("d", 6)]
SCORES = scored(
    a=[0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],  # right
    b=[0.2, 0.1, 0.5, 0.1, 0.1, 0.0, 0.0],  # second
    c=[0.1, 0.01, 0.3, 0.2, 0.2, 0.15, 0.04],  # seventh
    d=[0.2, 0.2, 0.2, 0.15, 0.14, 0.01, 0.1],  # sixth
)


def test_by_hand() -> None:
    found = evaluate_scores(SCORES, RECORDS, NAMES)
    assert found.images == 4
    assert found.metrics["top1_error"] == 0.75
    assert found.metrics["top5_error"] == 0.5
    mean = -(math.log(0.4) + math.log(0.2) + math.log(0.01) + math.log(0.1)) / 4
    assert found.metrics["loss"] == pytest.approx(mean, rel=1e-6)
    ant, bee, cat, *_, gnu = found.per_class
    assert (ant.images, ant.top1_error, ant.top5_error) == (2, 0.5, 0.0)
    assert (ant.taken_for, ant.taken_for_images) == ("cat", 1)
    assert (bee.images, bee.top1_error, bee.top5_error, bee.taken_for) == (1, 1.0, 1.0, "cat")
    assert (gnu.top1_error, gnu.top5_error, gnu.taken_for) == (1.0, 1.0, "ant")
    assert cat.images == 0 and math.isnan(cat.top1_error) and cat.taken_for == ""


def test_some_of_the_classes_by_hand() -> None:
    """As a network without the other outputs would be judged, whatever the order of the names."""
    found = evaluate_scores(SCORES, RECORDS, NAMES, only=("cat", "ant"))
    assert found.images == 2  # c and d are of other classes
    assert [row.name for row in found.per_class] == ["ant", "cat"]
    assert found.metrics["top1_error"] == 0.5 and found.metrics["top5_error"] == 0
    mean = -(math.log(0.4 / 0.5) + math.log(0.2 / 0.7)) / 2
    assert found.metrics["loss"] == pytest.approx(mean, rel=1e-6)
    entries = {entry["image"]: entry for entry in found.image_entries()}
    assert entries["b"]["label"] == 0 and entries["b"]["predicted"]["labels"] == [1, 0]
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).double()
    names, kept = ("=bee", "ant", "gnu"), [0, 1, 6]
    rows = {each.image_id: row for each, row in zip(RECORDS, logits.softmax(1), strict=True)}
    loss = evaluate_scores(rows, RECORDS, NAMES, only=names).metrics["loss"]
    targets = torch.tensor([kept.index(each.image_label) for each in RECORDS])
    expected = torch.nn.functional.cross_entropy(logits[:, kept], targets)
    assert loss == pytest.approx(expected.item(), rel=1e-9)
    nowhere = scored(a=[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert evaluate_scores(nowhere, RECORDS[:1], NAMES, only=("ant",)).metrics["top1_error"] == 0
    with pytest.raises(DataError, match="no class 'cow'; there are 'ant'; '=bee'"):
        evaluate_scores(SCORES, RECORDS, NAMES, only=("cow",))


def test_equal_scores_are_in_label_order() -> None:
    """A network that says the same of all classes is right about one class, not about all."""
    ranks = label_ranks(torch.full((7, 7), 1 / 7), torch.arange(7))
    assert ranks.tolist() == list(range(7))


def test_no_number_is_no_right_answer() -> None:
    scores = torch.tensor([[float("nan"), 0.0, 0.0], [0.0, float("nan"), 1.0]])
    assert label_ranks(scores, torch.tensor([0, 2])).tolist() == [3, 3]


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_ranks_are_places_in_a_stable_sort(count: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (count, classes)) / 4  # many ties
    labels = random.integers(0, classes, count)
    expected = [
        sorted(range(classes), key=lambda k, row=row: -row[k]).index(label)  # type: ignore[misc]
        for row, label in zip(scores, labels, strict=True)
    ]
    found = label_ranks(torch.from_numpy(scores), torch.from_numpy(labels))
    assert found.tolist() == expected


def test_nothing_to_score() -> None:
    found = evaluate_scores({}, [], NAMES)
    assert all(math.isnan(value) for value in found.metrics.values())
    assert [row.images for row in found.per_class] == [0] * 7


def test_an_image_without_scores_or_class_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match=r"1 images, the first: z"):
        evaluate_scores(SCORES, [*RECORDS, record("z", 1)], NAMES)
    with pytest.raises(ValueError, match=r"n\.jpg: the record has no class"):
        evaluate_scores(SCORES, [record("n", None)], NAMES)


def test_files_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Classification, "max_rows", 2)
    evaluation = evaluate_scores(SCORES, RECORDS, NAMES)
    metrics, table, _ = write_report(evaluation, tmp_path / "new")
    content = json.loads(metrics.read_text())
    assert content["metrics"]["top1_error"] == 0.75
    assert content["per_class"][2]["top1_error"] is None
    assert set(content["definitions"]) >= {*content["metrics"], "taken_for"}
    rows = list(csv.DictReader(table.open()))
    assert [row["name"] for row in rows[:3]] == ["'=bee", "gnu", "ant"]  # worst first, no formula
    assert rows[3]["top1_error"] == ""
    text = io.StringIO()
    print_report(evaluation, Console(file=text, width=90))
    assert "=bee" in text.getvalue() and "and 5 better classes" in text.getvalue()
    assert "0.7500" in text.getvalue()
