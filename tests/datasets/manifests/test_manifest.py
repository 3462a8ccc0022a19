"""Manifests of folders, globs, tar files, lists and S3: what they list, resuming, errors."""

from __future__ import annotations

import re
import shutil
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from resdet.datasets.manifests import storage
from resdet.datasets.manifests.entries import Entry
from resdet.datasets.manifests.manifest import (
    digest_of,
    read_entries,
    read_manifest,
    write_manifest,
)
from resdet.datasets.manifests.storage import Store, read_bytes
from resdet.detection.errors import ConfigError, DataError, ResdetError
from resdet.detection.extras import EXTRAS
from resdet.detection.inference.inputs import find_inputs

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

ROOT = Path(__file__).resolve().parents[3]
NAMES = (
    "z.jpg",
    "B.PNG",
    "a/1.jpg",
    "a/b/2.jpg",
    "a/b/c/3.jpeg",
    "a.b/4.jpg",
    "day1/x.jpg",
    "day1/ü 5.jpg",
    "day2/deep/x.jpg",
    "day2/x.jpg",
)
OTHERS = ("notes.txt", "a/labels.xml", ".hidden.jpg", ".thumbs/1.jpg", "a/._1.jpg", "plain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Files whose content is their name."""
    root = tmp_path_factory.mktemp("manifest") / "in"
    for name in (*NAMES, *OTHERS):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


@pytest.fixture(scope="module")
def tars(tmp_path_factory, folder) -> Path:
    root = tmp_path_factory.mktemp("tars")
    for number in range(3):
        with tarfile.open(root / f"{number}.tar", "w") as archive:
            for name in (*NAMES[number:], "notes.txt"):
                archive.add(folder / name, f"./{name}" if number else name)
    return root


def entries(out: object) -> list:
    return [
        each
        for number in range(read_manifest(str(out)).shards)
        for each in read_entries(str(out), number)
    ]


def names(*inputs: object, out: Path, **options) -> list[str]:
    write_manifest([str(each) for each in inputs], str(out), **options)
    return [each.name for each in entries(out)]


def test_a_folder_has_the_images_of_infer(folder, tmp_path):
    found = names(folder, out=tmp_path / "m", per_shard=4)
    assert sorted(found) == sorted(NAMES) == [each.name for each in find_inputs([str(folder)])]
    assert found[:2] == ["B.PNG", "z.jpg"]  # files before folders
    for each in entries(tmp_path / "m"):
        assert Path(each.path).read_text() == each.name
        assert each.size == len(each.name.encode()) and each.etag and each.offset is None
    manifest = read_manifest(str(tmp_path / "m"))
    assert (manifest.images, manifest.shards) == (10, 3)
    assert manifest.left_out == {"hidden": 2, ".txt": 1, ".xml": 1, "no extension": 1}


def test_columns(folder, tmp_path):
    import pyarrow.parquet as pq

    names(folder, out=tmp_path / "m", per_shard=4)
    table = pq.read_table(tmp_path / "m" / "shard-00001.parquet")
    assert table.column_names == ["id", "path", "size", "etag", "name", "offset"]
    assert table.column("id").to_pylist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    "pattern",
    ["*.jpg", "**/*.jpg", "day*/*", "day?/**/x.jpg", "a/**", "*/b/**/*.jp*g", ".*/*", "[ab]*/*"],
)
@pytest.mark.parametrize("hidden", [False, True])
def test_a_glob_has_the_images_of_infer(folder, tmp_path, pattern, hidden):
    found = find_inputs([f"{folder}/{pattern}"], hidden=hidden)
    names(f"{folder}/{pattern}", out=tmp_path / "m", hidden=hidden)
    listed = {(each.path, each.name) for each in entries(tmp_path / "m")}
    assert listed == {(str(each.path), each.name) for each in found}


def test_tar_files_are_read_by_offset(tars, tmp_path):
    assert names(tars / "1.tar", out=tmp_path / "one") == list(NAMES[1:])
    found = names(f"{tars}/*.tar", out=tmp_path / "all")
    assert found == [f"{number}.tar/{name}" for number in range(3) for name in NAMES[number:]]
    for each in entries(tmp_path / "all"):
        place = each.path.partition("::")[2]
        assert each.path == f"tar://{each.name.partition('/')[2]}::{place}"
        assert read_bytes(place, each.offset, each.size).decode() == each.name[6:]


def test_a_tar_member_with_colons(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder / "z.jpg", "a::b.jpg")
        archive.add(folder / "B.PNG", "c.png")
    names(tmp_path / "a.tar", out=tmp_path / "m")
    assert [each.place for each in entries(tmp_path / "m")] == [f"{tmp_path}/a.tar"] * 2
    with pytest.raises(ZeroDivisionError):
        names(f"{tmp_path}/*.tar", out=tmp_path / "g", per_shard=1, report=lambda images: 1 // 0)
    found = names(f"{tmp_path}/*.tar", out=tmp_path / "g", per_shard=1)
    assert found == ["a.tar/a::b.jpg", "a.tar/c.png"]


def test_the_digest_is_that_of_the_images(folder, tmp_path):
    """Other images, or another division into shards, have another one, however many they are."""
    shutil.copytree(folder / "day2", tmp_path / "in")
    names(tmp_path / "in", out=tmp_path / "m")
    names(tmp_path / "in", out=tmp_path / "same")
    names(tmp_path / "in", out=tmp_path / "divided", per_shard=1)
    (tmp_path / "in" / "x.jpg").rename(tmp_path / "in" / "y.jpg")
    names(tmp_path / "in", out=tmp_path / "other")
    made = {name: digest_of(str(tmp_path / name)) for name in ("m", "same", "divided", "other")}
    assert made["m"] == made["same"] and len(set(made.values())) == 3
    for name in ("m", "same", "other"):  # as other programs write manifests
        index = tmp_path / name / "manifest.json"
        index.write_text(index.read_text().replace(made[name], ""))
    files = {name: digest_of(str(tmp_path / name)) for name in ("m", "same", "other")}
    assert files["m"] == files["same"] != files["other"]


def test_files_are_flushed_before_they_appear(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(
        storage, "sync_to_disk", lambda path: flushed.append((path, (tmp_path / "a").exists()))
    )
    (tmp_path / "local").write_text("x")
    Store(str(tmp_path)).publish(tmp_path / "local", "a")
    assert [(path.is_dir(), shown) for path, shown in flushed] == [(False, False), (True, True)]
    Store(str(tmp_path)).write("b", b"x")
    assert len(flushed) == 4


def test_a_list_is_not_looked_up(folder, tmp_path):
    lines = ["# two", str(folder / "z.jpg"), "", "gone/away.jpg", "s3://bucket/a/b.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    found = names(tmp_path / "list.txt", out=tmp_path / "m")
    assert found == [f"{folder}/z.jpg".lstrip("/"), "gone/away.jpg", "bucket/a/b.jpg"]
    assert [each.path for each in entries(tmp_path / "m")][1] == f"{tmp_path}/gone/away.jpg"
    assert {each.size for each in entries(tmp_path / "m")} == {None}


def test_names_of_several_inputs_begin_with_theirs(folder, tars, tmp_path):
    found = names(folder / "a", folder / "day1", tars / "2.tar", folder / "a", out=tmp_path / "m")
    assert {name.partition("/")[0] for name in found} == {"a", "day1", "2", "a-2"}
    assert len(set(found)) == len(found)


def test_an_interrupted_listing_goes_on(folder, tars, tmp_path):
    """Whatever its last shard was, every file equals that of an undisturbed listing."""
    (tmp_path / "list.txt").write_text("".join(f"{number}.jpg\n" for number in range(5)))
    inputs = list(map(str, [folder, f"{tars}/*.tar", tars / "1.tar", tmp_path / "list.txt"]))
    write_manifest(inputs, str(tmp_path / "whole"), per_shard=3)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert len(whole) > 15

    class Stopped(Exception):
        pass

    def stop(images: int) -> None:
        raise Stopped

    for _ in range(len(whole) - 1):
        with pytest.raises(Stopped):
            write_manifest(inputs, str(tmp_path / "m"), per_shard=3, report=stop)
        with pytest.raises(ConfigError, match="not complete"):
            read_manifest(str(tmp_path / "m"))
    assert write_manifest(inputs, str(tmp_path / "m"), per_shard=3).complete
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == whole


def test_a_link_back_is_not_followed(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "in")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "other").symlink_to(folder / "day1")
    found = names(tmp_path / "in", out=tmp_path / "m")
    assert sorted(found) == sorted([*NAMES, "other/x.jpg", "other/ü 5.jpg"])


def test_memory_does_not_grow_with_the_images(tmp_path):
    with (tmp_path / "list.txt").open("w") as file:
        file.writelines(f"folder/{number:09}.jpg\n" for number in range(20_000))
    tracemalloc.start()
    try:
        manifest = write_manifest([str(tmp_path / "list.txt")], str(tmp_path / "m"), per_shard=500)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (manifest.images, manifest.shards) == (20_000, 40)
    assert peak < 2e6  # of 500 images; all would take 10 MB


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing", r"missing: no such file or folder$"),
        ("notes.txt/x", "no such file or folder"),
        ("a/labels.xml", "no folder, glob, tar file or list"),
        ("x.tar.gz", "is compressed; unpack it"),
        ("*.gif", r"no images$"),
        ("*.txt", r"no images \(1 .txt\)$"),
        ("nothing://bucket/a", "nothing://: .*nothing"),
        ("notes.tar", "cannot be read as a tar file"),
    ],
)
def test_errors(folder, tmp_path, source, message):
    (folder / "notes.tar").write_text("no tar")
    given = source if "://" in source else str(folder / source)
    try:
        with pytest.raises(ResdetError, match=message):
            write_manifest([given], str(tmp_path / "m"))
    finally:
        (folder / "notes.tar").unlink()


def test_other_inputs_and_other_folders_are_refused(folder, tmp_path):
    names(folder, out=tmp_path / "m")
    with pytest.raises(ConfigError, match="of other inputs or options"):
        names(folder, out=tmp_path / "m", per_shard=3)
    with pytest.raises(ConfigError, match="is not empty"):
        names(folder, out=folder)
    with pytest.raises(ConfigError, match=r"has no manifest\.json"):
        read_manifest(str(folder))
    (tmp_path / "m" / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="no manifest in the format"):
        read_manifest(str(tmp_path / "m"))


def test_a_manifest_of_other_programs(tmp_path):
    """The example of docs/cluster.md, with only the columns that must be there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = (ROOT / "docs" / "cluster.md").read_text("utf-8")
    example = re.search(r'`({"format".*?})`', text, re.DOTALL)
    (tmp_path / "manifest.json").write_text(example[1])
    shard = tmp_path / "shard-00000.parquet"
    pq.write_table(pa.table({"id": [5], "path": ["/a/b.jpg"], "more": [1.0]}), shard)
    assert read_manifest(str(tmp_path)).images == 4321
    assert read_entries(str(tmp_path), 0) == [Entry("/a/b.jpg", None, "", "/a/b.jpg")]
    pq.write_table(pa.table({"id": [5]}), shard)
    with pytest.raises(DataError, match="has no column path"):
        read_entries(str(tmp_path), 0)
    pq.write_table(pa.table({"id": [5], "path": [None]}), shard)
    with pytest.raises(DataError, match="row 0: path and name must be text"):
        read_entries(str(tmp_path), 0)
    shard.write_bytes(b"cut")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_entries(str(tmp_path), 0)


def test_the_missing_package_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(EXTRAS, "remote", ("no_such_package",))
    with pytest.raises(ConfigError, match=r"pip install 'resdet\[remote\]'"):
        names(folder, out=tmp_path / "m")


# ------------------------------------------------------------------------------------------ S3


@pytest.fixture(scope="module")
def bucket(object_store, folder) -> str:
    return object_store.upload(folder, "images", "prefix/")


def test_s3_has_the_images_of_the_folder(folder, bucket, object_store, tmp_path):
    local = names(folder, out=tmp_path / "local")
    assert names(bucket, out=tmp_path / "m", per_shard=3) == local
    for each in entries(tmp_path / "m"):
        assert each.path == f"{bucket}/{each.name}" and len(each.etag) == 32
        assert read_bytes(each.path).decode() == each.name
    assert names(f"{bucket}/day*/**/*.jpg", out=tmp_path / "g") == [
        name for name in local if name.startswith("day")
    ]


def test_s3_holds_manifests_and_tars(folder, tars, object_store):
    place = object_store.upload(tars, "tars")
    expected = [f"{number}.tar/{name}" for number in range(3) for name in NAMES[number:]]
    write_manifest([f"{place}/*.tar"], f"{place}/m", per_shard=10)
    found = entries(f"{place}/m")
    assert [each.name for each in found] == expected
    last = found[-1]
    assert read_bytes(last.path.partition("::")[2], last.offset, last.size) == b"day2/x.jpg"
    assert Store(f"{place}/m").names()[:2] == ["manifest.json", "shard-00000.parquet"]


def test_a_missing_prefix_and_bucket_are_errors(bucket, tmp_path):
    for source in (f"{bucket}/missing", "s3://no-such-bucket/a"):
        with pytest.raises(DataError, match=f"{source}: no such folder"):
            names(source, out=tmp_path / "m")


def test_pages_of_s3(object_store, tmp_path, monkeypatch):
    """A folder of more images than a page, and than a piece of the listing."""
    from resdet.datasets.manifests import walk

    monkeypatch.setattr(walk, "_CHUNK", 7)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for number in range(40):
        (tmp_path / "in" / f"{number}.jpg").write_text("x")
        (tmp_path / "in" / "sub" / f"{number}.jpg").write_text("x")
    place = object_store.upload(tmp_path / "in", "pages")
    assert names(place, out=tmp_path / "m") == names(tmp_path / "in", out=tmp_path / "l")
