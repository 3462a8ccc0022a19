"""The figures of a run, with contents and empty."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from resdet.datasets.record_columns import Records
from resdet.detection.drawing import class_colour
from resdet.detection.engine import plots
from resdet.detection.engine.history import LogEntry
from resdet.detection.engine.plots import plot_batch, plot_curves, plot_detections, plot_labels
from resdet.detection.errors import ImageError
from resdet.detection.structures import Annotation, Batch, Detections, Geometry, Record, Sample

#: Names that would be mathematics or markup where a name is not taken as data.
CLASSES = ("$\\frac{", "<script>alert(1)</script>", "[bold]x_y^z")


def annotation(*boxes: tuple[float, float, float, float], ignore: bool = False) -> Annotation:
    count = len(boxes)
    return Annotation(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.arange(count) % 3,
        torch.full((count,), ignore),
    )


def batch(*annotations: Annotation) -> Batch:
    black = torch.zeros(80, 120, 3, dtype=torch.uint8)
    samples = [
        Sample(black[: 80 - 10 * i], found, Geometry((80, 120)), f"image {i}")
        for i, found in enumerate(annotations)
    ]
    return Batch.collate(samples)


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        image.load()
        return np.asarray(image.convert("RGB"))


def count_near(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    distance = np.abs(image.astype(int) - np.array(colour)).max(axis=2)
    return int((distance < 40).sum())


def history(folder: Path) -> Path:
    folder.mkdir()
    entries = [LogEntry("train", step, {"loss": 1 / step, "lr": 0.1}) for step in (10, 20, 30)]
    entries += [
        LogEntry("eval", step, {"voc_ap50": step / 100, "val_loss": 1.0}) for step in (20, 30)
    ]
    (folder / "metrics.jsonl").write_text("".join(entry.to_line() for entry in entries))
    return folder


def test_curves_go_to_the_plots_of_the_run(tmp_path: Path) -> None:
    folder = history(tmp_path / "run")
    path = plot_curves(folder)
    assert path == folder / "plots" / "curves.png"
    empty = plot_curves(tmp_path / "nothing", tmp_path / "empty.png")
    # Matplotlib's first colours, in which the first line of each panel is drawn.
    assert count_near(pixels(path), (31, 119, 180)) > 500
    assert count_near(pixels(empty), (31, 119, 180)) == 0
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]


def test_curves_of_values_that_are_not_finite(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        LogEntry("train", 1, {"loss": float("nan"), "lr": 0.0}).to_line()
        + LogEntry("eval", 1, {"voc_ap50": float("nan")}).to_line()
    )
    assert pixels(plot_curves(tmp_path)).size


def test_a_batch_shows_its_boxes_in_the_colours_of_the_classes(tmp_path: Path) -> None:
    drawn = plot_batch(batch(annotation((10, 10, 110, 70))), CLASSES, tmp_path / "s" / "b.png")
    plain = plot_batch(batch(annotation()), CLASSES, tmp_path / "plain.png")
    assert count_near(pixels(drawn), class_colour(0)) > 500
    assert count_near(pixels(plain), class_colour(0)) == 0


def test_ignored_boxes_are_grey_and_dashed(tmp_path: Path) -> None:
    box = (10.0, 10.0, 110.0, 70.0)
    drawn = plot_batch(batch(annotation(box)), CLASSES, tmp_path / "a.png")
    ignored = plot_batch(batch(annotation(box, ignore=True)), CLASSES, tmp_path / "b.png")
    assert count_near(pixels(ignored), class_colour(0)) == 0
    below = slice(200, None)  # without the label
    grey = count_near(pixels(ignored)[below], (153, 153, 153))
    line = count_near(pixels(drawn)[below], class_colour(0))
    assert 200 < grey < 0.8 * line  # there are gaps


def test_a_box_is_drawn_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One network pixel is 4 image pixels: the line must surround exactly the white square."""
    monkeypatch.setattr(plots, "_CELL_INCHES", 5.0)
    image = torch.zeros(100, 100, 3, dtype=torch.uint8)
    image[40:60, 40:60] = 255
    found = Annotation(torch.tensor([[40.0, 40, 60, 60]]), torch.tensor([0]), torch.tensor([False]))
    sample = Sample(image, found, Geometry((100, 100)), "x")
    drawn = pixels(plot_batch(Batch.collate([sample]), ["a"], tmp_path / "x.png"))
    white = (drawn.min(axis=2) > 250)[100:400, 100:400]
    ys, xs = np.nonzero(white)
    line = np.abs(drawn.astype(int) - np.array(class_colour(0))).max(axis=2) < 60
    line_ys, line_xs = np.nonzero(line[100:400, 100:400])
    assert abs(line_xs.min() + line_xs.max() - xs.min() - xs.max()) <= 2
    assert line_xs.min() < xs.min() < xs.max() < line_xs.max()
    assert line_ys.max() > ys.max()
    assert line_xs.max() - xs.max() <= 4


def test_padding_and_images_past_the_limit_are_not_shown(tmp_path: Path) -> None:
    many = batch(*[annotation()] * 3)
    many = Batch(
        many.images.repeat(10, 1, 1, 1),
        many.sizes * 10,
        many.annotations * 10,
        many.geometries * 10,
        many.image_ids * 10,
        many.seeds * 10,
    )
    height, width = pixels(plot_batch(many, CLASSES, tmp_path / "x.png")).shape[:2]
    assert (height, width) == (1600, 1600)  # four rows of four cells of 4 inches


def test_detections_stand_beside_the_truth(tmp_path: Path) -> None:
    Image.new("RGB", (120, 80)).save(tmp_path / "a.png")
    records = [
        Record("a", tmp_path / "a.png", (80, 120), annotation((10, 10, 60, 60))),
        Record("b", tmp_path / "a.png", (80, 120)),
    ]
    found = Detections(
        torch.tensor([[10.0, 10, 60, 60], [20, 20, 70, 70]]),
        torch.tensor([0.9, 0.1]),
        torch.tensor([1, 2]),
    )
    path = plot_detections(records, {"a": found}, CLASSES, tmp_path / "v.jpg")
    image = pixels(path)
    middle = image.shape[1] // 2
    assert count_near(image[:, :middle], class_colour(0)) > 100
    assert count_near(image[:, middle:], class_colour(0)) < 20
    assert count_near(image[:, middle:], class_colour(1)) > 100
    assert count_near(image, class_colour(2)) < 20  # below the score threshold


def test_a_image_that_cannot_be_read_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg"):
        record = Record("a", tmp_path / "gone.jpg", (1, 1))
        plot_detections([record], {}, CLASSES, tmp_path / "x.jpg")


def test_bars_hold_every_class_and_the_rare_ones_share_the_last() -> None:
    classes = [f"class {n}" for n in range(100)]
    counted = Counter({label: label for label in range(100)})
    bars = plots._bars(counted, Counter({99: 5}), classes)
    assert len(bars) == 40
    assert bars[0] == ("class 99", 99, 5)
    assert bars[-1] == ("(61 other classes)", sum(range(61)), 0)
    assert plots._bars(Counter(), Counter(), ["a", "b"]) == [("a", 0, 0), ("b", 0, 0)]


def test_labels_of_a_data_set(tmp_path: Path) -> None:
    boxes = [(10.0, 10.0, 60.0, 60.0)] * 5
    records = [Record("a", tmp_path, (80, 120), annotation(*boxes))]
    ignored = [Record("a", tmp_path, (80, 120), annotation(*boxes, ignore=True))]
    seen = [
        count_near(
            pixels(plot_labels(Records.of(given), CLASSES, tmp_path / "labels.png")), (31, 119, 180)
        )
        for given in (records, ignored)
    ]
    assert seen[0] > 10 * seen[1]


def test_nothing_to_show_is_a_image_that_says_so(tmp_path: Path) -> None:
    none = Batch(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), [], [], [], [], [])
    paths = [
        plot_curves(tmp_path / "no run", tmp_path / "a.png"),
        plot_batch(none, [], tmp_path / "b.png"),
        plot_labels(Records.of([]), [], tmp_path / "c.png"),
        plot_detections([], {}, [], tmp_path / "d.png"),
    ]
    for path in paths:
        assert (pixels(path).min(axis=2) < 200).sum() > 100  # letters


def test_a_image_that_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    path = plot_labels(Records.of([]), [], tmp_path / "x.png")
    before = path.read_bytes()
    with pytest.raises(IndexError):
        plot_batch(batch(annotation((1, 1, 9, 9))), [], path)  # no name for label 0
    assert path.read_bytes() == before


def test_a_curve_of_one_point_is_a_marker_and_the_others_stay_lines() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plots._lines(axes, "scores", {"first": ([5], [0.5]), "second": ([1, 2], [0.1, 0.2])})
    first, second = axes.get_lines()
    assert (first.get_marker(), second.get_linestyle(), second.get_marker()) == ("o", "-", "None")
