"""The names under which the results of an image appear, legal on every file system."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath

from ...datasets.listing import has_image_suffix

#: Device names of Windows, with any extension.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])( *\.|$)", re.IGNORECASE)
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
#: Bytes of one path component: file systems allow 255, less room for a suffix.
_LONGEST = 200


def safe_name(name: str) -> str:
    """``name`` as a relative path that stays in its folder and is legal on every file system.

    Safe names are unchanged; where characters, ``..`` or device names had to be replaced, a hash of
    the name keeps different names different.
    """
    safe = "/".join(_safe_part(part) for part in name.split("/") if part) or "_"
    return name if safe == name else _marked(safe, name)


def folder_name(name: str) -> str:
    """`safe_name` as the name of one folder: slashes are replaced, too."""
    flat = name.replace("/", "_")
    safe = safe_name(flat)
    return safe if flat == name else _marked(safe, name)


def drawn_name(name: str) -> str:
    """The path of an image's drawn JPEG below ``drawn/``: safe, relative and unique.

    ``a.jpg`` stays and ``a.png`` becomes ``a.png.jpg``; an input with that name, or without a
    known extension, gets a hash.
    """
    path = PurePath(name)
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    if has_image_suffix(path.stem if jpeg else path.name) == jpeg:
        return _marked(safe_name(f"{name}.jpg"), name)
    return safe_name(name if jpeg else f"{name}.jpg")


def _marked(safe: str, name: str) -> str:
    path = PurePath(safe)
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return path.with_name(f"{path.stem}-{digest}{path.suffix}").as_posix()


def _safe_part(part: str) -> str:
    part = _UNSAFE.sub("_", part).rstrip(" .") or "_"
    if _DEVICE.match(part):
        part = f"_{part}"
    encoded = part.encode("utf-8", "backslashreplace")
    if len(encoded) <= _LONGEST:
        return encoded.decode("utf-8")
    suffix = PurePath(part).suffix[:16]
    return encoded[: _LONGEST - 64].decode("utf-8", "ignore") + suffix
