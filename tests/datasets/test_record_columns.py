"""Records in columns are the records that they were made of."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from resdet.datasets.record_columns import COLUMNS, Records
from resdet.detection.structures import Annotation, Record


def annotation(count: int, *, areas: bool = False) -> Annotation:
    return Annotation(
        torch.arange(4.0 * count).view(-1, 4) + 1 / 3,
        torch.arange(count),
        torch.arange(count) % 2 == 1,
        torch.tensor([torch.nan, *range(1, count)]).double() if areas else None,
    )


GIVEN = (
    Record("17", Path("a/ä.jpg"), (3, 4), annotation(3, areas=True)),
    Record("", Path("\udcff\n.jpg"), (0, 0), image_label=0),
    Record("\ud83d\udcc3\udca9", Path("\udcc3\udca9\ud800"), (2**20, 1), annotation(1)),
    Record("c", Path("c"), (5, 6), annotation(2), image_label=7),
)


def same(found: Record, given: Record) -> None:
    for name in ("image_id", "path", "size", "image_label"):
        assert getattr(found, name) == getattr(given, name)
        assert type(getattr(found, name)) is type(getattr(given, name))
    for field in fields(Annotation):
        ours, theirs = (getattr(each.annotation, field.name) for each in (found, given))
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            assert torch.equal(ours.nan_to_num(-1), theirs.nan_to_num(-1))


def test_each_record_is_as_it_was() -> None:
    records = Records.of(iter(GIVEN))
    assert len(records) == 4 and Records.of(records) is records
    assert {
        name: (each.dtype.str[1:], each.shape[1:]) for name, each in records.columns.items()
    } == {name: (kind.replace("?", "b1"), shape) for name, (kind, shape) in COLUMNS.items()}
    for found, given in zip(records, GIVEN, strict=True):
        same(found, given)
    same(records[-2], GIVEN[2])
    with pytest.raises(IndexError):
        records[4]


def test_parts_are_those_of_a_tuple() -> None:
    records = Records.of(GIVEN)
    for part in (slice(1, 3), slice(None, None, -1), slice(0, 0), slice(1, None, 2)):
        for found, given in zip(records[part], GIVEN[part], strict=True):
            same(found, given)
    again = records.take([3, 0, 0])
    for found, index in zip(again, [3, 0, 0], strict=True):
        same(found, GIVEN[index])
    assert list(records.with_ids(lambda name: name > "").ids()) == ["17", GIVEN[2].image_id, "c"]
    sent = pickle.loads(pickle.dumps(records))  # noqa: S301  as to a worker that is not forked
    for found, given in zip(sent, GIVEN, strict=True):
        same(found, given)


def test_columns_count_what_the_records_have() -> None:
    records = Records.of(GIVEN)
    assert records.sizes.tolist() == [[3, 4], [0, 0], [2**20, 1], [5, 6]]
    assert records.counts.tolist() == [3, 0, 1, 2] and records.image_labels.tolist() == [
        -1,
        0,
        -1,
        7,
    ]
    assert records.labels.tolist() == [0, 1, 2, 0, 0, 1] and records.ignore.sum() == 2
    assert list(Records.of(())) == [] and Records.of(()).boxes.shape == (0, 4)


def test_what_is_done_to_a_record_stays_out_of_the_columns() -> None:
    records = Records.of(GIVEN)
    records[0].annotation.boxes.zero_()
    records[0].annotation.ignore.fill_(True)
    same(records[0], GIVEN[0])
