"""The Python interface: every kind of image, in displayed pixels."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resdet.detection.errors import ConfigError, ImageError
from resdet.detection.inference.calls import pick_device
from resdet.detection.inference.image_results import FailedImage
from resdet.detection.inference.predictor import ModelFacts, Predictor
from resdet.detection.inference.result_types import DetectionResult
from resdet.detection.structures import Detections
from resdet.tests.detection.inference.conftest import CLASSES

RED = [10.0, 5.0, 30.0, 25.0]

#: What a viewer does to stored pixels, for the EXIF orientations 1..8 (TIFF 6.0, tag 274): how to
#: store an image so that it is displayed upright.
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


def close(boxes: torch.Tensor, expected: list[list[float]], within: float = 1.01) -> bool:
    """Resizing blurs the edge of a spot by a pixel."""
    return boxes.shape == (len(expected), 4) and torch.allclose(
        boxes, torch.tensor(expected), atol=within, rtol=0
    )


def test_paths_arrays_and_pil_images_give_the_same(predictor, spot, tmp_path):
    path = tmp_path / "spot.png"
    Image.fromarray(spot()).save(path)
    images = [path, str(path), spot(), Image.open(path)]
    results = predictor.predict(images)
    assert len(results) == 4
    for found in results:
        assert close(found.boxes, [RED])
        assert found.labels.tolist() == [0]
        assert torch.equal(found.boxes, results[0].boxes)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_pil", [False, True])
def test_boxes_are_in_the_displayed_frame_for_every_exif_orientation(
    predictor, spot, tmp_path, orientation, as_pil
):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](spot()))
    Image.fromarray(stored).save(path, exif=exif)
    prepared = predictor.prepare(Image.open(path) if as_pil else path)
    assert prepared.size == (40, 60)
    assert prepared.loaded.orientation == orientation
    assert np.array_equal(prepared.loaded.pixels, spot())
    (found,) = predictor.detect([prepared])
    assert close(found.boxes, [RED])


def test_threshold_keeps_equal_scores(predictor, spot):
    # Red covers 20 x 20 of 40 x 60, blue 30 x 24; at twice the size the shares stay the same.
    image = spot(blue=(28, 10, 58, 34))
    (everything,) = predictor.predict([image])
    assert everything.labels.tolist() == [0, 1]
    lower, higher = everything.scores.tolist()
    assert lower < higher
    (some,) = predictor.predict([image], score_threshold=higher)
    assert some.labels.tolist() == [1]
    (none,) = predictor.predict([image], score_threshold=1.0)
    assert none.boxes.shape == (0, 4)


def test_batches_hold_equal_shapes_only_and_results_keep_their_order(predictor, model, spot):
    wide, tall = spot(), spot(size=(60, 40))
    alone = [predictor.predict([image])[0] for image in (wide, tall)]
    model.shapes.clear()
    together = predictor.predict([wide, tall, wide, tall, wide], batch_size=4)
    assert model.shapes == [(2, 3, 80, 120), (2, 3, 120, 80), (1, 3, 80, 120)]
    for index, found in enumerate(together):
        assert torch.equal(found.boxes, alone[index % 2].boxes)


def test_no_images_give_no_results(predictor):
    assert predictor.predict([]) == []
    assert predictor.detect([]) == []


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_pil_modes_become_rgb(predictor, spot, mode):
    image = Image.fromarray(spot())
    prepared = predictor.prepare(image.convert(mode))
    assert prepared.loaded.pixels.shape == (40, 60, 3)


def test_transparent_pixels_show_the_background(predictor, spot):
    image = Image.fromarray(spot()).convert("RGBA")
    image.putalpha(0)
    assert (predictor.prepare(image).loaded.pixels == 255).all()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (Image.new("I;16", (4, 4)), "mode I;16"),
        ("missing.jpg", "missing.jpg"),
    ],
)
def test_unusable_images_are_named(predictor, wrong, reason):
    with pytest.raises(ImageError, match=reason):
        predictor.predict([wrong])


@pytest.mark.parametrize(
    "wrong", ["a.jpg", np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (4, 4))]
)
def test_one_image_without_a_list_is_refused(predictor, wrong):
    with pytest.raises(ConfigError, match="list"):
        predictor.predict(wrong)


def test_devices():
    assert pick_device("cpu").type == "cpu"
    for wrong in ("gpu", "99", "cuda:99", "mps", "meta", 99):
        with pytest.raises(ConfigError, match=f"device {wrong}: .*") as error:
            pick_device(wrong)
        assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------ calling a model


def test_one_image_gives_one_result_and_several_a_list(predictor, spot, save, tmp_path):
    one = predictor(spot(), score_threshold=0.1)
    assert isinstance(one, DetectionResult)
    assert close(one.boxes, [RED])
    assert one.names == ["red spot"]
    pixels = np.stack([spot(), spot(red=(0, 0, 0, 0))])
    for several in ([spot(), spot(red=(0, 0, 0, 0))], pixels, (image for image in pixels)):
        results = predictor(several, score_threshold=0.1)
        assert [len(each) for each in results] == [1, 0]
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "deep" / "b.png", red=(0, 0, 0, 0))
    for place in (tmp_path / "in", f"{tmp_path}/in/**/*.png"):
        results = predictor(place, score_threshold=0.1)
        assert [(each.file, len(each)) for each in results] == [("a.png", 1), ("deep/b.png", 0)]
    assert predictor([]) == []
    assert predictor(tmp_path / "in" / "a.png").file == str(tmp_path / "in" / "a.png")


def test_the_threshold_is_that_of_the_model_unless_one_is_given(model, spot):
    image = spot(blue=(28, 10, 58, 34))  # scores 1/6 and 0.3
    assert len(Predictor(model, classes=CLASSES)(image)) == 0  # infer's 0.5
    lower = Predictor(model, classes=CLASSES, score_threshold=0.2)
    assert lower(image).names == ["blå fläck"]
    assert len(lower(image, score_threshold=0.1)) == 2
    assert len(lower.predict([image])[0]) == 2
    for wrong in (50, -0.1, float("nan"), "0.5", True):
        with pytest.raises(ConfigError, match="is not between 0 and 1"):
            lower(image, score_threshold=wrong)
        with pytest.raises(ConfigError, match="is not between 0 and 1"):
            Predictor(model, classes=CLASSES, score_threshold=wrong)
        with pytest.raises(ConfigError, match="is not between 0 and 1"):
            lower.predict([image], score_threshold=wrong)


def test_wrong_options_are_told_when_the_call_is_made(predictor, spot):
    for wrong, reason in (
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"on_error": "skip"}, "on_error 'skip'"),
        ({"channels": "gbr"}, "channels 'gbr'"),
        ({"value_range": (1, 0)}, "value_range"),
        ({"value_range": 255}, "value_range 255"),
    ):
        with pytest.raises(ConfigError, match=reason):
            predictor.stream([spot()], **wrong)
    with pytest.raises(TypeError, match="unknown option conf; the options are score_threshold"):
        predictor.stream([spot()], conf=0.5)
    for wrong in (None, 5, {"a": 1}):
        with pytest.raises(ConfigError, match="image"):
            predictor(wrong)
    with pytest.raises(ConfigError, match="pass one list"):
        predictor([[spot()]])


def test_failed_images_are_returned_in_their_place_on_request(predictor, spot, save, tmp_path):
    good, missing = save(tmp_path / "a.png"), tmp_path / "no.png"
    with pytest.raises(ImageError, match=r"no\.png: no such file"):
        predictor([good, missing, good])
    first, failed, last = predictor(
        [good, missing, good], on_error="return", batch_size=3, score_threshold=0.1
    )
    assert len(first) == len(last) == 1
    assert isinstance(failed, FailedImage)
    assert len(failed) == 0
    assert failed.to_dict() == {"file": str(missing), "error": "no such file"}
    assert json.loads(failed.to_json()) == failed.to_dict()
    assert isinstance(predictor([None], on_error="return")[0], FailedImage)


def test_numbers_that_are_nan_are_an_error_of_the_image(predictor, model, spot):
    def broken(batch):
        return [Detections(torch.full((1, 4), torch.nan), torch.ones(1), torch.tensor([0]))]

    model.predict = broken
    with pytest.raises(ImageError, match="boxes or scores that are NaN"):
        predictor(spot())
    assert isinstance(predictor(spot(), on_error="return"), FailedImage)


def test_a_stream_holds_a_few_images_however_many_there_are(predictor, spot):
    """Images are made when they are needed, and freed: 300 of 6 MB, with a few alive at a time."""
    alive: set[int] = set()
    most = 0

    def images():
        nonlocal most
        for number in range(300):
            image = np.zeros((1000, 2000, 3), np.uint8)
            alive.add(number)
            weakref.finalize(image, alive.discard, number)
            most = max(most, len(alive))
            yield image

    stream = predictor.stream(images(), batch_size=4)
    assert isinstance(stream, Iterator)
    assert most == 0  # nothing was read yet
    assert sum(result.size == (1000, 2000) for result in stream) == 300
    assert 4 <= most <= 16


def test_a_stream_can_be_left_early(predictor, spot):
    seen = []
    stream = predictor.stream(seen.append(number) or spot() for number in range(1000))
    next(stream)
    stream.close()
    assert len(seen) < 10


def test_every_frame_of_a_video_with_its_number_and_time(predictor, film):
    path, bounds = film(20)
    results = list(predictor.stream(path, every=3, batch_size=4, score_threshold=0.05))
    assert [result.frame for result in results] == list(range(0, 20, 3))
    assert [result.time for result in results] == pytest.approx([n / 10 for n in range(0, 20, 3)])
    for result in results:
        assert result.names == ["red spot"]
        assert result.boxes[0].tolist() == pytest.approx(bounds(result.frame), abs=2)
        assert result.image.pixels.shape == (40, 60, 3)
    last = results[-1]
    assert list(last.to_dict())[:5] == ["file", "frame", "time", "width", "height"]
    assert json.loads(last.to_json())["time"] == 1.8
    assert repr(last).startswith(f"DetectionResult: {path}, frame 18 at 1.800 s, 60 x 40, 1 det")
    assert list(last.to_pandas().columns[:3]) == ["file", "frame", "time"]
    assert last.to_pandas()["frame"].tolist() == [18]
    assert "frame" not in predictor(last.image.pixels).to_dict()
    globbed = predictor.stream(path.parent / "*.avi", every=10)
    assert [(result.file, result.frame) for result in globbed] == [(str(path), 0), (str(path), 10)]


def test_a_video_that_ends_early_and_one_that_is_none(predictor, film, tmp_path):
    path, _ = film(60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    stream = predictor.stream(path)
    assert next(stream).frame == 0
    with pytest.raises(ImageError, match=r"a\.avi: ends after \d+ of 60 frames"):
        list(stream)
    *frames, failed = predictor.stream(path, on_error="return", batch_size=7)
    assert [one.frame for one in frames] == list(range(len(frames)))
    assert failed.to_dict() == {"file": str(path), "error": str(failed.error)}
    assert f"ends after {len(frames)} of 60 frames" in str(failed.error)
    path.write_bytes(b"<html>")
    with pytest.raises(ImageError, match=r"a\.avi: cannot be opened as a video"):
        list(predictor.stream(path))
    with pytest.raises(ConfigError, match=r"no\.mp4: no such file"):
        predictor.stream(tmp_path / "no.mp4")
    with pytest.raises(ConfigError, match=r"a video; stream\(.*\) gives its frames in turn"):
        predictor(path)
    with pytest.raises(ConfigError, match="every=2: is for videos"):
        predictor.stream([path], every=2)
    with pytest.raises(ConfigError, match="every 0-th frame"):
        predictor.stream(path, every=0)


def test_a_video_is_read_as_far_as_its_results_are_taken(predictor, film):
    """A few frames are alive at a time, and its thread ends with the generator."""
    path, _ = film(300)
    stream = predictor.stream(path, batch_size=4)
    alive: set[int] = set()
    most = 0
    for result in stream:
        alive.add(result.frame)
        weakref.finalize(result.image.pixels, alive.discard, result.frame)
        most = max(most, len(alive))
        if result.frame == 250:
            break
    assert most <= 16
    assert any(thread.name == "decode" for thread in threading.enumerate())
    stream.close()
    assert not any(thread.name == "decode" for thread in threading.enumerate())


def test_a_stream_gives_the_results_before_a_failed_image(predictor, save, tmp_path):
    good = save(tmp_path / "a.png")
    stream = predictor.stream([good, good, tmp_path / "no.png"])
    assert next(stream).file == next(stream).file == str(good)
    with pytest.raises(ImageError, match="no such file"):
        next(stream)


def test_threads_share_a_predictor(predictor, spot):
    images = [spot(red=(10, 5, 30, 10 + index)) for index in range(20)]
    expected = [predictor(image, score_threshold=0.0).boxes for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda image: predictor(image, score_threshold=0.0).boxes, images)
        assert all(map(torch.equal, found, expected))


def test_networks_changed_by_hand_are_told(predictor, model, spot):
    model.train()
    with pytest.raises(ConfigError, match=r"training mode: call model\.pipeline\.eval"):
        predictor(spot())
    model.eval()
    model.register_parameter("weight", torch.nn.Parameter(torch.ones(2).half()))
    with pytest.raises(ConfigError, match=r"float16: keep them float32.*precision='fp16'"):
        predictor(spot())


def test_moving_a_predictor(predictor, spot):
    assert predictor.to("cpu", precision="bf16") is predictor
    assert predictor.precision == "bf16"
    for wrong in ({"device": "mps"}, {"device": "cuda:99"}, {"precision": "int8"}):
        with pytest.raises(ConfigError):
            predictor.to(**wrong)
    assert (predictor.device.type, predictor.precision) == ("cpu", "bf16")


def test_the_repr_says_what_the_model_is(model):
    facts = ModelFacts("detector X", "short side 80", (Path("run/best.pt"),))
    text = repr(Predictor(model, classes=CLASSES, facts=facts))
    for words in ("detector X", "2 classes: red spot, blå fläck", "short side 80", "0.5", "cpu"):
        assert words in text
    assert text.endswith("from run/best.pt")
    many = repr(Predictor(model, classes=[f"c{n}" for n in range(1000)]))
    assert "1000 classes: c0, " in many
    assert len(many) < 300
