"""Classifiers of other toolkits, converted and evaluated as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from resdet.backbones.weights.convert import convert
from resdet.backbones.weights.fetch import published_sizes
from resdet.backbones.weights.load import import_weights, write_converted
from resdet.datasets.image import read_image
from resdet.datasets.loading.crops import CentreCrop
from resdet.detection.errors import WeightsError
from resdet.detection.tasks.base import ALONE
from resdet.detection.tasks.checkpoints import load_members, read_checkpoint
from resdet.detection.tasks.classifier import CLASSIFICATION
from resdet.tests.detection.tasks import test_checkpoints
from resdet.tools.cli import main
from torch import Tensor
from torchvision.models.resnet import ResNet
from torchvision.transforms._presets import ImageClassification

#: Folders whose sorted order is the order of the network's rows.
WNIDS = ("n01440764", "n01443537", "n02084071", "n02121808", "n07753592")


def narrow_torchvision() -> ResNet:
    """A whole classifier of five classes, which it tells apart."""
    model = test_checkpoints.narrow_torchvision()
    model.fc = torch.nn.Linear(64, len(WNIDS))
    torch.nn.init.normal_(model.fc.weight, std=0.5, generator=torch.Generator().manual_seed(1))
    torch.nn.init.zeros_(model.fc.bias)
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rough images of 36 x 44 pixels a class, validation alone."""
    root, random = tmp_path_factory.mktemp("data") / "images", np.random.default_rng(3)
    for wnid in WNIDS:
        (root / "val" / wnid).mkdir(parents=True)
        for number in range(2):
            rough = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            image = cv2.resize(rough, (44, 36))
            cv2.imwrite(str(root / "val" / wnid / f"{number}.png"), image)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow ResNet-18 of torchvision with five classes, as `convert-weights` writes it."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(narrow_torchvision().state_dict(), folder / "r18.pth")
    out = folder / "r18.safetensors"
    assert main(["convert-weights", str(folder / "r18.pth"), str(out)]) == 0
    return out


def source(data: Path) -> str:
    return f"data.source={{format: image_folder, root: {data}}}"


#: Images are small: the shorter side 36, crops of 32.
SIZES = ("test.resize=36", "test.size=32", "data.workers=0")


def scores(weights: Path, data: Path) -> dict[str, Tensor]:
    members = load_members(
        [read_checkpoint(weights, CLASSIFICATION)], overrides=[source(data), *SIZES]
    )
    split = CLASSIFICATION.read(members[0].config, "val", members[0].classes)
    assert split.classes == WNIDS
    found = CLASSIFICATION.predict_split(
        CLASSIFICATION.pipeline(members), members[0].config, split, ALONE
    )
    assert found is not None
    return found


def test_scores_are_those_of_torchvision(weights: Path, data: Path) -> None:
    """Cropped by hand, with torchvision's own network and normalisation."""
    model, found = narrow_torchvision(), scores(weights, data)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for path in sorted(data.rglob("*.png")):
        pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        crop = torch.from_numpy(pixels[2:34, 6:38])
        image = ((crop / 255 - mean) / std).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = model(image).softmax(dim=1)[0]
        own = next(
            value
            for name, value in found.items()
            if name.endswith(f"{path.parent.name}/{path.name}")
        )
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)


def test_infer_numbers_the_classes(weights: Path, data: Path, tmp_path: Path) -> None:
    """`eval` names the classes as the data does; a folder of images has no names."""
    out = tmp_path / "out"
    assert (
        main(["infer", "--weights", str(weights), str(data / "val"), *SIZES[:2], "--out", str(out)])
        == 0
    )
    expected = scores(weights, data)
    lines = (out / "classes.jsonl").read_text().splitlines()
    assert len(lines) == len(expected) == 10
    for record in map(json.loads, lines):
        own = {each["label"]: each["score"] for each in record["classes"]}
        (wanted,) = (v for k, v in expected.items() if k.endswith(record["file"]))
        assert [own[f"class{row}"] for row in range(5)] == pytest.approx(wanted.tolist(), abs=1e-6)


def test_eval_gives_the_error_in_one_command(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--weights", str(weights), source(data), *SIZES, "--out", str(tmp_path)]
    assert main(words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "the weights have no class names (`eval` takes those of the data, sorted)" in printed
    assert "overridden: test.resize 36 (weights: 256), test.size 32 (weights: 224)" in printed
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["classes"] == list(WNIDS) and report["images"] == 10
    found = scores(weights, data)
    wrong = sum(
        WNIDS[int(one.argmax())] != next(wnid for wnid in WNIDS if wnid in name)
        for name, one in found.items()
    )
    assert report["metrics"]["top1_error"] == pytest.approx(wrong / 10)


def test_names_may_be_given_in_the_order_of_the_weights(
    weights: Path, data: Path, tmp_path: Path
) -> None:
    words = ["eval", "--weights", str(weights), source(data), *SIZES, "--out", str(tmp_path)]
    order = [*reversed(WNIDS)]
    assert main([*words, f"data.classes=[{', '.join(order)}]"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["classes"] == order


def test_another_number_of_classes_is_refused(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    less = tmp_path / "less" / "val"
    less.mkdir(parents=True)
    for wnid in WNIDS[:4]:
        (less / wnid).symlink_to(data / "val" / wnid)
    assert main(["eval", "--weights", str(weights), source(less.parent), *SIZES]) == 3
    error = capsys.readouterr().err
    assert "4 classes in 'val', the weights have 5 without names" in error
    assert "data.classes=[...]" in error


def test_classes_that_are_numbered_in_the_data_keep_their_numbers(
    weights: Path, data: Path, tmp_path: Path
) -> None:
    """A class without images in the split is no reason to move the others."""
    val = tmp_path / "numbered" / "val"
    val.mkdir(parents=True)
    for number in (0, 2, 4):
        (val / f"class{number}").symlink_to(data / "val" / WNIDS[number])
    members = load_members(
        [read_checkpoint(weights, CLASSIFICATION)], overrides=[source(val.parent), *SIZES]
    )
    split = CLASSIFICATION.read(members[0].config, "val", members[0].classes)
    assert split.classes == tuple(f"class{number}" for number in range(5))
    assert [record.image_label for record in split.records] == [0, 0, 2, 2, 4, 4]


@pytest.mark.parametrize(
    ("digits", "sizes"),
    [("11ad3fa6", (232, 224)), ("0676ba61", (256, 224)), ("ffffffff", None)],
)
def test_the_sizes_of_torchvisions_files(
    digits: str, sizes: tuple[int, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResNet-50's IMAGENET1K_V2 is tested at 232, V1 at 256; the checksum tells them apart."""
    monkeypatch.setattr("resdet.backbones.weights.fetch.sha256_of", lambda path: digits + "0" * 56)
    path, out = tmp_path / "r50.pth", tmp_path / "r50.safetensors"
    torch.save(narrow_torchvision().state_dict(), path)
    assert published_sizes(path) == sizes
    write_converted(import_weights(path), out)
    config = read_checkpoint(out, CLASSIFICATION).config
    assert (config.test.resize, config.test.size) == (sizes or (256, 224))


def test_pixels_and_stride_are_those_of_the_weights(tmp_path: Path) -> None:
    converted = convert(narrow_torchvision().state_dict(), "torchvision")
    path = tmp_path / "msra.safetensors"
    write_converted(replace(converted, layout="msra", pixels="msra", stride_in="1x1"), path)
    checkpoint = read_checkpoint(path, CLASSIFICATION)
    network = checkpoint.config.network
    assert (network.pixels, network.stride_in, network.norm) == ("msra", "1x1", "frozen")
    model = checkpoint.load().model
    assert model.pixels.channels.tolist() == [2, 1, 0] and model.pixels.std.tolist() == [1, 1, 1]


def test_files_that_are_no_classifier(tmp_path: Path) -> None:
    tensors = narrow_torchvision().state_dict()
    converted, path = convert(tensors, "torchvision"), tmp_path / "r18.safetensors"
    body = {name: one for name, one in converted.tensors.items() if not name.startswith("fc.")}
    write_converted(replace(converted, tensors=body), path)
    with pytest.raises(WeightsError, match="a backbone without its last layer"):
        read_checkpoint(path, CLASSIFICATION)
    write_converted(replace(converted, layout="resdet_classifier"), path)
    with pytest.raises(WeightsError, match="use the checkpoint itself"):
        read_checkpoint(path, CLASSIFICATION)
    write_converted(replace(converted, stem_width=7), path)
    with pytest.raises(WeightsError, match="conv1 has 7 channels and conv2_x 8"):
        read_checkpoint(path, CLASSIFICATION)


def test_photographs_are_prepared_pixel_by_pixel(shared_data: Path) -> None:
    """From the file to the crop, as torchvision reads, resizes and cuts."""
    transforms = ImageClassification(
        crop_size=224, resize_size=232, mean=(0.0,) * 3, std=(1 / 255,) * 3
    )
    crop = CentreCrop(232, 224, resampling="pillow")
    for folder in ("bccd/JPEGImages", "cards/JPEGImages", "pets_cls_loc/Data", "caltech40/val"):
        for path in sorted((shared_data / folder).rglob("*.[jJ]*"))[::40][:4]:
            theirs = transforms(Image.open(path).convert("RGB")).round()
            assert torch.equal(crop(read_image(path).pixels).permute(2, 0, 1).float(), theirs), path


@pytest.mark.parametrize("toolkit", ["torchvision", "msra"])
def test_images_are_prepared_as_the_toolkit_does(toolkit: str, tmp_path: Path) -> None:
    """Smooth photographs of 300 x 400 px: torchvision's own transforms of the weights, or Caffe's
    BGR in 0 .. 255 minus the mean, before torchvision's network."""
    random = np.random.default_rng(8)
    for wnid in WNIDS:
        (tmp_path / "val" / wnid).mkdir(parents=True)
        rough = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = cv2.resize(rough, (400, 300), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "val" / wnid / "0.png"), image)
    model, path = narrow_torchvision(), tmp_path / "weights.safetensors"
    converted = convert(model.state_dict(), "torchvision")
    if toolkit == "msra":
        converted = replace(converted, layout="msra", pixels="msra")
    write_converted(converted, path)
    resampling = {"torchvision": "pillow", "msra": "opencv"}[toolkit]
    assert read_checkpoint(path, CLASSIFICATION).config.test.resampling == resampling
    members = load_members(
        [read_checkpoint(path, CLASSIFICATION)], overrides=[source(tmp_path), "data.workers=0"]
    )
    split = CLASSIFICATION.read(members[0].config, "val", members[0].classes)
    pipeline = CLASSIFICATION.pipeline(members)
    found = CLASSIFICATION.predict_split(pipeline, members[0].config, split, ALONE)
    assert found is not None and len(found) == len(WNIDS)
    prepare = ImageClassification(crop_size=224, resize_size=256)
    plain = ImageClassification(
        crop_size=224, resize_size=256, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3
    )
    mean = torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    spread, apart = torch.stack([*found.values()]).std(dim=0).max().item(), []
    for record in split.records:
        image = Image.open(record.path).convert("RGB")
        pixels = prepare(image) if toolkit == "torchvision" else plain(image)[[2, 1, 0]] - mean
        with torch.no_grad():
            expected = model(pixels[None]).softmax(dim=1)[0]
            swapped = model(pixels[None, [2, 1, 0]]).softmax(dim=1)[0]
        right, wrong = ((found[record.image_id] - each).abs().max() for each in (expected, swapped))
        # MSRA does not say how it resized: what remains is that Pillow's filter is wider.
        assert right < (1e-6 if toolkit == "torchvision" else 0.1 * spread), record.image_id
        apart.append(wrong.item())
    assert max(apart) > 0.2 * spread  # channels in the other order are seen


def test_another_split_of_class_folders(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "images"
    (root / "test").mkdir(parents=True)
    for wnid in WNIDS:
        (root / "test" / wnid).mkdir()
        image = data / "val" / wnid / "0.png"
        (root / "test" / wnid / "0.png").write_bytes(image.read_bytes())
    words = ["eval", "--weights", str(weights), source(root), *SIZES, "--split", "test"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["images"] == 5
    low, high = (report["intervals"]["top1_error"][name] for name in ("low", "high"))
    assert 0 <= low <= report["metrics"]["top1_error"] <= high <= 1
    content = json.loads((tmp_path / "out" / "images.json").read_text())
    assert content["task"] == "classification" and len(content["images"]) == 5
    for entry in content["images"]:
        assert len(entry["predicted"]["labels"]) == 5
        first = entry["predicted"]["labels"][0] == entry["label"]
        assert entry["values"]["top1_error"] == (0.0 if first else 1.0)
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "out")]) == 0
    assert "top1_error: the interval contains 0" in capsys.readouterr().out
    few = [*words, "--classes", ",".join(sorted(WNIDS)[3:1:-1]), "--out", str(tmp_path / "few")]
    assert main(few) == 0
    limited = json.loads((tmp_path / "few" / "metrics.json").read_text())
    assert limited["classes"] == sorted(WNIDS)[2:4] and limited["images"] == 2
    assert f"only 2 of 5 classes: {'; '.join(sorted(WNIDS)[2:4])}" in limited["testing"]
    for entry in json.loads((tmp_path / "few" / "images.json").read_text())["images"]:
        name = Path(entry["file"]).parent.name
        whole = next(each for each in content["images"] if Path(each["file"]).parent.name == name)
        scores = dict(zip(whole["predicted"]["labels"], whole["predicted"]["scores"], strict=True))
        two = [scores[2], scores[3]]
        expected = sorted((score / sum(two) for score in two), reverse=True)
        assert entry["predicted"]["scores"] == pytest.approx(expected, rel=1e-5)
    assert main([*words, "--classes", "n09999999"]) == 2
    assert "--classes: no class 'n09999999'" in capsys.readouterr().err
    assert main([*words, "--conf", "0.5"]) == 2
    assert "--conf: for detectors" in capsys.readouterr().err
