"""Submissions are written in the format of the challenge, read back, and refused if damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.datasets.formats.ilsvrc_files import read_solution
from resdet.datasets.formats.submission import read_submission, write_submission
from resdet.detection.errors import DataError
from resdet.detection.structures import Detections

DOG, CAT = "n02084071", "n02121808"
CLASSES = (CAT, DOG)
HEADER = "ImageId,PredictionString\n"


def predictions(labels: list[int], boxes: list[list[float]]) -> Detections:
    return Detections(
        torch.tensor(boxes).float().reshape(-1, 4),
        torch.linspace(0.9, 0.1, len(labels)),
        torch.tensor(labels, dtype=torch.int64),
    )


def test_what_is_written(tmp_path: Path) -> None:
    found = {
        "val_2": predictions([1, 0], [[0, 0, 10, 10], [1.5, 2.25, 3, 4.0625]]),
        "val_1": predictions([], []),
    }
    path = tmp_path / "found.csv"
    path.write_text("old")
    write_submission(found, CLASSES, path)
    assert path.read_text() == HEADER + f"val_1,\nval_2,{DOG} 1 1 10 10 {CAT} 2.5 3.25 3 4.0625\n"
    assert [each.name for each in tmp_path.iterdir()] == ["found.csv"]
    write_submission(found, ["1", "2"], path)  # class numbers in place of wnids
    assert path.read_text().splitlines()[2].startswith("val_2,2 1 1 10 10 1 2.5")


def test_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "found.csv"
    path.write_bytes(
        b"\xef\xbb\xbfImageId,PredictionString\r\n"
        + f"val_1,{DOG} 111 108 441 193 {CAT} 1 1 1 1 {DOG} 9 9 2 2 \r\n\r\nval_2,\r\n".encode()
    )
    found = read_submission(path, CLASSES)
    assert list(found) == ["val_1", "val_2"]
    first = found["val_1"]
    assert first.boxes.tolist() == [[110, 107, 441, 193], [0, 0, 1, 1], [8, 8, 2, 2]]
    assert first.labels.tolist() == [1, 0, 1]
    assert first.scores.tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert len(found["val_2"]) == 0


def test_a_solution_is_a_submission(tmp_path: Path) -> None:
    """The reader of the challenge's own files agrees, up to its coordinates as written."""
    path = tmp_path / "found.csv"
    write_submission({"v": predictions([1, 1], [[0, 1, 7, 8], [2, 2, 9, 9]])}, CLASSES, path)
    rows, findings = read_solution(path)
    assert findings == []
    assert rows == {"v": [(DOG, (1, 2, 7, 8)), (DOG, (3, 3, 9, 9))]}


sides = st.floats(-1e4, 1e4, width=32)
groups = st.lists(st.tuples(st.integers(0, 1), st.lists(sides, min_size=4, max_size=4)), max_size=5)
ids = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1).filter(
    lambda text: text == text.strip()
)


@settings(max_examples=80)
@given(st.dictionaries(ids, groups, max_size=4))
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, list[tuple[int, list[float]]]]
) -> None:
    path = tmp_path_factory.mktemp("submission") / "found.csv"
    found = {
        name: predictions([label for label, _ in rows], [box for _, box in rows])
        for name, rows in data.items()
    }
    write_submission(found, CLASSES, path)
    again = read_submission(path, CLASSES)
    assert list(again) == sorted(found)
    for name, each in again.items():
        written = found[name]
        assert each.labels.tolist() == written.labels.tolist()
        assert torch.allclose(each.boxes, written.boxes, rtol=0, atol=1e-6)
        large = written.boxes.abs() >= 16
        assert torch.equal(each.boxes[large], written.boxes[large])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: header is [], expected ImageId,PredictionString"),
        ("Id,Prediction\n", "line 1: header is ['Id', 'Prediction'], expected"),
        (f"val_1,{DOG} 1 1 2 2\n", "line 1: header is"),
        (HEADER + "val_1\n", "line 2: ['val_1']: expected an id and a prediction string"),
        (HEADER + f"val_1,{DOG} 1 1 2 2,3\n", "line 2: ['val_1', "),
        (HEADER + f" ,{DOG} 1 1 2 2\n", "line 2: [' ', "),
        (HEADER + f"a,\n\nb,{DOG} 1 1 2\n", "line 4: 4 words, expected groups of a class and four"),
        (HEADER + f"a,{f'{DOG} 1 1 2 2 ' * 6}\n", "line 2: 6 predictions, at most 5 are allowed"),
        (HEADER + f"a,{DOG} 1 1 2 2 wolf 1 1 2 2\n", "line 2: unknown class 'wolf'"),
        (HEADER + f"a,{DOG} 1 1 two 2\n", "line 2: could not convert string to float: 'two'"),
        (HEADER + f"a,{DOG} 1 nan 2 2\n", "line 2: coordinates 1 nan 2 2 are not finite"),
        (HEADER + f"a,{DOG} 1 1 inf 2\n", "line 2: coordinates 1 1 inf 2 are not finite"),
        (HEADER + f"a,{DOG} 1 1 1e39 2\n", "line 2: coordinates 1 1 1e39 2 are not finite"),
        (HEADER + f"a,{DOG} 1 1 2 2\na,\n", "line 3: a is there twice"),
        (HEADER + f"a,{'x' * 200_000}\n", "line 2: field larger than field limit"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "found.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_submission(path, CLASSES)
    assert str(caught.value).startswith(f"{path}: {reason}")


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found\.csv: no such file"):
        read_submission(tmp_path / "found.csv", CLASSES)
    (tmp_path / "found.csv").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(DataError, match=r"found\.csv: cannot be read \(line 1 is not UTF-8"):
        read_submission(tmp_path / "found.csv", CLASSES)


@settings(max_examples=100)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, headed: bool
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "found.csv"
    path.write_bytes(HEADER.encode() * headed + data)
    try:
        found = read_submission(path, CLASSES)
    except DataError as error:
        assert str(error).startswith(str(path))
    else:
        assert headed and all(len(each) <= 5 for each in found.values())


@pytest.mark.parametrize(
    ("image_id", "labels", "box", "classes", "reason"),
    [
        ("a", [0] * 6, [0, 0, 1, 1], CLASSES, r"written: a: 6 predictions, at most 5 are allowed$"),
        ("a", [0], [0, 0, float("nan"), 1], CLASSES, r"written: a: a box is not finite: \[\[0"),
        ("a", [0], [0, 0, 1, 1], ("house cat", "dog"), r"written: class 'house cat': .* without"),
        ("a", [0], [0, 0, 1, 1], ("", "dog"), r"class '': "),
        ("a ", [0], [0, 0, 1, 1], CLASSES, r"image id 'a ': "),
        ("", [0], [0, 0, 1, 1], CLASSES, r"image id '': "),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(
    tmp_path: Path,
    image_id: str,
    labels: list[int],
    box: list[float],
    classes: tuple[str, ...],
    reason: str,
) -> None:
    path = tmp_path / "found.csv"
    path.write_text("old")
    with pytest.raises(DataError, match=reason) as caught:
        write_submission({image_id: predictions(labels, [box] * len(labels))}, classes, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found\.csv: cannot be written: No such file"):
        write_submission({}, CLASSES, tmp_path / "nowhere" / "found.csv")
    with pytest.raises(DataError, match=r"found\.csv: cannot be written: .*surrogates"):
        write_submission({"\udcff": predictions([], [])}, CLASSES, tmp_path / "found.csv")
    assert list(tmp_path.iterdir()) == []
