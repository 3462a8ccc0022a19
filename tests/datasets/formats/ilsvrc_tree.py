"""An ILSVRC data set of seven images."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

DOG, CAT = "n02084071", "n02121808"


def write_xml(path: Path, *objects: tuple[str, str]) -> None:
    """``objects``: (class, "xmin ymin xmax ymax")."""
    tags = ("xmin", "ymin", "xmax", "ymax")
    body = ""
    for name, box in objects:
        sides = "".join(
            f"<{tag}>{side}</{tag}>" for tag, side in zip(tags, box.split(), strict=True)
        )
        body += f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"
    size = "<size><width>40</width><height>30</height></size>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{size}{body}</annotation>")


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path, "JPEG")


def write_ilsvrc(root: Path) -> None:
    """Four training images, one of them without boxes, and three of val, one with two boxes."""
    train = [f"{name}/{name}_{number}" for name in (DOG, CAT) for number in range(2)]
    val = [f"ILSVRC2012_val_{number:08d}" for number in (1, 2, 3)]
    data, notes = root / "Data" / "CLS-LOC", root / "Annotations" / "CLS-LOC"
    for image_id in train:
        write_image(data / "train" / f"{image_id}.JPEG")
        if image_id != train[-1]:
            write_xml(notes / "train" / f"{image_id}.xml", (image_id[:9], "2 3 20 25"))
    boxes = [["1 1 10 10"], ["5 5 40 30"], ["1 2 3 9", "7 8 20 21"]]
    rows = []
    for image_id, name, own in zip(val, (DOG, CAT, CAT), boxes, strict=True):
        write_image(data / "val" / f"{image_id}.JPEG")
        write_xml(notes / "val" / f"{image_id}.xml", *((name, box) for box in own))
        rows.append(f"{image_id},{' '.join(f'{name} {box}' for box in own)} ")
    lists = root / "ImageSets" / "CLS-LOC"
    lists.mkdir(parents=True)
    for name, ids in (("train_cls", train), ("val", val)):
        lines = [f"{image_id} {number}" for number, image_id in enumerate(ids, 1)]
        (lists / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (root / "LOC_synset_mapping.txt").write_text(f"{DOG} dog, hound\n{CAT} cat\n")
    (root / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\n" + "\n".join(reversed(rows)) + "\n"
    )
