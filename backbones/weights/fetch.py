"""Weights files by path, URL or torchvision name, as in a config.

Complete downloads are kept in a cache folder. A URL may end in ``#sha256=`` and the first digits of
the checksum, which is then compared at every use; torchvision's file names contain it.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from ...detection.download import DownloadError, download
from ...detection.errors import WeightsError
from ...detection.files import default_cache, sha256_of

TORCHVISION = "torchvision:"
_CHECKSUM = re.compile(r"sha256=([0-9a-f]{8,64})")
_log = logging.getLogger(__name__)


def resolve(spec: str, cache: Path | None = None) -> Path:
    """The file of a path, an ``https`` URL, or ``torchvision:ResNet101_Weights.IMAGENET1K_V1``.

    ``cache`` is where downloads are kept: by default ``$RESDET_CACHE``, else ``~/.cache/resdet``.

    Raises:
        WeightsError: no such file, name or scheme; no network, with the place to put the file by
            hand; a wrong checksum.
    """
    if spec.startswith(TORCHVISION):
        return _cached(_torchvision_url(spec.removeprefix(TORCHVISION)), cache)
    if "://" in spec:
        if not spec.startswith("https://"):
            raise WeightsError(f"{spec}: weights are downloaded over https only")
        return _cached(spec, cache)
    path = Path(spec).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    return path


def _torchvision_url(name: str) -> str:
    from torchvision.models import get_weight  # takes a second to import

    try:
        url = str(get_weight(name).url)
    except (AttributeError, KeyError, ValueError) as error:
        raise WeightsError(f"{TORCHVISION}{name}: torchvision has no such weights") from error
    checksum = _torchvision_checksum(url)
    return f"{url}#sha256={checksum}" if checksum else url


def published_sizes(path: Path) -> tuple[int, int] | None:
    """The shorter side and the crop with which torchvision tests the ResNet in a file, known by its
    checksum; None for other files."""
    from torchvision.models import get_model_weights

    digest = sha256_of(path)
    for depth in (18, 34, 50, 101, 152):
        for weights in get_model_weights(f"resnet{depth}"):
            if digest.startswith(_torchvision_checksum(str(weights.url)) or "-"):
                testing = weights.transforms()
                return testing.resize_size[0], testing.crop_size[0]
    return None


def _torchvision_checksum(url: str) -> str:
    """The first digits of the SHA-256 in a name such as resnet101-cd907fc2.pth, or ""."""
    found = re.search(r"-([0-9a-f]{8,64})\.", url)
    return found[1] if found else ""


def _cached(spec: str, cache: Path | None) -> Path:
    url, hash_sign, fragment = spec.partition("#")
    checksum = _CHECKSUM.fullmatch(fragment)
    if hash_sign and not checksum:
        raise WeightsError(f"{spec}: after # only sha256= and 8 to 64 of its digits")
    target = (cache or default_cache()) / _file_name(url, checksum[1] if checksum else None)
    if not target.is_file():
        _download(url, target, checksum[1] if checksum else "")
    elif checksum and not sha256_of(target).startswith(checksum[1]):
        raise WeightsError(f"{target}: its SHA-256 does not start {checksum[1]}; delete it")
    return target


def _file_name(url: str, checksum: str | None) -> str:
    """The URL's file name; without the checksum in it, a hash of the URL makes it unique."""
    name = Path(urlsplit(url).path).name
    if checksum is not None and checksum in name:
        return name
    return f"{hashlib.sha256(url.encode()).hexdigest()[:8]}_{name}"


def _download(url: str, target: Path, checksum: str) -> None:
    """Create ``target`` once the download is complete; nothing is left after a failure."""
    _log.info("downloading %s to %s", url, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: several processes may download the same file.
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            part = Path(folder) / target.name
            download([url], part, https_only=True, attempts=2)
            if not sha256_of(part).startswith(checksum):
                raise DownloadError(f"{url}: its SHA-256 does not start {checksum}")
            part.replace(target)
    except (DownloadError, OSError) as error:
        reason = error if isinstance(error, DownloadError) else f"{url}: {error}"
        raise WeightsError(
            f"cannot download: {reason}; put the file at {target} by hand"
        ) from error
