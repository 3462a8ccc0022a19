"""A changed export, or one in OpenVINO, as if it had been exported like that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from resdet.detection.errors import ConfigError
from resdet.detection.export.folder import FORMATS
from resdet.detection.export.writing import convert_to_openvino
from resdet.detection.extras import expect_extra
from resdet.detection.files import sha256_of


def rehash(folder: Path, **changes: Any) -> None:
    """Write the hashes of the files in ``folder``, and other ``changes``, into its meta.json."""
    path = folder / "meta.json"
    meta = json.loads(path.read_text()) | changes
    others = ("meta.json", "runner.py", "runner_parts.py")
    files = [each for each in folder.iterdir() if each.is_file() and each.name not in others]
    path.write_text(json.dumps({**meta, "sha256": {each.name: sha256_of(each) for each in files}}))


def needs(extra: str) -> None:
    try:
        expect_extra(extra)
    except ConfigError as error:
        pytest.skip(str(error))


def converted(source: Path, out: Path) -> Path:
    """An export in ONNX, as the export in OpenVINO would be."""
    needs("openvino")
    shutil.copytree(source, out)
    for path in out.glob("*.onnx"):
        convert_to_openvino(path, path.with_suffix(FORMATS["openvino"]))
        path.unlink()
    versions = json.loads((out / "meta.json").read_text())["versions"]
    rehash(out, versions=versions | expect_extra("openvino"))
    return out
