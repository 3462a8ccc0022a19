"""Fuzzed data sets: the annotations of all formats, as conversion reads them, shards down to their
last batch, manifests, and detections of other tools."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from resdet.datasets.catalog import DataSplit
from resdet.datasets.convert.reading import read_splits
from resdet.datasets.formats import FORMATS
from resdet.datasets.formats.format import Reading
from resdet.datasets.image import ImageRules, read_size
from resdet.datasets.loading.crops import CentreCrop
from resdet.datasets.manifests.entries import Entry, to_parquet
from resdet.datasets.manifests.manifest import Manifest, digest_of, read_entries, read_manifest
from resdet.datasets.shards.index import INDEX, read_shards
from resdet.datasets.shards.plan import StreamPlan
from resdet.datasets.shards.reader import ShardSource
from resdet.datasets.shards.stream import ShardEvalLoader, ShardTrainLoader
from resdet.datasets.shards.write import plan_shards, verify_shards, write_shards
from resdet.detection.errors import ImageError
from resdet.detection.evaluation.detection import evaluate_columns
from resdet.detection.evaluation.foreign_results import Truth, read_columns, read_truth
from resdet.detection.evaluation.image_records import read_images
from resdet.detection.inference.inputs import find_inputs
from resdet.detection.structures import Record
from resdet.tests.fuzz.structures import as_json, coco, spoil
from scipy.io import savemat

RULES = ImageRules(min_side=1, max_aspect=1e9, max_pixels=1_000_000, on_truncated="warn")
NAMES = ("a.jpg", "b.jpg")


def prepare(folder: Path) -> None:
    """Two images for each of the formats, and what they have beside the fuzzed file."""
    image = Image.new("RGB", (64, 48))
    for place in ("JPEGImages", "labelme", "cub/images", "tiny/val/images", "yolo/images/train"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            image.save(folder / place / name)
    names = [f"ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2)]
    for place in ("kit/val", "answers/val", "numbers/val", "det/Data/DET/val"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            image.save(folder / place / name, "JPEG")
    for place in ("Annotations", "ImageSets/Main", "found", "yolo/labels/train", "shards", "index"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    for place in ("manifest", "listing", "det/Annotations/DET/val", "det/ImageSets/DET"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / "Annotations" / "a.xml").write_bytes(VOC)
    (folder / "tiny" / "wnids.txt").write_text("n01440764\nn01443537\n")
    (folder / "det/ImageSets/DET/val.txt").write_text("ILSVRC2012_val_00000001 1\n")
    truth = "ILSVRC2012_validation_ground_truth.txt"
    (folder / "kit" / truth).write_text("1\n2\n")
    (folder / "numbers" / "map_clsloc.txt").write_text("n01440764 1 tench\nn01443537 2 fish\n")
    for name, lines in CUB.items():
        (folder / "cub" / name).write_text(lines)
    (folder / "truth.json").write_bytes(as_json(coco(Random(0))))  # noqa: S311
    (folder / "listing" / "shard-00000.parquet").write_bytes(parquets()[0])
    (folder / "index" / "000000.tar").write_bytes(shard_files()[0])
    (folder / "shards" / INDEX).write_bytes(shard_files()[1])


# -- formats ---------------------------------------------------------------------------------------

CSVS = (
    b"filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,64,48,dog,1,2,30,40\nb.jpg,64,48,,,,,\n",
    b"ImageID,Source,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\na,x,/m/0bt9lr,0.1,0.5,0.2,0.75,0\n",
    b"a.jpg,1,2,30,40,dog\nb.jpg,,,,,\n",
)
SOLUTION = (
    b"ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 30 40 n01440764 3 4 20 20\n"
    b"ILSVRC2012_val_00000002,n01443537 1 2 30 40 \n"
)
CUB = {
    "images.txt": "1 a.jpg\n2 b.jpg\n",
    "image_class_labels.txt": "1 1\n2 2\n",
    "classes.txt": "1 001.Dog\n2 002.Cat\n",
    "train_test_split.txt": "1 1\n2 0\n",
    "bounding_boxes.txt": "1 3.0 4.0 20.0 30.0\n2 3.0 4.0 20.0 30.0\n",
}
VOC = (
    b"<annotation><filename>a.jpg</filename><size><width>64</width><height>48</height></size>"
    b"<object><name>dog</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax>"
    b"</bndbox></object></annotation>"
)
CVAT = (
    b"<annotations><version>1.1</version><meta><task><labels><label><name>dog</name></label>"
    b"</labels></task></meta>"
    b'<image id="0" name="a.jpg" width="64" height="48">'
    b'<box label="dog" occluded="0" xtl="1.5" ytl="2" xbr="30" ybr="40" rotation="10">'
    b'<attribute name="difficult">true</attribute></box>'
    b'<polygon label="cat" points="1,2;30,2;30,40"/></image></annotations>'
)


def labelme(random: Random) -> Any:
    points = [[random.randint(0, 60), 4.5], [50, random.randint(5, 40)], [3, 7]]
    kinds = (("rectangle", points[:2]), ("polygon", points), ("circle", points[:2]))
    shapes: list[dict[str, Any]] = [
        {"label": random.choice(("dog", "cat")), "points": of, "shape_type": kind, "flags": {}}
        for kind, of in random.sample(kinds, random.randint(1, 3))
    ]
    size = {"imageHeight": 48, "imageWidth": 64}
    return {"version": "5.0", "flags": {}, "shapes": shapes, "imagePath": "a.jpg", **size}


def label_studio(random: Random) -> Any:
    side = {"original_width": 64, "original_height": 48, "image_rotation": 0}
    box = {"x": 10, "y": random.randint(0, 40), "width": 20.5, "height": 30, "rotation": 0}
    polygon = {"points": [[1, 2], [30, 4], [50, random.randint(50, 90)]]}
    if random.random() < 0.4:
        shapes = [{**side, **box, "rectanglelabels": ["dog"]}]
        return [{"id": 1, "image": "/data/upload/a.jpg", "label": shapes}]
    results = [
        {**side, "type": "rectanglelabels", "value": {**box, "rectanglelabels": ["dog"]}},
        {**side, "type": "polygonlabels", "value": {**polygon, "polygonlabels": ["cat"]}},
    ]
    annotation = {"id": 3, "was_cancelled": False, "result": results}
    return [{"id": 1, "annotations": [annotation], "data": {"image": "/data/upload/a.jpg"}}]


def odd(make: Callable[[Random], Any]) -> Callable[[Random], bytes]:
    """Files with odd values in what ``make`` draws."""
    return lambda random: as_json(spoil(make(random), random, random.choice((0.01, 0.06))))


def meta_mat() -> bytes:
    """A ``meta.mat`` of the development kit with two classes."""
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    rows = [(1, "n01440764", 0), (2, "n01443537", 0), (3, "n00000001", 2)]
    stream = io.BytesIO()
    savemat(stream, {"synsets": np.array(rows, dtype=kinds)})
    return stream.getvalue()


def read_as(name: str, root: str, **fields: Any) -> Callable[[Path], None]:
    """Reads the data set of format ``name`` in the folder ``root`` of `prepare` as ``convert-data``
    does; fields of the source may hold ``{}``, the fuzzed file."""
    part = fields.pop("part", "train")
    reading = Reading(rules=RULES, part=part, boxes=fields.pop("boxes", None))
    depth = fields.pop("depth", 0)

    def read(path: Path) -> None:
        folder = path.parents[depth]
        places = {
            key: path if value == "{}" else folder / value if key == "images" else value
            for key, value in fields.items()
        }
        if "images" not in places:
            places["root"] = folder / root
        source = FORMATS[name].source.model_validate(places)
        for on_bad_box in (None, "clip"):
            read_splits({"train": source}, reading, on_bad_box)

    return read


# -- shards ----------------------------------------------------------------------------------------


@cache
def shard_files() -> tuple[bytes, bytes]:
    """A shard of five small images, and its index."""
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        records = []
        for number, suffix in enumerate(("jpg", "png", "jpg", "bmp", "webp")):
            path = folder / f"{number}.{suffix}"
            Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(path)
            records.append(Record(f"{number}.{suffix}", path, (9, 11), image_label=number % 2))
        split = DataSplit(tuple(records), ("dog", "cat"))
        write_shards(plan_shards(split, max_bytes=2**20), folder / "out")
        return tuple((folder / "out" / each).read_bytes() for each in ("000000.tar", INDEX))  # type: ignore[return-value]


def read_shard(path: Path) -> None:
    """The fuzzed shard behind the index of the whole one, which states its size."""
    index = path.with_name(INDEX)
    header, line = shard_files()[1].splitlines()
    row = json.loads(line) | {"size": path.stat().st_size}
    index.write_bytes(b"\n".join((header, json.dumps(row).encode(), b"")))
    _read_stream(path.parent)


def read_index(path: Path) -> None:
    _read_stream(path.parent)


def _read_stream(folder: Path) -> None:
    """An epoch for training, and all images for testing."""
    shards = read_shards(folder, classes=("cat", "dog", "bird"))
    source = ShardSource(shards, [CentreCrop(8, 8)], RULES)
    plan = StreamPlan(tuple(map(len, shards.shards)), batch_size=4, seed=0, lanes=2, buffer=2)
    try:
        for batch in ShardTrainLoader(source, plan, range(2)):
            assert batch.images.shape == (4, 3, 8, 8) and int(batch.labels.max()) < 3
    finally:
        seen = sum(len(batch.images) for batch in ShardEvalLoader(source, batch_size=2))
    assert seen <= len(shards)
    list(verify_shards(folder, shards.shards))


def index_of(random: Random) -> bytes:
    lines = [spoil(json.loads(line), random, 0.04) for line in shard_files()[1].splitlines()]
    return b"".join(as_json(line) + b"\n" for line in lines)


# -- manifests -------------------------------------------------------------------------------------


@cache
def parquets() -> tuple[bytes, ...]:
    entries = [Entry(f"/data/{name}", 10, "", name) for name in NAMES]
    packed = Entry("tar://a.jpg::/data/x.tar", 10, "e", "x/a.jpg", 512)
    return to_parquet(entries, 0, {"images": 2}), to_parquet([*entries, packed], 7, {})


def read_parquet(path: Path) -> None:
    for entry in read_entries(str(path.parent), 0):
        assert isinstance(entry.place, str)
        assert entry.size is None or isinstance(entry.size, int)
        assert entry.offset is None or isinstance(entry.offset, int)
        assert isinstance(entry.etag, str)


def manifest(random: Random) -> Any:
    made = Manifest(("/data",), 2000, False, 2, 1, True, {"pdf": 1}, random.choice(("", "ab")))
    return json.loads(made.text())


def read_listing(path: Path) -> None:
    """The manifest, and its images as `infer` counts and opens them."""
    folder = str(path.parent)
    found = read_manifest(folder)
    digest_of(folder)
    for number in range(found.shards):
        read_entries(folder, number)
    assert found.images >= 0 and all(isinstance(each, str) for each in found.sources)
    found.text()


# -- detections and evaluations --------------------------------------------------------------------


def results(random: Random) -> Any:
    return [
        {"image_id": random.choice((1, 2)), "category_id": 3, "bbox": [1, 2.5, 30, 4], "score": 0.5}
        for _ in range(random.randint(1, 4))
    ]


def read_results(path: Path) -> None:
    """Detections, and their numbers."""
    truth: Truth = read_truth(path.with_name("truth.json"), "val")
    evaluate_columns(read_columns(path, truth), truth.classes)


def images_json(random: Random) -> Any:
    objects = {"boxes": [[1, 2, 30, 40]], "labels": [0], "ignore": [False], "areas": [9.5]}
    found = {"boxes": [[1, 2, 3, 4.5]], "labels": [1], "scores": [0.5]}
    entries = [
        {"image": name, "file": name, "wrong": 1, "objects": objects, "detections": found}
        for name in NAMES
    ]
    shared = {"version": 1, "task": "detection", "classes": ["dog", "cat"]}
    return {**shared, "images": random.sample(entries, 2)}


def read_images_json(path: Path) -> None:
    found = read_images(path)
    assert len(found.image_ids) == len(found.images)
    evaluate_columns(found.columns(), found.classes)


def read_list(path: Path) -> None:
    """The images of a list of inputs, which are opened by `infer`."""
    for each in find_inputs([str(path)])[:50]:
        with suppress(ImageError):
            read_size(each.path, RULES)


def fixed(make: Callable[[Random], Any], count: int = 3) -> Callable[[], Sequence[bytes]]:
    return lambda: [as_json(make(Random(seed))) for seed in range(count)]  # noqa: S311
