"""Submissions to ILSVRC's localization challenge: writing and reading.

The form is that of ``LOC_val_solution.csv``: a header ``ImageId,PredictionString`` and a row for
each image, ``ILSVRC2012_val_00000001,n01751748 111 108 441 193 n01729977 ...``, with a class and
x1 y1 x2 y2 for each of at most five predictions, best first. Pixels count from 1 and both ends
belong to the box: our (x1, y1, x2, y2) is (x1 + 1, y1 + 1, x2, y2) there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from ...detection.errors import DataError
from ...detection.files import write_file
from ...detection.structures import Detections
from ..findings import Fault
from ..records import RawBox
from .ilsvrc_files import HEADER, csv_rows, prediction_groups
from .writing import number

#: The most predictions an image may have.
LIMIT = 5
#: From our pixels to the challenge's.
_SHIFT = (1.0, 1.0, 0.0, 0.0)


def write_submission(found: Mapping[str, Detections], classes: Sequence[str], path: Path) -> None:
    """Write a row for each image by sorted id, empty without predictions; ``path`` is replaced.

    ``found`` has the predictions of each image in our pixels, best first.

    Pixels have up to six decimals: read back they are the same float32 from 16 on, and below at
    most 1e-6 away. ``classes`` are the names to write: wnids, or ``["1", "2", ...]`` for class
    numbers.

    Raises DataError, and changes nothing, for more than five predictions, a box that is not finite,
    a class name with a space, an image id that is empty or has spaces around it, and where the file
    cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    try:
        _check_names(found, classes)
        for image_id in sorted(found):
            writer.writerow([image_id, _prediction_string(image_id, found[image_id], classes)])
    except ValueError as error:
        raise DataError(f"{path}: cannot be written: {error}") from error
    write_file(path, text.getvalue(), error=DataError)


def read_submission(path: Path, classes: Sequence[str]) -> dict[str, Detections]:
    """The predictions of each image, best first, in our pixels.

    A submission has the order of its predictions, but no scores; here they get 1, 1/2 .. 1/5. Boxes
    may have any corners, a row no predictions.

    Raises DataError, naming file, line and reason: another header, an id that is empty or there
    twice, an unknown class, words that are no groups of five, more than five predictions, a
    coordinate that is no finite number.
    """
    labels = {name: label for label, name in enumerate(classes)}
    found: dict[str, Detections] = {}
    rows = csv_rows(path)
    line, header = next(rows, (1, []))
    if header != HEADER:
        raise _fault(path, line, f"header is {header!r:.80}, expected {','.join(HEADER)}")
    for line, row in rows:
        try:
            image_id, predictions = _row(row, labels)
            if image_id in found:
                raise ValueError(f"{image_id} is there twice")
        except ValueError as error:
            raise _fault(path, line, str(error)) from error
        found[image_id] = predictions
    return found


def _check_names(image_ids: Iterable[str], classes: Iterable[str]) -> None:
    """Raise ValueError for names that would be read back differently."""
    if split := [name for name in classes if name.split() != [name]]:
        raise ValueError(f"class {split[0]!r}: the format needs names without spaces")
    if blank := [name for name in image_ids if name.strip() != name or not name]:
        raise ValueError(f"image id {blank[0]!r}: the format needs one without spaces around it")


def _prediction_string(image_id: str, predicted: Detections, classes: Sequence[str]) -> str:
    """Raises ValueError with the reason."""
    if len(predicted) > LIMIT:
        raise ValueError(f"{image_id}: {len(predicted)} predictions, at most {LIMIT} are allowed")
    if not predicted.boxes.isfinite().all():
        raise ValueError(f"{image_id}: a box is not finite: {predicted.boxes.tolist()}")
    groups = [
        [classes[label], *(number(side + shift) for side, shift in zip(box, _SHIFT, strict=True))]
        for label, box in zip(predicted.labels.tolist(), predicted.boxes.tolist(), strict=True)
    ]
    return " ".join(word for group in groups for word in group)


def _row(row: list[str], labels: Mapping[str, int]) -> tuple[str, Detections]:
    """Raises ValueError with the reason."""
    image_id, groups = prediction_groups(row)
    if len(groups) > LIMIT:
        raise ValueError(f"{len(groups)} predictions, at most {LIMIT} are allowed")
    if unknown := [name for name, _ in groups if name not in labels]:
        raise ValueError(f"unknown class {unknown[0]!r:.80}")
    boxes = [_box(words) for _, words in groups]
    return image_id, Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(len(boxes), 4),
        1 / torch.arange(1, len(boxes) + 1, dtype=torch.float32),
        torch.tensor([labels[name] for name, _ in groups], dtype=torch.int64),
    )


def _box(words: list[str]) -> RawBox:
    x1, y1, x2, y2 = (float(word) - shift for word, shift in zip(words, _SHIFT, strict=True))
    # What float64 holds and float32 does not would be infinite in the tensor.
    if not all(abs(side) <= torch.finfo(torch.float32).max for side in (x1, y1, x2, y2)):
        raise ValueError(f"coordinates {' '.join(words)} are not finite")
    return x1, y1, x2, y2


def _fault(path: Path, line: int, reason: str) -> DataError:
    return Fault.of("malformed_file", path, f"line {line}: {reason}")
