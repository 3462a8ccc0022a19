"""Videos: exact frames and times, variable rate, rotation, cut files, flat memory, live sources."""

from __future__ import annotations

import http.server
import json
import socket
import struct
import threading
import time
import tracemalloc
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from resdet.detection.errors import ConfigError, ImageError
from resdet.detection.inference.folder import FolderOptions
from resdet.detection.inference.inputs import find_inputs, find_videos
from resdet.detection.inference.video import Video, VideoWriter, is_video
from resdet.detection.inference.video_run import named_sources, run_videos

OPTIONS = FolderOptions(0.01)


def frame(number: int, size=(48, 64)) -> np.ndarray:
    """A grey frame, and its number as six bright or dark columns; BGR."""
    pixels = np.full((*size, 3), 90, np.uint8)
    width = size[1] // 8
    for bit in range(8):
        pixels[:, bit * width : (bit + 1) * width] = 220 if number >> bit & 1 else 30
    return pixels


def number_in(pixels: np.ndarray) -> int:
    width = pixels.shape[1] // 8
    columns = pixels.mean(axis=(0, 2))
    return sum(
        (columns[bit * width + 1 : (bit + 1) * width - 1].mean() > 125) << bit for bit in range(8)
    )


def make(path: Path, count: int, *, fps=10, size=(48, 64), paint=frame) -> Path:
    code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, size[::-1])
    assert writer.isOpened()
    for number in range(count):
        writer.write(paint(number, size))
    writer.release()
    return path


def spots(number: int, size) -> np.ndarray:
    """A red spot that moves."""
    pixels = np.full((*size, 3), 90, np.uint8)
    pixels[10:26, 4 + number : 20 + number] = (20, 20, 250)
    return pixels


def with_times(path: Path, runs: list[tuple[int, int]]) -> None:
    """Give the frames of an MP4 file, whose index is at its end, other durations: (frames, ticks)
    of the table `stts`."""
    data = bytearray(path.read_bytes())
    at = data.index(b"stts") - 4
    size = struct.unpack_from(">I", data, at)[0]
    table = b"".join(struct.pack(">II", *run) for run in runs)
    box = struct.pack(">I4sII", 16 + len(table), b"stts", 0, len(runs)) + table
    data[at : at + size] = box
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        place = data.index(name) - 4
        before = struct.unpack_from(">I", data, place)[0]
        struct.pack_into(">I", data, place, before + len(box) - size)
    ticks = sum(count * each for count, each in runs)
    struct.pack_into(">I", data, data.index(b"mdhd") + 20, ticks)
    scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0] / _timescale(path)
    struct.pack_into(">I", data, data.index(b"mvhd") + 20, round(ticks * scale))
    struct.pack_into(">I", data, data.index(b"elst") + 12, round(ticks * scale))
    path.write_bytes(data)


def rotated(path: Path) -> None:
    """Mark an MP4 file as turned by 90 degrees: the matrix of the box `tkhd`."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    struct.pack_into(">9i", data, matrix, 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def frames_of(path: Path, **options) -> list:
    with Video(str(path), **options) as video:
        return list(video)


# -------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
@pytest.mark.parametrize("every", [1, 3, 7])
def test_every_frame_with_its_number_and_time(tmp_path, name, every):
    path = make(tmp_path / name, 25)
    found = frames_of(path, every=every)
    assert [one.number for one in found] == list(range(0, 25, every))
    assert [number_in(one.pixels) for one in found] == list(range(0, 25, every))
    assert [one.time for one in found] == pytest.approx([n / 10 for n in range(0, 25, every)])
    assert found[0].pixels.shape == (48, 64, 3) and found[0].pixels.dtype == np.uint8


def test_colours_are_rgb(tmp_path):
    path = make(tmp_path / "a.mp4", 2, paint=spots)
    red, _, blue = frames_of(path)[0].pixels[14:22, 8:16].mean(axis=(0, 1))
    assert red > 200 > 80 > blue


def test_a_variable_frame_rate(tmp_path):
    """Ten frames at 10 a second, ten at 2, five at 10."""
    path = make(tmp_path / "a.mp4", 25)
    ticks = round(0.1 * _timescale(path))
    with_times(path, [(10, ticks), (10, 5 * ticks), (5, ticks)])
    expected = np.cumsum([0] + [0.1] * 10 + [0.5] * 10 + [0.1] * 4)
    found = frames_of(path)
    assert [number_in(one.pixels) for one in found] == list(range(25))
    assert [one.time for one in found] == pytest.approx(expected, abs=1e-3)


def _timescale(path: Path) -> int:
    data = path.read_bytes()
    return struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]


def test_rotation_is_applied(tmp_path):
    path = make(tmp_path / "a.mp4", 3)
    rotated(path)
    found = frames_of(path)
    assert found[1].pixels.shape == (64, 48, 3)
    turned = [np.rot90(found[5 % 3].pixels, k) for k in (1, 3)]
    assert 2 in map(number_in, turned)


@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.mpd"])
def test_a_file_does_not_lead_to_the_network(tmp_path, name):
    """Playlists name addresses; only an address on the command line is opened."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n"
        dash = (
            '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="video/mp4">'
            f'<Representation id="1" bandwidth="1"><BaseURL>{address}</BaseURL>'
            '<SegmentList duration="9"><SegmentURL media="a.ts"/></SegmentList>'
            "</Representation></AdaptationSet></Period></MPD>"
        )
        text = dash if name == "a.mpd" else playlist
        (tmp_path / name).write_text(text)
        with pytest.raises(ImageError, match="cannot be opened as a video"):
            frames_of(tmp_path / name)
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_cut_file_is_told(tmp_path):
    whole = make(tmp_path / "a.avi", 100)
    with Video(str(whole)) as video:
        assert len(list(video)) == 100 and video.shortfall is None
    cut = tmp_path / "cut.avi"
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    with Video(str(cut)) as video:
        read = len(list(video))
        assert 30 < read < 60
        assert video.shortfall == f"ends after {read} of 100 frames: it was cut or is damaged there"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.mp4", b"", "cannot be opened as a video"),
        ("a.mp4", b"<html>", "cannot be opened as a video"),
        ("no.mp4", None, "no such file"),
        ("9876", None, "no such webcam"),
        ("rtsp://127.0.0.1:9/live", None, "the stream cannot be opened"),
    ],
)
def test_sources_that_cannot_be_opened(tmp_path, monkeypatch, name, content, message):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(ImageError, match=message):
        Video(name)


def test_only_our_error_is_on_stderr(resdet, learned_run, tmp_path):
    """OpenCV and FFmpeg write warnings of their own about sources that they cannot read."""
    whole = make(tmp_path / "a.avi", 100)
    (tmp_path / "cut.mp4").write_bytes(make(tmp_path / "b.mp4", 9).read_bytes()[:-900])
    (tmp_path / "bad.avi").write_bytes(whole.read_bytes()[:3000] + bytes(range(256)) * 30)
    sources = ("9876", "http://127.0.0.1:9/a.mp4", tmp_path / "cut.mp4", tmp_path / "bad.avi")
    weights = learned_run / "weights" / "best.pt"
    done = resdet("infer", "--weights", weights, *sources, "--out", tmp_path / "out", "--no-draw")
    assert (done.code, done.err) == (5, "")
    assert done.out.count("  failed: ") == 4


def test_a_file_without_its_index(tmp_path):
    """A recording that was not finished: the index of an MP4 file is written last."""
    path = make(tmp_path / "a.mp4", 30)
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(ImageError, match="its end with the index is missing"):
        Video(str(path))


def test_what_a_video_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert all(map(is_video, ["0", "a.MP4", "x/b.mkv", "rtsp://u:p@h/1", "https://h/a.m3u8?k=1"]))
    assert not any(map(is_video, ["a.jpg", "x", "https://h/a.jpg", "a.txt", "test.nms_iou=0.5"]))
    (tmp_path / "0").touch()
    (tmp_path / "d.mp4").mkdir()
    assert not is_video("0") and not is_video("d.mp4")

    make(tmp_path / "b.mp4", 1), make(tmp_path / "a.mp4", 1)
    assert find_videos(["*a.mp4", "b.mp4", "a.mp4"]) == ["a.mp4", "b.mp4"]
    with pytest.raises(ConfigError, match=r"b.mp5: is no video; images and videos need a run each"):
        find_videos(["a.mp4", "b.mp5"])
    with pytest.raises(ConfigError, match=r"c.mp4: no such file; did you mean [abd].mp4\?"):
        find_videos(["c.mp4"])
    with pytest.raises(ConfigError, match=r"no images in it .*; for its 2 videos give .*\*.mp4"):
        find_inputs([tmp_path])


def test_leaving_early_ends_the_thread(tmp_path):
    path = make(tmp_path / "a.mp4", 60)
    before = threading.active_count()
    with Video(str(path)) as video:
        assert next(iter(video)).number == 0
    assert threading.active_count() == before


def test_a_live_source_drops_what_the_reader_is_too_slow_for(tmp_path):
    path = make(tmp_path / "a.mp4", 60)
    with Video(str(path)) as video:
        video.live = True
        frames = iter(video)
        numbers = [next(frames).number]
        time.sleep(1.0)  # until the queue is full and the oldest ones are dropped
        deadline = time.monotonic() + 20
        while video.read < 60 and time.monotonic() < deadline:
            time.sleep(0.05)
        numbers += [one.number for one in frames]
    assert numbers == sorted(numbers) and numbers[-1] == 59
    assert len(numbers) + video.dropped == 60 and video.dropped > 30


def test_a_stream_over_http(tmp_path):
    make(tmp_path / "a.mp4", 12)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *words: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.mp4"
        assert is_video(address)
        with Video(address) as video:
            assert [number_in(one.pixels) for one in video] == list(range(12))
        server.shutdown()


# -------------------------------------------------------------------------------------- writing


def test_an_annotated_video_keeps_time(tmp_path):
    """Frames at 0, 0.1 and 0.6 s: the second one is repeated until the third."""
    with VideoWriter(tmp_path / "x/a.mp4", 10) as writer:
        for number, seconds in ((1, 5.0), (2, 5.1), (3, 5.6)):
            writer.write(frame(number, (48, 64)), seconds)
    found = [number_in(one.pixels) for one in frames_of(tmp_path / "x/a.mp4")]
    assert found == [1, 2, 2, 2, 2, 2, 3]


@pytest.mark.parametrize("size", [(49, 65), (48, 65), (1, 1)])
def test_odd_sides_are_padded(tmp_path, size):
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(np.zeros((*size, 3), np.uint8), 0)
    (found,) = frames_of(tmp_path / "a.mp4")
    assert found.pixels.shape[:2] == tuple(side + side % 2 for side in size)


# ----------------------------------------------------------------------------------------- runs


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


def test_a_run_over_videos(predictor, model, tmp_path):
    moving = make(tmp_path / "moving.mp4", 20, paint=spots)
    data = make(tmp_path / "b.avi", 60, paint=spots).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) // 2])
    out = tmp_path / "out"
    seen = []
    summary = run_videos(
        predictor,
        [str(moving), str(cut), str(tmp_path / "none.mp4")],
        out,
        replace(OPTIONS, batch_size=4),
        report=lambda *numbers: seen.append(numbers),
    )
    found = lines(out / "frames/moving.mp4.jsonl")
    assert [one["frame"] for one in found] == list(range(20))
    assert [one["time"] for one in found] == pytest.approx([n / 10 for n in range(20)])
    for number, one in enumerate(found):
        (detection,) = one["detections"]
        assert detection["label"] == "red spot"
        assert np.allclose(detection["box"], [4 + number, 10, 20 + number, 26], atol=2)
    assert {shape[0] for shape in model.shapes[:5]} == {4}
    assert seen[:2] == [(4, 20, 0), (8, 20, 0)]

    good, short, missing = lines(out / "videos.jsonl")
    expected = {"file": "moving.mp4", "width": 64, "height": 48, "fps": 10.0, "frames": 20}
    assert expected.items() <= good.items() and good["seconds"] == 1.9 and "error" not in good
    assert (
        short["error"]
        == f"ends after {short['frames']} of 60 frames: it was cut or is damaged there"
    )
    assert len(lines(out / "frames/cut.avi.jsonl")) == short["frames"] > 10
    assert summary.frames == 20 + short["frames"]
    assert missing == {"file": "none.mp4", "error": "no such file"}
    assert [name for name, _ in summary.failures] == ["cut.avi", "none.mp4"]
    drawn = frames_of(out / good["drawn"])
    assert len(drawn) == 20
    original = frames_of(moving)
    assert np.abs(drawn[3].pixels.astype(int) - original[3].pixels).max() > 100  # a box


def test_every_nth_frame_and_the_rate_of_its_video(predictor, tmp_path):
    path = make(tmp_path / "a.mp4", 20, paint=spots)
    run_videos(predictor, [str(path)], tmp_path / "out", OPTIONS, every=5)
    assert [(one["frame"], one["time"]) for one in lines(tmp_path / "out/frames/a.mp4.jsonl")] == [
        (0, 0.0), (5, 0.5), (10, 1.0), (15, 1.5),
    ]  # fmt: skip
    with Video(str(tmp_path / "out/drawn/a.mp4")) as drawn:
        assert (drawn.fps, drawn.count) == (2.0, 4)


def test_an_interrupted_run_resumes_with_the_unfinished_video(predictor, tmp_path):
    paths = [str(make(tmp_path / f"{name}.mp4", 12, paint=spots)) for name in "abc"]
    run_videos(predictor, paths, tmp_path / "whole", OPTIONS)
    out, calls = tmp_path / "out", iter(range(1000))
    stopped = run_videos(predictor, paths, out, OPTIONS, stop=lambda: next(calls) > 18)
    assert stopped.interrupted and [one["file"] for one in lines(out / "videos.jsonl")] == ["a.mp4"]
    with pytest.raises(ConfigError, match="not empty"):
        run_videos(predictor, paths, out, OPTIONS)
    done = run_videos(predictor, paths, out, replace(OPTIONS, resume=True))
    assert (done.done, done.new, done.interrupted) == (3, 2, False)
    for name in ("videos.jsonl", *(f"frames/{name}.mp4.jsonl" for name in "abc")):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_names_of_sources_are_unique_legal_and_without_passwords():
    files = ["a/x.mp4", "b/x.mp4", "c/x"]
    others = ["987654", "rtsp://me:secret@10.0.0.1/live?k=1", "rtsp://h"]
    names = [one.name for one in named_sources([*files, *others])]
    assert names == ["x.mp4", "2-x.mp4", "3-x", "webcam987654", "live", "h"]


def test_memory_is_flat(predictor, tmp_path, monkeypatch):
    """Ten times as many frames take no more memory."""
    peaks = []
    for count in (60, 600):
        path = make(tmp_path / f"{count}.mp4", count, paint=spots, size=(48, 640))
        tracemalloc.start()
        run_videos(predictor, [str(path)], tmp_path / f"out{count}", replace(OPTIONS, draw=False))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 1e6
