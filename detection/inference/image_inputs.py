"""Images as Python programs hold them: files, bytes, PIL images, arrays and tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import IO, Any, Literal, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...datasets.image import ImageRules, LoadedImage, decode_image, from_pil
from ...datasets.image import read_image as read_file
from ...datasets.image_file import expect_size
from ..errors import ConfigError, ImageError, one_line
from .inputs import ADDRESS, find_inputs, find_videos
from .video import Frame, Video, is_video

#: A file, its content, an open file, a PIL image, an array (h, w), (h, w, 1), (h, w, 3) or
#: (h, w, 4), or a tensor (h, w), (1, h, w), (3, h, w) or (4, h, w).
ImageInput = (
    str | os.PathLike[str] | bytes | bytearray | IO[bytes] | Image.Image | NDArray[Any] | Tensor
)
Channels = Literal["rgb", "bgr"]

_SHAPES = {
    "array": "(h, w), (h, w, 1), (h, w, 3) or (h, w, 4)",
    "tensor": "(h, w), (1, h, w), (3, h, w) or (4, h, w)",
}


@dataclass(frozen=True)
class ArrayValues:
    """What the numbers of arrays and tensors mean.

    ``channels`` is the order of three or four channels, ``rgb`` or ``bgr`` (OpenCV's); an alpha
    channel comes last. ``value_range`` is (black, white) of floating-point numbers, such as (0, 1);
    without it only uint8 is accepted. Raises ConfigError for other values.
    """

    channels: Channels = "rgb"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.channels not in get_args(Channels):
            raise ConfigError(f"channels {self.channels!r}: expected 'rgb' or 'bgr'")
        if self.value_range is None:
            return
        try:
            low, high = map(float, self.value_range)
        except (TypeError, ValueError):
            low = high = np.nan
        if not -np.inf < low < high < np.inf:
            raise ConfigError(
                f"value_range {self.value_range!r}: expected (black, white), such as (0, 1)"
            )


#: RGB, uint8.
PLAIN = ArrayValues()


def is_image(value: object) -> bool:
    """Whether ``value`` is one image, and not several: arrays of four dimensions are several."""
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim < 4
    return isinstance(
        value, str | os.PathLike | bytes | bytearray | memoryview | Image.Image
    ) or hasattr(value, "read")


def expand(images: object, every: int = 1) -> Iterable[tuple[str, Any]]:
    """(name, image) of each of ``images``: of one image, of the elements of an iterable or of an
    array of four dimensions, of the files of a folder, a glob or a list (.txt), as `find_inputs`
    takes them, or of every ``every``-th frame of videos, as `find_videos` takes them.

    Raises ConfigError for anything else, and as `find_inputs` and `find_videos`.
    """
    if is_film(images):
        return _frames(find_videos([os.fspath(images)]), every)
    if every != 1:
        raise ConfigError(f"every={every}: is for videos, not images")
    if is_place(images):
        return [(file.name, file.path) for file in find_inputs([images])]
    if images is None:
        raise ConfigError("no image but None, which cv2.imread returns for what it cannot read")
    if is_image(images):
        return [(image_name(images), images)]
    if isinstance(images, Iterable) and not isinstance(images, dict):
        return ((image_name(image), image) for image in _elements(images))
    raise ConfigError(f"expected an image, several, or where they are; got {_kind(images)}")


def is_film(value: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether ``value`` is a video, a glob of videos, a webcam or a stream: see `is_video`."""
    return isinstance(value, str | os.PathLike) and is_video(os.fspath(value))


def _frames(sources: Iterable[str], every: int) -> Iterator[tuple[str, Frame | ImageError]]:
    """The frames of each source, and why one ends early in place of its next frame."""
    for source in sources:
        try:
            with Video(source, every=every) as video:
                for frame in video:
                    yield source, frame
                if not video.read:
                    raise ImageError("has no frame that can be decoded")
                if video.shortfall:
                    raise ImageError(video.shortfall)
        except ImageError as error:
            yield source, ImageError(f"{source}: {error}")


def image_name(image: object) -> str:
    """The path of a file, or of the file that an image was opened from; else ``""``."""
    if isinstance(image, str | os.PathLike):
        return str(os.fspath(image))
    is_file = not isinstance(image, Image.Image) and hasattr(image, "read")
    name = getattr(image, "name" if is_file else "filename", "")
    return name if isinstance(name, str) else ""


def load_image(image: object, rules: ImageRules, values: ArrayValues = PLAIN) -> LoadedImage:
    """The pixels of one image as displayed; those of an RGB array are not copied.

    Raises ImageError for one that cannot be used, naming what to pass instead.
    """
    if isinstance(image, np.ndarray | Tensor):
        return LoadedImage(_from_numbers(image, rules, values), 1)
    if values != PLAIN:
        raise ImageError(
            f"channels and value_range are about arrays and tensors; got {_kind(image)}"
        )
    if isinstance(image, ImageError):
        raise image
    if isinstance(image, Frame):
        return LoadedImage(image.pixels, 1)
    if isinstance(image, str | os.PathLike):
        if ADDRESS.match(str(image)) and not Path(image).exists():
            raise ImageError(f"{image}: a URL, which is not fetched; pass the content as bytes")
        return read_file(Path(image), rules)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), "bytes", rules)
    if isinstance(image, Image.Image):
        return _from_pil(image, rules)
    if hasattr(image, "read"):
        return decode_image(_content(image), image_name(image) or "file object", rules)
    if image is None:
        raise ImageError("None is no image; cv2.imread returns it for what it cannot read")
    raise ImageError(
        f"{_kind(image)} is no image; pass a path, bytes, an open file, a PIL image, an array or "
        "a tensor"
    )


def is_place(value: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether ``value`` is the path of a folder, a glob or a list: of any number of images."""
    if not isinstance(value, str | os.PathLike):
        return False
    text, place = os.fspath(value), Path(value)
    try:
        if place.exists():
            return place.is_dir() or place.suffix.lower() == ".txt"
    except (OSError, ValueError):  # no name that a file can have
        return False
    return has_magic(text) and not ADDRESS.match(text)


def _elements(images: Iterable[Any]) -> Iterator[Any]:
    for number, image in enumerate(images):
        if isinstance(image, list | tuple):
            raise ConfigError(f"image {number} is a {_kind(image)}: pass one list of images")
        yield image


def _kind(value: object) -> str:
    return type(value).__name__


def _from_pil(image: Image.Image, rules: ImageRules) -> LoadedImage:
    name = f"PIL image {image_name(image)}".strip()
    try:
        loaded = from_pil(image, rules)
    except ImageError:
        raise
    except Exception as error:  # a file that is decoded only now raises nearly everything
        raise ImageError(f"{name}: cannot be read ({one_line(error)})") from error
    expect_size(loaded.pixels.shape[:2], name, rules)
    return loaded


def _content(file: Any) -> bytes:
    """The rest of an open file."""
    name = image_name(file) or "file object"
    try:
        data = file.read()
    except Exception as error:  # whatever the object does
        raise ImageError(f"{name}: cannot be read ({one_line(error)})") from error
    if not isinstance(data, bytes):
        raise ImageError(f"{name}: read() gave {_kind(data)}; open the file in binary mode, 'rb'")
    if not data:
        raise ImageError(f"{name}: nothing left to read; go back with seek(0)")
    return data


def _from_numbers(
    image: NDArray[Any] | Tensor, rules: ImageRules, values: ArrayValues
) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB of an array or a tensor."""
    kind = "tensor" if isinstance(image, Tensor) else "array"
    name = f"{kind} {tuple(image.shape)} of {image.dtype}"
    last = (image.ndim == 2) or image.shape[0 if kind == "tensor" else -1] in (1, 3, 4)
    if image.ndim not in (2, 3) or not last or 0 in image.shape:
        raise ImageError(f"{name}: expected the shape {_SHAPES[kind]}{_turned(image)}")
    height, width = image.shape[-2:] if kind == "tensor" else image.shape[:2]
    expect_size((int(height), int(width)), name, rules)
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
        image = image if image.ndim == 2 else image.transpose(1, 2, 0)
    pixels = _in_bytes(image, name, values.value_range)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        if values.channels != "rgb":
            raise ImageError(f"{name}: grey, which has no order of channels: leave out channels")
        return np.repeat(pixels.reshape(height, width, 1), 3, axis=2)
    if values.channels == "bgr":
        pixels = pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]
    if pixels.shape[2] == 4:
        opened = Image.fromarray(np.ascontiguousarray(pixels), "RGBA")
        return from_pil(opened, rules).pixels
    return np.ascontiguousarray(pixels)


def _turned(image: NDArray[Any] | Tensor) -> str:
    """A hint where the channels are at the other end."""
    if image.ndim != 3:
        return ""
    if isinstance(image, Tensor):
        return "; write image.permute(2, 0, 1)" if image.shape[-1] in (1, 3, 4) else ""
    return "; write image.transpose(1, 2, 0)" if image.shape[0] in (1, 3, 4) else ""


def _in_bytes(
    image: NDArray[Any], name: str, value_range: tuple[float, float] | None
) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        if value_range is not None:
            raise ImageError(f"{name}: value_range is for floating-point numbers, leave it out")
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(f"{name}: convert it to uint8, 0 to 255, or to float with a value_range")
    if value_range is None:
        raise ImageError(f"{name}: say what black and white are: value_range=(0, 1) or (0, 255)")
    low, high = value_range
    least, most = float(image.min()), float(image.max())
    if not (low <= least and most <= high):  # NaN as well
        raise ImageError(f"{name}: values from {least:g} to {most:g}, outside {low:g} to {high:g}")
    return np.rint((image.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
