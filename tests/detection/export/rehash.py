"""A changed export as if it had been exported like that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resdet.detection.files import sha256_of


def rehash(folder: Path, **changes: Any) -> None:
    """Write the hashes of the files in ``folder``, and other ``changes``, into its meta.json."""
    path = folder / "meta.json"
    meta = json.loads(path.read_text()) | changes
    others = ("meta.json", "runner.py")
    files = [each for each in folder.iterdir() if each.is_file() and each.name not in others]
    path.write_text(json.dumps({**meta, "sha256": {each.name: sha256_of(each) for each in files}}))
