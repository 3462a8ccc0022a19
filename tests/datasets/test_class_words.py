"""The words of classes that are ids, from the files of ILSVRC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from resdet.datasets.class_words import class_words, with_words
from scipy.io import savemat

TENCH, DRUM = "n01440764", "n03249569"
KIT = "ILSVRC2012_devkit_t12/data"


def _meta(path: Path) -> None:
    fields = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
    rows = [(1, TENCH, "tench, Tinca tinca", 0), (2, DRUM, "drum", 0)]
    savemat(path, {"synsets": np.array(rows, dtype=fields)[:, None]})


def test_words_stand_beside_ids() -> None:
    words = {TENCH: "tench", DRUM: ""}
    assert [with_words(name, words) for name in (TENCH, DRUM, "cat")] == [
        "n01440764 tench",
        DRUM,
        "cat",
    ]


@pytest.mark.parametrize(
    "name", ["LOC_synset_mapping.txt", f"{KIT}/map_clsloc.txt", f"{KIT}/meta.mat"]
)
def test_each_file_of_ilsvrc(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mat":
        _meta(path)
    else:
        number = " 7" if path.name == "map_clsloc.txt" else ""
        path.write_text(f"{TENCH}{number} tench, Tinca tinca\n{DRUM}{number} drum\n")
    assert class_words(tmp_path) == {TENCH: "tench", DRUM: "drum"}


def test_class_folders_below_the_list(tmp_path: Path) -> None:
    """As Kaggle distributes it; further above nothing is looked for."""
    data = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    (data / "train").mkdir(parents=True)
    (tmp_path / "LOC_synset_mapping.txt").write_text(f"{TENCH} tench, Tinca tinca\n")
    assert class_words(data) == {TENCH: "tench"}
    assert class_words(data / "train") == {}


def test_without_a_file_or_with_a_bad_one(tmp_path: Path) -> None:
    assert class_words(tmp_path / "none") == {}
    (tmp_path / "LOC_synset_mapping.txt").write_bytes(b"\xff\xfe\x00")
    assert class_words(tmp_path) == {}
    (tmp_path / "LOC_synset_mapping.txt").unlink()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.mat").write_bytes(b"MATLAB 5.0" * 20)
    assert class_words(tmp_path) == {}
