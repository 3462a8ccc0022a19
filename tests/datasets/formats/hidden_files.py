"""The hidden and system files that computers leave in folders."""

from __future__ import annotations

import shutil
from pathlib import Path


def add_hidden_files(root: Path) -> None:
    """A resource fork of macOS beside every file, and in every folder what file managers, notebooks
    and network drives add."""
    files = [path for path in root.rglob("*") if path.is_file()]
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for path in files:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
        for copies in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
            (path.parent / copies).mkdir(exist_ok=True)
            shutil.copy(path, path.parent / copies / path.name)
    for folder in folders:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / name).write_bytes(b"x")
