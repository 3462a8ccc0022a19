"""`resdet.ray.Detect` in Spark, by the snippet of docs/cluster.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from resdet.datasets.manifests.manifest import write_manifest

pytest.importorskip("pyspark", reason="pyspark is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

DOCUMENT = Path(__file__).parents[3] / "docs" / "cluster.md"
PANDAS = """
def detect(frames):
    model = resdet.ray.Detect("best.pt", "cpu", score_threshold=0.1)
    for frame in frames:
        yield model(pa.Table.from_pandas(frame)).to_pandas()
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
@pytest.mark.parametrize("function", ["mapInArrow", "mapInPandas"])
def test_the_recipe_gives_the_records_of_a_folder_run(function, model, images, plain, tmp_path):
    text = DOCUMENT.read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n([^`]*pyspark[^`]*)```", text)
    snippet = snippet.replace('"cpu")', '"cpu", score_threshold=0.1)')
    if function == "mapInPandas":
        snippet = snippet.replace("spark = ", f"{PANDAS}\nspark = ").replace("InArrow", "InPandas")
    (tmp_path / "recipe.py").write_text(snippet, encoding="utf-8")
    shutil.copy(model.weights[0], tmp_path / "best.pt")
    write_manifest([str(images)], str(tmp_path / "m"), per_shard=40)
    done = subprocess.run(
        [sys.executable, "recipe.py"],
        cwd=tmp_path,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "found").to_pylist()
    found = {}
    for row in rows:
        name = row["file"].removeprefix(f"{images}/")
        found[name] = {key: value for key, value in row.items() if value is not None}
        found[name]["file"] = name
    assert found == {name: json.loads(line) for name, line in plain.items()}
