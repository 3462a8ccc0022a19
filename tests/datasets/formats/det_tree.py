"""An ILSVRC DET data set of drawn images: nine of train, two of them negative, and six of val."""

from __future__ import annotations

from pathlib import Path
from random import Random

from PIL import Image, ImageDraw
from resdet.tests.datasets.formats.ilsvrc_tree import CAT, DOG, write_xml

COLOURS = {DOG: (210, 60, 40), CAT: (50, 70, 210)}
TRAIN = (
    *(f"ILSVRC2013_train/{wnid}/{wnid}_{number}" for wnid in (DOG, CAT) for number in (3, 14)),
    *(f"ILSVRC2014_train_0000/ILSVRC2014_train_0000{number:04d}" for number in (18, 31, 32)),
)
NEGATIVE = (
    "ILSVRC2013_train_extra0/ILSVRC2013_train_00000001",
    f"ILSVRC2013_train/{DOG}/{DOG}_77",
)
VAL = tuple(f"ILSVRC2012_val_{number:08d}" for number in range(1, 7))
#: The last image of each half has no objects.
HALVES = {"val1": VAL[:3], "val2": VAL[3:]}


def write_det(root: Path, *, size: tuple[int, int] = (96, 128)) -> None:
    """The layout as distributed; the halves of val are ``lists/val1.txt`` and ``lists/val2.txt``.

    ``size`` is (h, w). An image of ILSVRC2013 has one object, others one of each class.
    """
    random = Random(5)  # noqa: S311  no secret
    for split, names in (("train", TRAIN + NEGATIVE), ("val", VAL)):
        for name in names:
            empty = name in NEGATIVE or name in (VAL[2], VAL[5])
            own = [name.split("/")[1]] if "ILSVRC2013_train/" in name else [DOG, CAT]
            boxes = {} if empty else {wnid: _box(random, size, own.index(wnid)) for wnid in own}
            _draw(root / "Data" / "DET" / split / f"{name}.JPEG", size, boxes)
            if name not in NEGATIVE:
                objects = [
                    (wnid, f"{x1 + 1} {y1 + 1} {x2} {y2}")
                    for wnid, (x1, y1, x2, y2) in boxes.items()
                ]
                _annotate(root / "Annotations" / "DET" / split / f"{name}.xml", size, objects)
    lists = root / "ImageSets" / "DET"
    lists.mkdir(parents=True)
    flags = {1: 58, 2: 59}  # dog and domestic cat
    for wnid, number in ((DOG, flags[1]), (CAT, flags[2])):
        lines = [f"{name} {1 if wnid in name or '2014' in name else -1}" for name in TRAIN]
        lines += [f"{name} -1" for name in NEGATIVE]
        (lists / f"train_{number}.txt").write_text("\n".join(lines) + "\n")
    numbered = [f"{name} {number}" for number, name in enumerate(VAL, 1)]
    (lists / "val.txt").write_text("\n".join(numbered) + "\n")
    for half, names in HALVES.items():
        path = root / "lists" / f"{half}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(names) + "\n")


def _box(random: Random, size: tuple[int, int], column: int) -> tuple[int, int, int, int]:
    """A box in the left or the right half."""
    height, width = size
    x, y = column * width // 2 + random.randint(2, 10), random.randint(5, height // 3)
    return (x, y, x + random.randint(25, 45), y + random.randint(25, 45))


def _draw(path: Path, size: tuple[int, int], boxes: dict[str, tuple[int, int, int, int]]) -> None:
    image = Image.new("RGB", size[::-1], (110, 120, 100))
    draw = ImageDraw.Draw(image)
    for wnid, (x1, y1, x2, y2) in boxes.items():
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), COLOURS[wnid])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG")


def _annotate(path: Path, size: tuple[int, int], objects: list[tuple[str, str]]) -> None:
    write_xml(path, *objects)
    height, width = size
    text = path.read_text().replace("<width>40<", f"<width>{width}<")
    path.write_text(text.replace("<height>30<", f"<height>{height}<"))
