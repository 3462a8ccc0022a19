"""Tables of MATLAB files: what scipy wrote comes back, and damage is an error of one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from resdet.datasets.formats.mat_file import read_table
from scipy.io import savemat

ROWS = [(1, "n01440764", 0, 0.5), (256, "n01443537", 12, -3.0), (70000, "", 0, 1e9)]


@pytest.fixture(params=[False, True], ids=["stored", "compressed"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    fields = [("number", "O"), ("wnid", "O"), ("few", "O"), ("real", "O"), ("several", "O")]
    rows = [(*row, np.arange(3)) for row in ROWS]
    made = {"other": np.ones((2, 3)), "table": np.array(rows, dtype=fields)[:, None]}
    savemat(tmp_path / "x.mat", made, do_compression=request.param)
    return tmp_path / "x.mat"


def test_what_scipy_wrote(path: Path) -> None:
    assert read_table(path, "table", ("number", "wnid", "few", "real")) == ROWS
    assert read_table(path, "table", ("several",)) == [(None,)] * 3


def test_faults(path: Path) -> None:
    content = path.read_bytes()
    with pytest.raises(ValueError, match="no table some"):
        read_table(path, "some", ("number",))
    with pytest.raises(ValueError, match="no field colour"):
        read_table(path, "table", ("colour",))
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match=r"\w+"):
            read_table(path, "table", ("number",))
    path.write_bytes(content[:126] + b"XX" + content[128:])
    with pytest.raises(ValueError, match="not a MATLAB file of version 5"):
        read_table(path, "table", ("number",))
