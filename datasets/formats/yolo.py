"""What does a YOLO text folder say about its images?

Layout: ``images/<split>/**`` with ``labels/<split>/**.txt`` (or ``<split>/images`` with
``<split>/labels``), one object a line: ``class cx cy w h``, all but the class in parts of the
image's width or height. Class names stand in ``data.yaml`` or ``classes.txt``.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import yaml

from ...detection.errors import DataError
from ..image import DEFAULT_RULES, IMAGE_SUFFIXES, ImageRules, read_size
from ..records import RawImage, RawObject, first_few

NAMES_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt")

_COLUMNS = ("class", "cx", "cy", "w", "h")
#: An image with 20 000 objects, or 30 000 class names.
_LARGEST_FILE = 2**20
_LOG = logging.getLogger(__name__)


def read_yolo(root: Path, split: str, *, rules: ImageRules = DEFAULT_RULES) -> list[RawImage]:
    """The images of a split, ordered by name, those without objects included.

    An id is the path below the split's folder without its suffix. An image without a label file
    has no objects, as the format says; how many is logged. Sizes come from the images' headers.
    Segments, oriented boxes and predictions with scores have other columns and are refused.

    Raises `DataError` with everything wrong, label files by line.
    """
    names = read_names(root)
    images, labels = split_folders(root, split)
    files = _by_stem(images)
    texts = {_stem(path, labels): path for path in sorted(labels.rglob("*.txt"))}
    if "classes" not in files:  # labelling tools leave their list of names here
        texts.pop("classes", None)
    _expect_pairs(files, texts, labels)
    found, errors = [], []
    for image_id, (path,) in files.items():
        text = texts.get(image_id)
        try:
            size = read_size(path, rules)
            objects = _objects(text, size, names) if text else ()
        except DataError as error:
            errors.append(str(error))
            continue
        found.append(RawImage(image_id, path, size, objects, text or path))
    if errors:
        raise DataError(
            f"{root}: {len(errors)} of {len(files)} images of {split!r} cannot be used: "
            + first_few(errors)
        )
    without = len(files.keys() - texts.keys())
    if without:
        _LOG.warning("%s: %d images without a label file: taken as without objects", root, without)
    return found


def split_folders(root: Path, split: str) -> tuple[Path, Path]:
    """The folders of the images and of the label files of a split; raises `DataError`."""
    layouts = (
        (root / "images" / split, root / "labels" / split),
        (root / split / "images", root / split / "labels"),
    )
    for images, labels in layouts:
        if images.is_dir():
            if not labels.is_dir():
                raise DataError(f"{labels}: no such folder, beside {images}")
            return images, labels
    tried = " and ".join(str(images) for images, _ in layouts)
    raise DataError(f"{root}: no images of the split {split!r}: tried {tried}")


def _by_stem(images: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(images.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
            found[_stem(path, images)].append(path)
    if not found:
        raise DataError(f"{images}: has no images")
    return dict(sorted(found.items()))


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _expect_pairs(images: dict[str, list[Path]], texts: dict[str, Path], labels: Path) -> None:
    several = [name for name, paths in images.items() if len(paths) > 1]
    if several:
        raise DataError(f"{labels}: {len(several)} labels of several images: {first_few(several)}")
    orphans = sorted(texts.keys() - images.keys())
    if orphans:
        raise DataError(f"{labels}: {len(orphans)} labels without an image: {first_few(orphans)}")


# ---------------------------------------------------------------------------------- one label file


def _objects(path: Path, size: tuple[int, int], names: Sequence[str]) -> tuple[RawObject, ...]:
    lines = _read_text(path).split("\n")
    return tuple(
        _object(line.split(), f"{path}:{number}", size, names)
        for number, line in enumerate(lines, 1)
        if line.strip()
    )


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise DataError(f"{path}: larger than {_LARGEST_FILE // 2**20} MB, not of this format")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _object(
    columns: Sequence[str], where: str, size: tuple[int, int], names: Sequence[str]
) -> RawObject:
    if len(columns) != len(_COLUMNS):
        raise DataError(
            f"{where}: {len(columns)} columns, expected 5 ({' '.join(_COLUMNS)})"
            + _other_format(len(columns))
        )
    name = _class_name(columns[0], where, names)
    middle_x, middle_y, part_x, part_y = (
        _fraction(text, f"{where}: {column}")
        for column, text in zip(_COLUMNS[1:], columns[1:], strict=True)
    )
    height, width = size
    box = (
        (middle_x - part_x / 2) * width,
        (middle_y - part_y / 2) * height,
        (middle_x + part_x / 2) * width,
        (middle_y + part_y / 2) * height,
    )
    return RawObject(name, box)


def _other_format(columns: int) -> str:
    """What such a line most likely is."""
    if columns == len(_COLUMNS) + 1:
        return ": a prediction with its score?"
    if columns >= 7 and columns % 2 == 1:
        return ": segments and oriented boxes are not read"
    return ": keypoints are not read" if columns > len(_COLUMNS) else ""


def _class_name(text: str, where: str, names: Sequence[str]) -> str:
    if not (text.isascii() and text.isdigit()):
        raise DataError(f"{where}: class is {text!r:.40}, expected a whole number")
    if len(text) > 9 or int(text) >= len(names):
        raise DataError(f"{where}: class {text:.40} is outside the {len(names)} names (from 0)")
    return names[int(text)]


def _fraction(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{where} is {text!r:.40}, expected a number") from None
    if not math.isfinite(value):
        raise DataError(f"{where} is {text:.40}, not a finite number")
    if not 0 <= value <= 1:
        raise DataError(f"{where} is {text:.40}, outside 0..1: in pixels?")
    return value


# ---------------------------------------------------------------------------------- names


def read_names(root: Path) -> tuple[str, ...]:
    """Class names in the order of their numbers; raises `DataError`."""
    for path in (root / name for name in NAMES_FILES):
        if path.is_file():
            text = _read_text(path)
            names = _lines(text) if path.suffix == ".txt" else _yaml_names(text, path)
            return _checked(names, path)
    raise DataError(f"{root}: no class names: expected one of {', '.join(NAMES_FILES)}")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.rstrip().split("\n")]


def _checked(names: list[str], path: Path) -> tuple[str, ...]:
    if "" in names:
        raise DataError(f"{path}: class {names.index('')} has no name")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: class {twice[0]!r} stands twice")
    return tuple(names)


def _yaml_names(text: str, path: Path) -> list[str]:
    """``names`` as a list, or by number, and ``nc`` if there.

    Names are taken as they are written, not as YAML 1.1 reads them: there ``no`` is false and
    ``010`` is eight. Nothing is constructed, so that aliases cannot grow and tags do nothing.
    """
    try:
        top = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not readable as YAML ({reason})") from error
    entries = _mapping(top)
    names = _scalars(entries.get("names"))
    if names is None:
        raise DataError(f"{path}: `names` is missing, or neither a list nor numbered names")
    count = entries.get("nc")
    if isinstance(count, yaml.ScalarNode) and count.value != str(len(names)):
        raise DataError(f"{path}: nc is {count.value!r:.40}, but there are {len(names)} names")
    return names


def _mapping(node: yaml.Node | None) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}


def _scalars(node: yaml.Node | None) -> list[str] | None:
    """The texts of a list, or of a mapping whose keys are 0, 1, 2 and so on in any order."""
    if isinstance(node, yaml.SequenceNode):
        items: list[yaml.Node | None] = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        numbered = _mapping(node)
        items = [numbered.get(str(number)) for number in range(len(node.value))]
    else:
        return None
    texts = [item.value for item in items if isinstance(item, yaml.ScalarNode)]
    return texts if len(texts) == len(items) else None
