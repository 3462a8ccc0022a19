"""What the result of a classifier can do."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resdet.detection.errors import ConfigError
from resdet.detection.inference.draw import draw_class
from resdet.detection.inference.ranked_classes import RankedClasses
from resdet.detection.inference.result_image import ResultImage
from resdet.detection.inference.result_types import ClassResult, ClassScore

CLASSES = ("cat", "dog <b>", "cow")


@pytest.fixture
def result() -> ClassResult:
    """Most likely a dog, in an array of 80 x 60."""
    found = RankedClasses(torch.tensor([0.7, 0.2, 0.1]), torch.tensor([1, 0, 2]))
    pixels = np.full((60, 80, 3), 90, np.uint8)
    return ClassResult(found, CLASSES, ResultImage("a.png", (60, 80), kept=pixels))


def test_iteration_and_indexing(result: ClassResult) -> None:
    best = ClassScore("dog <b>", pytest.approx(0.7), 1)
    assert result[0] == next(iter(result)) == best
    assert result[-1] == ClassScore("cow", pytest.approx(0.1), 2)
    assert result.names == ["dog <b>", "cat", "cow"]
    assert result[1:].names == result[[1, 2]].names == ["cat", "cow"]
    assert isinstance(result[result.scores < 0.15], ClassResult)
    assert result[result.scores < 0.15].labels.tolist() == [2]
    with pytest.raises(IndexError, match="a mask of 1 for 3 classes"):
        result[[True]]


def test_the_best_and_some_classes(result: ClassResult) -> None:
    assert result.top(1).names == ["dog <b>"]
    assert result.top(2).scores.tolist() == pytest.approx([0.7, 0.2])
    assert result.top().names == result.top(100).names == result.names
    assert result.top(0).names == []
    assert result[::-1].top(1).names == ["dog <b>"]  # whatever their order
    assert result.filter(score_threshold=0.15).names == ["dog <b>", "cat"]
    assert result.filter(classes=["cow", "cat"]).names == ["cat", "cow"]
    with pytest.raises(ConfigError, match=r"class cwo: .*did you mean cow"):
        result.filter(classes="cwo")
    with pytest.raises(ConfigError, match=r"top\(-1\): expected a number of classes"):
        result.top(-1)


def test_records_and_tables(result: ClassResult) -> None:
    record = result.top(2).to_dict()
    assert record["classes"] == [
        {"label": "dog <b>", "score": 0.7},
        {"label": "cat", "score": 0.2},
    ]
    assert (record["file"], record["width"], record["height"]) == ("a.png", 80, 60)
    assert json.loads(result.top(2).to_json()) == record
    pytest.importorskip("pandas")
    table = result.to_pandas()
    assert list(table.columns) == ["file", "width", "height", "rank", "label", "score"]
    assert table.values.tolist()[1] == ["a.png", 80, 60, 2, "cat", 0.2]
    assert len(result.top(0).to_pandas()) == 0


def test_it_draws_and_shows_itself(result: ClassResult, tmp_path: Path) -> None:
    expected = draw_class(result.image.pixels, result.found, CLASSES)
    assert not np.array_equal(expected, result.image.pixels)
    assert np.array_equal(np.asarray(result.draw()), expected)
    assert np.array_equal(np.asarray(Image.open(result.save(tmp_path / "a.png"))), expected)
    assert repr(result).split("\n") == [
        "ClassResult: a.png, 80 x 60, 3 classes",
        "  dog <b> 0.700",
        "  cat 0.200",
        "  cow 0.100",
    ]
    page = result._repr_html_()
    assert "<p>a.png, 80 x 60, 3 classes</p>" in page
    assert "dog &lt;b&gt;" in page and "<b>" not in page
    assert page.count('<img src="data:image/jpeg;base64,') == 1
    assert list(pickle.loads(pickle.dumps(result))) == list(result)  # noqa: S301
