"""How are the parts of a split written beside the data set they divide?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..detection.errors import DataError


def write_image_sets(root: Path, parts: Mapping[str, Sequence[str]], *, force: bool) -> list[Path]:
    """``ImageSets/Main/<part>.txt`` of a VOC folder; raises `DataError`, as `write_json_parts`."""
    folder = root / "ImageSets" / "Main"
    texts = {
        folder / f"{part}.txt": "".join(f"{name}\n" for name in names)
        for part, names in parts.items()
    }
    return _write(texts, force=force)


def write_json_parts(
    content: Mapping[str, Any],
    parts: Mapping[str, Sequence[str]],
    folder: Path,
    *,
    force: bool,
) -> list[Path]:
    """``<part>.json`` in ``folder``: the COCO ``content`` with the pictures of the part alone.

    Everything else is kept as it is, ids, masks and unknown keys included. Raises `DataError` for
    files that are there already (unless ``force``) and for what the file system refuses.
    """
    texts = {
        folder / f"{part}.json": json.dumps(_only(content, set(names)), ensure_ascii=False) + "\n"
        for part, names in parts.items()
    }
    return _write(texts, force=force)


def _only(content: Mapping[str, Any], image_ids: set[str]) -> dict[str, Any]:
    images = [entry for entry in content["images"] if str(entry["id"]) in image_ids]
    annotations = [each for each in content["annotations"] if str(each["image_id"]) in image_ids]
    return {**content, "images": images, "annotations": annotations}


def _write(texts: Mapping[Path, str], *, force: bool) -> list[Path]:
    """Nothing is changed before all is written beside; a crash leaves ``.part`` files at most."""
    there = [str(path) for path in texts if path.exists()]
    if there and not force:
        raise DataError(f"{', '.join(there)}: there already; --force replaces")
    parts = {path: path.with_name(f"{path.name}.part") for path in texts}
    try:
        for path, part in parts.items():
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(texts[path], encoding="utf-8", newline="\n")
        for path, part in parts.items():
            part.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        for part in parts.values():
            with suppress(OSError):  # most likely it could not be made either
                part.unlink()
        raise DataError(f"{next(iter(texts)).parent}: cannot be written ({error})") from error
    return list(texts)
