"""``resdet eval --manifest`` gives the numbers of ``eval --predictions`` on the same content."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import resdet as package
from resdet.datasets.manifests.manifest import write_manifest
from resdet.detection.cluster.object_tables import batches_of, tables_at
from resdet.detection.cluster.parquet import to_table
from resdet.detection.errors import ConfigError, DataError

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")

IMAGES, SHARD = 45, 10
CLASSES = ("cat", "dog", "cow")
COLUMNS = ("id", "label", "x1", "y1", "x2", "y2", "area", "ignore")


class Made:
    """A manifest, the results of a run over it, and the objects of its images, in columns and as a
    COCO file; made up, with equal scores, failed images and images without objects."""

    def __init__(self, root: Path) -> None:
        chance = random.Random(0)  # noqa: S311
        self.root, self.found, self.manifest = root, root / "found", root / "m"
        names = [f"day{number % 3}/{number:03}.jpg" for number in range(IMAGES)]
        (root / "list.txt").write_text("\n".join(names))
        write_manifest([str(root / "list.txt")], str(self.manifest), per_shard=SHARD)
        self.rows: list[list[Any]] = []
        self.lines: list[dict[str, Any]] = []
        for number, name in enumerate(names):
            objects = [self._object(number, chance) for _ in range(chance.randrange(4))]
            self.rows += objects or [[number, *[None] * 7]]
            record: dict[str, Any] = {"file": name, "width": 400, "height": 300}
            boxes = [self._detection(each, chance) for each in objects for _ in range(4)]
            record["detections"] = sorted(boxes, key=lambda each: -each["score"])
            bad = {"file": name, "error": "no such file"}
            self.lines.append(bad if number % 11 == 5 else record)
        chance.shuffle(self.rows)
        self._write_results()
        self._write_truth(names)

    def _object(self, image: int, chance: random.Random) -> list[Any]:
        x, y, width, height = (chance.randrange(1, 200) for _ in range(4))
        area = chance.choice([None, width * height / 2])
        label = chance.choice(CLASSES[:2])
        return [image, label, x, y, x + width, y + height, area, chance.random() < 0.2]

    def _detection(self, each: list[Any], chance: random.Random) -> dict[str, Any]:
        label = each[1] if chance.random() < 0.8 else chance.choice(CLASSES)
        x1, y1, x2, y2 = (value + chance.uniform(-9, 9) for value in each[2:6])
        box = [x1, y1, max(x1, x2), max(y1, y2)]
        return {"label": label, "score": round(chance.random(), 1), "box": box}

    def _write_results(self) -> None:
        import pyarrow.parquet as pq

        index = json.loads((self.manifest / "manifest.json").read_text())
        meta = {"format": "resdet detections 1", "classes": CLASSES}
        for kind in ("jsonl", "parquet"):
            folder = self.found / kind
            folder.mkdir(parents=True)
            full = meta | {"manifest_sha256": index["digest"]}
            (folder / "meta.json").write_text(json.dumps(full))
            for number in range(0, IMAGES, SHARD):
                part, lines = f"part-{number // SHARD:05}", self.lines[number : number + SHARD]
                if kind == "jsonl":
                    text = "".join(json.dumps(line) + "\n" for line in lines)
                    (folder / f"{part}.jsonl").write_text(text)
                else:
                    pq.write_table(to_table(lines, ranks=False), folder / f"{part}.parquet")
        every = "".join(json.dumps(line) + "\n" for line in self.lines)
        (self.root / "every.jsonl").write_text(every)

    def _write_truth(self, names: list[str]) -> None:
        import pyarrow.parquet as pq

        with (self.root / "truth.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow((*COLUMNS, "remark"))
            writer.writerows([*row, "of no use"] for row in self.rows)
        columns = dict(zip(COLUMNS, map(list, zip(*self.rows, strict=True)), strict=True))
        table = pa.table(columns)
        (self.root / "truth").mkdir()
        pq.write_table(table.slice(0, 30), self.root / "truth" / "a.parquet")
        pq.write_table(table.slice(30), self.root / "truth" / "b.parquet")
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
        objects = [row for row in self.rows if row[1] is not None]
        content = {
            "categories": categories,
            # Ranked in another order than the manifest's.
            "images": [
                {"id": IMAGES - number, "file_name": name, "width": 400, "height": 300}
                for number, name in enumerate(names)
            ],
            "annotations": [
                {
                    "id": number,
                    "image_id": IMAGES - image,
                    "category_id": CLASSES.index(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": int(ignore),
                    "area": (x2 - x1) * (y2 - y1) if area is None else area,
                }
                for number, (image, label, x1, y1, x2, y2, area, ignore) in enumerate(objects, 1)
            ],
        }
        (self.root / "truth.json").write_text(json.dumps(content))
        for entry in content["images"]:
            entry["id"] = IMAGES - entry["id"]
        for entry in content["annotations"]:
            entry["image_id"] = IMAGES - entry["image_id"]
        (self.root / "by_id.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


def numbers(resdet: Command, out: Path, *words: object) -> dict[str, Any]:
    done = resdet("eval", "--out", out, *words)
    assert done.code == 0, done.err
    content: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return content


@pytest.mark.parametrize(
    ("truth", "plain", "kind", "words"),
    [
        ("truth.csv", "by_id.json", "jsonl", ()),
        ("truth", "by_id.json", "parquet", ("--sizes", "20,60", "--thresholds", "0.2,0.7")),
        ("truth.json", "truth.json", "parquet", ("--no-coco",)),
        ("truth.csv", "by_id.json", "jsonl", ("--classes", "dog")),
    ],
)
def test_numbers_of_predictions(
    resdet: Command,
    made: Made,
    tmp_path: Path,
    truth: str,
    plain: str,
    kind: str,
    words: tuple[object, ...],
) -> None:
    common = ("--predictions", made.root / "every.jsonl", "--annotations", made.root / plain)
    whole = numbers(resdet, tmp_path / "whole", *common, *words, "--resamples", 0)
    of_run = ("--manifest", made.manifest, "--predictions", made.found / kind)
    out = tmp_path / "out"
    ours = numbers(resdet, out, *of_run, "--annotations", made.root / truth, *words)
    assert 0 < ours["metrics"]["voc_ap50"] < 1
    same = ("images", "classes", "metrics", "per_class", "confusion", "definitions", "notes")
    assert {name: ours[name] for name in same} == {name: whole[name] for name in same}
    assert ours["operating_points"].items() <= whole["operating_points"].items()
    assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "per_class.csv"]


def test_the_page_of_a_manifest(resdet: Command, made: Made, tmp_path: Path) -> None:
    words = ("--manifest", made.manifest, "--predictions", made.found / "jsonl")
    numbers(resdet, tmp_path / "out", *words, "--annotations", made.root / "truth.csv")
    done = resdet("report", tmp_path / "out")
    assert done.code == 0, done.err


def test_a_repeated_column_of_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    table = pa.table([[0]] * 3 + [[1.0]] * 4, names=["id", "id", "label", "x1", "y1", "x2", "y2"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: has more than one column id"):
        next(batches_of(str(tmp_path / "a.parquet")))


def test_folders_of_tables(made: Made, scenes: Path, tmp_path: Path) -> None:
    """VOC with a table in it stays VOC; a table further below is named, not passed over."""
    voc = tmp_path / "voc"
    shutil.copytree(scenes, voc)
    (voc / "sizes.csv").write_text("a,b\n")
    assert tables_at(str(voc)) == []
    spark = tmp_path / "objects.parquet"  # named as the file that it is to others
    shutil.copytree(made.root / "truth", spark)
    assert tables_at(str(spark)) == [f"{spark}/a.parquet", f"{spark}/b.parquet"]
    (spark / "more" / "deep").mkdir(parents=True)
    shutil.copy(made.root / "truth.csv", spark / "more" / "deep")
    with pytest.raises(ConfigError, match=r"folders below it, more/deep/truth\.csv; give"):
        tables_at(str(spark))


@pytest.mark.parametrize("name", ["a.parquet", "truth.csv"])
def test_remote_tables_are_read_again_after_a_fault(
    made: Made, object_store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr("resdet.datasets.manifests.storage.DELAYS", (0.01, 0.01, 0.01))
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)  # its own attempts, not those of others
    (local,) = made.root.rglob(name)
    shutil.copy(local, tmp_path)
    (table,) = tables_at(object_store.upload(tmp_path, f"objects-{name.partition('.')[2]}"))
    monkeypatch.setattr(object_store, "faults", {name: (503, object_store.CUT)})
    found = [batch.to_pylist() for batch in batches_of(table)]
    assert found == [batch.to_pylist() for batch in batches_of(str(local))]
    assert object_store.reads[table.removeprefix("s3:/")] > 2
    monkeypatch.setattr(object_store, "faults", {name: (403, object_store.ALWAYS)})
    with pytest.raises(DataError, match=f"{name}: access denied"):
        list(batches_of(table))


def test_what_a_killed_run_left_is_removed(made: Made, tmp_path: Path) -> None:
    from resdet.detection.cluster.marks import own_folder

    if (child := os.fork()) == 0:
        with own_folder(tmp_path, ".pieces-") as pieces:
            (pieces / "0.objects").write_bytes(bytes(1000))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with own_folder(tmp_path, ".pieces-") as running:
        assert len(list(tmp_path.iterdir())) == 2
        package.evaluate(
            manifest=made.manifest,
            predictions=made.found / "jsonl",
            annotations=made.root / "truth.csv",
            out=tmp_path,
            no_coco=True,
        )
        hidden = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        assert hidden == [running]


def test_images_without_annotations_are_left_out_and_told(made: Made, tmp_path: Path) -> None:
    """An image without objects has a row; one without a row has no annotations."""
    lines = (made.root / "truth.csv").read_text().splitlines(keepends=True)
    few = [line for line in lines[1:] if int(line.split(",")[0]) % 3 == 0]
    (tmp_path / "few.csv").write_text("".join([lines[0], *few]))
    found = package.evaluate(
        manifest=made.manifest,
        predictions=made.found / "jsonl",
        annotations=tmp_path / "few.csv",
        out=tmp_path / "out",
    )
    assert found is not None and found.images == IMAGES / 3
    assert f"{IMAGES * 2 // 3} of {IMAGES} images of the manifest" in found.notes[-1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("id,label,x1,y1,x2\n", "has no column y2"),
        ("id,label,x1,y1,x2,y2,x1,id\n0,cat,1,2,3,4,5,0\n", "more than one column id, x1"),
        ("id,label,x1,y1,x2,y2\n0,cat,1,2,3,4\n45,cat,1,2,3,4\n", r"row 2: expected an id of the"),
        ("id,label,x1,y1,x2,y2\n0,cat,1,2,3,\n", "row 1: expected a label and a box, or neither"),
        ("id,label,x1,y1,x2,y2\n0,,1,2,3,4\n", "row 1: expected a label and a box, or neither"),
        ("id,label,x1,y1,x2,y2\n7,cat,9,2,3,4\n", r"'day1/007\.jpg': object 0: box with x2 < x1"),
        ("id,label,x1,y1,x2,y2\n7,,,,,\n7,cat,1,2,3,4\n", "image 7: has a row without a label"),
        ("id,label,x1,y1,x2,y2\n7,cat,one,2,3,4\n", r"truth\.csv: cannot be read"),
        ("", "Empty CSV file"),
    ],
)
def test_refused_annotations(made: Made, tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "truth.csv").write_text(rows)
    with pytest.raises(DataError, match=message):
        package.evaluate(
            manifest=made.manifest,
            predictions=made.found / "jsonl",
            annotations=tmp_path / "truth.csv",
            out=tmp_path / "out",
        )
    assert list((tmp_path / "out").iterdir()) == []


def test_refused_results(made: Made, tmp_path: Path) -> None:
    options = {"manifest": made.manifest, "annotations": made.root / "truth.csv"}

    def score(**changes: Any) -> None:
        package.evaluate(**options | {"out": tmp_path / "out"} | changes)

    with pytest.raises(ConfigError, match=r"--manifest: give the results of its infer"):
        score()
    with pytest.raises(ConfigError, match=r"leave out --save-json, --conf"):
        score(predictions=made.found / "jsonl", save_json=True, conf=0.5)
    with pytest.raises(ConfigError, match=r"meta\.json: no such file"):
        score(predictions=tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (made.found / "jsonl").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match=r"truth\.parquet: no such file"):
        score(predictions=copy, annotations=tmp_path / "truth.parquet")
    (copy / "part-00002.jsonl").unlink()
    with pytest.raises(ConfigError, match="no results of 1 of 5 shards, the first 2"):
        score(predictions=copy)
    (copy / "part-00002.jsonl").write_bytes((copy / "part-00001.jsonl").read_bytes())
    with pytest.raises(DataError, match=r"part-00002\.jsonl: its images are not those of the"):
        score(predictions=copy)
    (copy / "part-00002.jsonl").write_text('{"file": "a", "detections": [{"label": "ox"}]}\n')
    with pytest.raises(DataError, match="the annotations have no class 'ox'"):
        score(predictions=copy)
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps(meta | {"manifest_sha256": "0"}))
    with pytest.raises(ConfigError, match=r"are not of .*, or of its former images"):
        score(predictions=copy)
    (copy / "meta.json").write_text(json.dumps(meta | {"format": "resdet classes 1"}))
    with pytest.raises(ConfigError, match="results of no detector, but 'resdet classes 1'"):
        score(predictions=copy)


def test_a_coco_file_of_other_images(made: Made, tmp_path: Path) -> None:
    content = json.loads((made.root / "truth.json").read_text())
    content["images"].append({"id": 99, "file_name": "other.jpg", "width": 9, "height": 9})
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="1 of its images are not in the manifest: '99'"):
        package.evaluate(
            manifest=made.manifest,
            predictions=made.found / "jsonl",
            annotations=tmp_path / "truth.json",
            out=tmp_path / "out",
        )


def test_ids_of_a_foreign_manifest_count_from_0(made: Made, tmp_path: Path) -> None:
    import pyarrow.parquet as pq
    from resdet.datasets.manifests.manifest import digest_of

    index = {"sources": [], "per_shard": IMAGES, "images": IMAGES, "shards": 1, "complete": True}
    manifest, found = tmp_path / "m", tmp_path / "found"
    manifest.mkdir()
    (manifest / "manifest.json").write_text(json.dumps({"format": "resdet manifest 1", **index}))
    paths = [line["file"] for line in made.lines]
    found.mkdir()
    (found / "part-00000.jsonl").write_bytes((made.root / "every.jsonl").read_bytes())
    meta = {"format": "resdet detections 1", "classes": CLASSES}
    for first in (0, 1):
        ids = list(range(first, first + IMAGES))
        pq.write_table(pa.table({"id": ids, "path": paths}), manifest / "shard-00000.parquet")
        full = meta | {"manifest_sha256": digest_of(str(manifest))}
        (found / "meta.json").write_text(json.dumps(full))
        options = {"predictions": found, "annotations": made.root / "truth.csv"}
        if not first:
            assert package.evaluate(manifest=manifest, out=tmp_path / "out", **options) is not None
            continue
        with pytest.raises(DataError, match=r"shard-00000\.parquet: ids must count from 0"):
            package.evaluate(manifest=manifest, out=tmp_path / "out", **options)
