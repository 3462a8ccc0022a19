"""The fuzzed readers, with valid examples and the errors that each may raise.

A message must be one line with the name of the file.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from resdet.backbones.weights.reading import read_tensors
from resdet.datasets.acquire.archives import unpack
from resdet.datasets.formats import FORMATS, read_images
from resdet.datasets.formats.coco import CocoSource
from resdet.datasets.formats.voc import VocSource
from resdet.datasets.formats.yolo import YoloSource
from resdet.datasets.formats.yolo_names import read_names
from resdet.datasets.image import read_image, read_size
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import config_from_dict, dump_config, load_config
from resdet.detection.config.strict_yaml import parse_yaml, to_yaml
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.detection.engine.history import METRICS_FILE, read_history
from resdet.detection.errors import ConfigError, DataError, ImageError, WeightsError
from resdet.detection.inference.records import META, RECORDS, scan
from resdet.detection.inference.results import export_results
from resdet.detection.tasks.checkpoints import read_checkpoint
from resdet.detection.tasks.registry import TASKS
from resdet.tests.fuzz import datasets, weights
from resdet.tests.fuzz.datasets import RULES, fixed, odd, read_as
from resdet.tests.fuzz.mutation import mutate
from resdet.tests.fuzz.structures import as_json, coco, spoil, voc_xml, yaml_text


@dataclass(frozen=True)
class Target:
    """``read`` meets a file in a folder that `prepare` made; ``errors`` are all it may raise.

    ``seeds`` are valid files, ``make`` draws well-formed ones with odd contents.
    """

    file: str
    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]
    make: Callable[[Random], bytes] | None = None


def example(target: Target, seeds: Sequence[bytes], random: Random) -> bytes:
    """One file to try: well-formed and odd, or damaged."""
    if target.make is not None and random.random() < 0.4:
        data = target.make(random)
        if random.random() < 0.7:
            return data
    else:
        data = random.choice(seeds)
    return mutate(data, random.choice(seeds), random)


def attempt(target: Target, folder: Path, data: bytes) -> bool:
    """Whether the reader took ``data``; anything but the documented errors is raised."""
    path = folder / target.file
    path.write_bytes(data)
    try:
        target.read(path)
    except target.errors as error:
        text = str(error)
        if not text or ("\n" in text and not isinstance(error, ConfigError)):
            raise AssertionError(f"not one line: {text!r}") from error
        if str(folder) not in text:
            raise AssertionError(f"the file is not named: {text!r}") from error
        return False
    return True


def _fixed(seed: int = 0) -> Random:
    return Random(seed)  # noqa: S311  the same files every time


def prepare(folder: Path) -> None:
    """Files beside those that are read: images, lists, settings."""
    datasets.prepare(folder)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (folder / "found" / META).write_text('{"classes": ["dog", "cat"]}')
    (folder / "yolo" / "data.yaml").write_text("names: [dog, cat]")


# ---------------------------------------------------------------------------------- images


def _images() -> list[bytes]:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: list[tuple[Image.Image, str, dict[str, object]]] = [
        (photo, "JPEG", {}),
        (photo, "JPEG", {"progressive": True, "exif": exif}),
        (photo.convert("CMYK"), "JPEG", {}),
        (photo.convert("L"), "JPEG", {"restart_marker_blocks": 1}),
        (photo, "PNG", {"exif": exif}),
        (photo.convert("P"), "PNG", {}),
        (photo.convert("RGBA"), "PNG", {}),
        (Image.fromarray(np.full((20, 24), 40000, np.uint16)), "PNG", {}),
        (photo.convert("1"), "PNG", {}),
        (photo, "WEBP", {}),
        (photo.convert("RGBA"), "WEBP", {"lossless": True, "exif": exif}),
        (photo, "BMP", {}),
        (photo.convert("P"), "BMP", {}),
        (photo, "TIFF", {"exif": exif}),
        (photo, "TIFF", {"compression": "tiff_lzw"}),
        (photo.convert("L"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        (photo.convert("F"), "TIFF", {}),
        (photo, "GIF", {"save_all": True, "append_images": [photo, photo]}),
        (photo, "PPM", {}),
        (photo, "JPEG2000", {}),
        (photo, "AVIF", {}),
    ]
    return [_encoded(*variant) for variant in variants if variant[1] in Image.SAVE]


def _encoded(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _read_image(path: Path) -> None:
    with contextlib.suppress(ImageError):  # a header may be better than its pixels, not worse
        size = read_size(path, RULES)
        pixels = read_image(path, RULES).pixels
        assert pixels.shape == (*size, 3) and pixels.dtype == np.uint8
        return
    read_image(path, RULES)


# -------------------------------------------------------------------------------- annotations


def _xmls() -> list[bytes]:
    return [datasets.VOC, *(voc_xml(_fixed(seed)) for seed in range(8))]


def _read_voc(path: Path) -> None:
    read_images(VocSource(root=path.parents[1], split="train"))


def _read_coco(path: Path) -> None:
    read_images(CocoSource(images=path.parent / "JPEGImages", annotations=path))


def _read_yolo(path: Path) -> None:
    read_images(YoloSource(root=path.parents[2], split="train"))


def _odd_coco(random: Random) -> bytes:
    return as_json(spoil(coco(random), random))


# ------------------------------------------------------------------------------------ configs


def _config(random: Random) -> object:
    return spoil(DetectorConfig().model_dump(mode="json"), random, chance=0.01)


def _read_config(path: Path) -> None:
    load_config(path)


def _read_yaml(path: Path) -> None:
    value = parse_yaml(path.read_bytes(), str(path)).value
    again = parse_yaml(to_yaml(value), "again").value
    assert again == value, f"{value!r} came back as {again!r}"


# ------------------------------------------------------------------------------------ weights

_TENSORS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "norm.bias": torch.ones(2)}


def _state() -> dict[str, object]:
    return {
        "format_version": 1,
        "model": dict(_TENSORS),
        "config": DetectorConfig().model_dump(mode="json"),
        "classes": ["dog", "cat"],
        "step": 3,
    }


def _saved(content: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def _odd_checkpoint(random: Random) -> bytes:
    return _saved(spoil(_state(), random, chance=0.02))


def _read_checkpoint(path: Path) -> None:
    load_checkpoint(path)


def _read_detector(path: Path) -> None:
    read_checkpoint(path, *TASKS.values())


def _pickles() -> list[bytes]:
    arrays = {name: tensor.numpy() for name, tensor in _TENSORS.items()}
    wrapped = pickle.dumps({"model": arrays, "__author__": "x"}, 2)
    return [wrapped, *(pickle.dumps(arrays, protocol) for protocol in range(6))]


def _tensor_files() -> list[bytes]:
    own = [_saved(_TENSORS), _saved({"state_dict": _TENSORS}), _saved(_TENSORS, zipped=False)]
    return [*own, safetensors.torch.save(_TENSORS)]


# ------------------------------------------------------------------------------ what runs leave


def _records(random: Random) -> list[dict[str, object]]:
    found = {"label": "dog", "score": 0.5, "box": [1.0, 2.0, 3.5, 4.0]}
    good = {"width": 64, "height": 48, "orientation": 1, "warnings": [], "detections": [found] * 2}
    return [
        {"file": f"{number}.jpg", **good} if random.random() < 0.8 else {"file": "x", "error": "e"}
        for number in range(4)
    ]


def _lines(trees: Sequence[object]) -> bytes:
    return b"".join(as_json(tree) + b"\n" for tree in trees)


def _read_records(path: Path) -> None:
    scan(path)
    export_results(path.parent)


def _history() -> list[bytes]:
    entry = {"kind": "train", "step": 2, "time": "2020-01-01T00:00:00+00:00", "loss": 0.5}
    return [_lines([entry, {**entry, "kind": "eval", "step": 4, "voc_ap50": None}])]


# ----------------------------------------------------------------------------------- archives


def _archives(suffix: str) -> Callable[[], list[bytes]]:
    return lambda: [_archive(suffix, mode) for mode in (("w", "w:gz") if suffix == "tar" else "w")]


def _archive(suffix: str, mode: str) -> bytes:
    stream = io.BytesIO()
    if suffix == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in ("VOC/a.xml", "VOC/b.txt"):
                packed.writestr(name, b"<annotation/>" * 20)
        return stream.getvalue()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]  w or w:gz
        for name in ("VOC/a.xml", "VOC/b.txt"):
            member = tarfile.TarInfo(name)
            member.size = 260
            tar.addfile(member, io.BytesIO(b"<annotation/>" * 20))
    return stream.getvalue()


def _unpack(path: Path) -> None:
    target = path.parent / "unpacked" / "inside"
    outside = set(path.parent.rglob("*"))
    try:
        unpack(path, target)
    finally:
        new = [at for at in path.parent.rglob("*") if at not in outside | {target.parent}]
        left = [at for at in new if not at.is_relative_to(target)]
        assert not left and not any(at.is_symlink() for at in new), left
        for at in sorted(target.rglob("*"), reverse=True):
            at.rmdir() if at.is_dir() else at.unlink()


TARGETS = {
    "image": Target("x.jpg", _images, _read_image, (ImageError,)),
    "voc": Target("Annotations/a.xml", _xmls, _read_voc, (DataError,), voc_xml),
    "coco": Target(
        "x.json", lambda: [as_json(coco(_fixed()))], _read_coco, (DataError,), _odd_coco
    ),
    "yolo": Target(
        "yolo/labels/train/a.txt",
        lambda: [b"0 0.5 0.5 0.25 0.125\n1 1e-1 0.2 0.2 0.4\r\n", b"\n"],
        _read_yolo,
        (DataError,),
    ),
    "csv": Target(
        "boxes.csv",
        lambda: datasets.CSVS,
        read_as("csv", "", images="JPEGImages", annotations="{}"),
        (DataError,),
    ),
    "labelme": Target(
        "labelme/a.json",
        fixed(datasets.labelme),
        read_as("labelme", "labelme", split=None, depth=1),
        (DataError,),
        odd(datasets.labelme),
    ),
    "label_studio": Target(
        "tasks.json",
        fixed(datasets.label_studio),
        read_as("label_studio", "", images="JPEGImages", annotations="{}"),
        (DataError,),
        odd(datasets.label_studio),
    ),
    "cvat": Target(
        "cvat.xml",
        lambda: [datasets.CVAT],
        read_as("cvat", "", images="JPEGImages", annotations="{}"),
        (DataError,),
    ),
    "solution": Target(
        "answers/LOC_val_solution.csv",
        lambda: [datasets.SOLUTION],
        read_as("ilsvrc", "answers", part="val", headers=True, depth=1),
        (DataError,),
    ),
    "numbers": Target(
        "numbers/ILSVRC2012_validation_ground_truth.txt",
        lambda: [b"1\n2\n"],
        read_as("ilsvrc", "numbers", part="val", depth=1),
        (DataError,),
    ),
    "meta": Target(
        "kit/meta.mat",
        lambda: [datasets.meta_mat()],
        read_as("ilsvrc", "kit", part="val", depth=1),
        (DataError,),
    ),
    "det": Target(
        "det/Annotations/DET/val/ILSVRC2012_val_00000001.xml",
        _xmls,
        read_as("ilsvrc_det", "det", split="val", depth=4),
        (DataError,),
        voc_xml,
    ),
    "det_list": Target(
        "det/ImageSets/DET/val.txt",
        lambda: [b"ILSVRC2012_val_00000001 -1\nILSVRC2012_val_00000002 -1\n"],
        read_as("ilsvrc_det", "det", split="val", depth=3),
        (DataError,),
    ),
    "cub": Target(
        "cub/bounding_boxes.txt",
        lambda: [datasets.CUB["bounding_boxes.txt"].encode()],
        read_as("cub", "cub", depth=1),
        (DataError,),
    ),
    "cub_list": Target(
        "cub/images.txt",
        lambda: [datasets.CUB["images.txt"].encode()],
        read_as("cub", "cub", depth=1),
        (DataError,),
    ),
    "tiny": Target(
        "tiny/val/val_annotations.txt",
        lambda: [b"a.jpg\tn01440764\t0\t0\t9\t9\nb.jpg\tn01443537\t0\t0\t9\t9\n"],
        read_as("tiny_imagenet", "tiny", part="val", depth=2),
        (DataError,),
    ),
    "image_set": Target(
        "ImageSets/Main/train.txt",
        lambda: [b"a\n", b"a 1\n", b"\xef\xbb\xbfa\r\n"],
        lambda path: _read_voc(path.parents[1] / "x"),
        (DataError,),
    ),
    "names": Target(
        "data.yaml",
        lambda: [b"names: [dog, 'no']\nnc: 2\n", b"a: &a [x]\nnames:\n  1: y\n  0: dog\nb: *a\n"],
        lambda path: (read_names(path.parent), FORMATS["yolo"].splits(path.parent)),
        (DataError,),
    ),
    "yaml": Target(
        "x.yml",
        lambda: [dump_config(config_from_dict({})).encode(), b"a: &x [1, 2]\nb: {c: *x }\n"],
        _read_yaml,
        (ConfigError,),
        lambda random: yaml_text(random, lambda it: spoil(coco(it), it)),
    ),
    "config": Target(
        "x.yaml",
        lambda: [dump_config(config_from_dict({})).encode()],
        _read_config,
        (ConfigError,),
        lambda random: yaml_text(random, _config),
    ),
    "checkpoint": Target("x.pt", lambda: [_saved(_state())], _read_checkpoint, (WeightsError,)),
    "detector": Target(
        "y.pt",
        lambda: [_saved(_state())],
        _read_detector,
        (WeightsError, ConfigError),
        _odd_checkpoint,
    ),
    "archive": Target(
        "z.pt",
        lambda: [weights.small_archive()],
        weights.read_any_state,
        (WeightsError,),
        lambda random: weights.odd_archive(random, mutate),
    ),
    "predict": Target(
        "p.pt",
        lambda: [_saved(state) for state in weights.old_states()],
        weights.load_and_predict,
        (WeightsError, ConfigError),
        weights.odd_checkpoint,
    ),
    "resume": Target(
        "r.pt",
        lambda: [_saved(weights.resumable())],
        weights.resume,
        (WeightsError,),
        weights.odd_resumable,
    ),
    "convert": Target(
        "w.pth",
        lambda: [_saved(weights.torchvision_state())],
        weights.import_any,
        (WeightsError,),
        weights.odd_weights,
    ),
    "converted": Target(
        "c.safetensors",
        lambda: [weights.converted_file()],
        weights.import_any,
        (WeightsError,),
        lambda random: weights.odd_header(random, weights.converted_file()),
    ),
    "shards": Target(
        "shards/000000.tar",
        lambda: datasets.shard_files()[:1],
        datasets.read_shard,
        (DataError, ImageError),
    ),
    "shard_index": Target(
        "index/index.jsonl",
        lambda: datasets.shard_files()[1:],
        datasets.read_index,
        (DataError,),
        datasets.index_of,
    ),
    "parquet": Target(
        "listing/shard-00000.parquet", datasets.parquets, datasets.read_parquet, (DataError,)
    ),
    "manifest": Target(
        "listing/manifest.json",
        fixed(datasets.manifest),
        datasets.read_listing,
        (DataError, ConfigError),
        odd(datasets.manifest),
    ),
    "results": Target(
        "results.json",
        fixed(datasets.results),
        datasets.read_results,
        (DataError,),
        odd(datasets.results),
    ),
    "images": Target(
        "images.json",
        fixed(datasets.images_json),
        datasets.read_images_json,
        (DataError,),
        odd(datasets.images_json),
    ),
    "tensors": Target("x.bin", _tensor_files, read_tensors, (WeightsError,)),
    "pickles": Target("x.pkl", _pickles, read_tensors, (WeightsError,)),
    "list": Target(
        "inputs.txt",
        lambda: [b"JPEGImages/a.jpg\n# note\nyolo/images/train/b.jpg\r\nnone.png\n"],
        datasets.read_list,
        (ConfigError,),
    ),
    "records": Target(
        f"found/{RECORDS}",
        lambda: [_lines(_records(_fixed()))],
        _read_records,
        (DataError,),
        lambda random: _lines([spoil(record, random) for record in _records(random)]),
    ),
    "history": Target(METRICS_FILE, _history, lambda path: read_history(path.parent), ()),
    "tar": Target("x.tar", _archives("tar"), _unpack, (DataError,)),
    "zip": Target("x.zip", _archives("zip"), _unpack, (DataError,)),
}
