"""Each fault of an image file is found under its own kind, and nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from resdet.datasets.checks.images import ImageFacts, check_images, examine
from resdet.datasets.image import ImageRules, read_image
from resdet.detection.errors import ImageError

RULES = ImageRules()


def _photo(height: int = 96, width: int = 128, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def _bytes(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _bytes(_photo(), exif=exif)


def _zeroed() -> bytes:
    """A JPEG of its full length with zeros in the middle: it decodes, to another image. (In a
    smooth one the zeros may be valid codes, which nothing can tell.)"""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    data = _bytes(Image.fromarray(noise), quality=95)
    middle = len(data) // 2
    return data[:middle] + bytes(200) + data[middle + 200 :]


def _deep() -> bytes:
    values = np.linspace(0, 65535, 96 * 128).astype(np.uint16).reshape(96, 128)
    return _bytes(Image.fromarray(values), "PNG")


def _bomb() -> bytes:
    """A PNG whose header says 60000 x 60000."""
    data = bytearray(_bytes(_photo(), "PNG"))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


#: Name of the file: (its bytes, {kind: severity} of what is to be found).
CASES: dict[str, tuple[bytes, dict[str, str]]] = {
    "good.jpg": (_bytes(_photo(), quality=90), {}),
    "good.png": (_bytes(_photo(), "PNG"), {}),
    "upper.JPEG": (_bytes(_photo()), {}),
    "empty.jpg": (b"", {"undecodable_image": "error"}),
    "page.jpg": (b"<html><body>404</body></html>", {"undecodable_image": "error"}),
    "cut.png": (_bytes(_photo(), "PNG")[:3000], {"truncated_image": "error"}),
    "cut.jpg": (_bytes(_photo(), quality=95)[:2000], {"truncated_image": "error"}),
    "zeroed.jpg": (_zeroed(), {"damaged_image": "error"}),
    "no_end.jpg": (_bytes(_photo())[:-2], {"no_end_marker": "warning"}),
    "turned.jpg": (_turned(), {"rotated_image": "note"}),
    "cmyk.jpg": (_bytes(_photo().convert("CMYK")), {"unusual_mode": "note"}),
    "grey.jpg": (_bytes(_photo().convert("L")), {"unusual_mode": "note"}),
    "palette.png": (_bytes(_photo().convert("P"), "PNG"), {"unusual_mode": "note"}),
    "alpha.png": (_bytes(_photo().convert("RGBA"), "PNG"), {"unusual_mode": "note"}),
    "deep.png": (_deep(), {"unusual_mode": "note"}),
    "bomb.png": (_bomb(), {"oversized_image": "error"}),
    "tiny.png": (_bytes(_photo(8, 8), "PNG"), {"tiny_image": "error"}),
    "long.png": (_bytes(_photo(20, 4000), "PNG"), {"elongated_image": "error"}),
    "png_inside.jpg": (_bytes(_photo(), "PNG"), {"wrong_extension": "note"}),
    "noname": (_bytes(_photo()), {"wrong_extension": "note"}),
    "moving.webp": (
        _bytes(_photo(), "WEBP", save_all=True, append_images=[_photo(seed=1)]),
        {"animated_image": "warning"},
    ),
}


@pytest.fixture
def corpus(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, (data, _) in CASES.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in CASES]


def _check(paths: list[Path], rules: ImageRules = RULES, **options: object) -> list[ImageFacts]:
    settings: dict = {"workers": 0, "cache": None, "progress": lambda done, total: None}
    return check_images(paths, rules, **(settings | options))


def _kinds(facts: ImageFacts) -> dict[str, str]:
    return {finding.kind: finding.severity for finding in facts.findings}


@pytest.mark.parametrize("workers", [0, 2])
def test_each_fault_and_only_it_is_found(corpus: list[Path], workers: int) -> None:
    seen: list[tuple[int, int]] = []
    facts = _check(corpus, workers=workers, progress=lambda done, total: seen.append((done, total)))
    found = {each.path.name: _kinds(each) for each in facts}
    assert found == {name: kinds for name, (_, kinds) in CASES.items()}
    assert [each.path for each in facts] == corpus
    assert seen == [(done, len(corpus)) for done in range(1, len(corpus) + 1)]


def test_facts_of_good_images(corpus: list[Path]) -> None:
    facts = {each.path.name: each for each in _check(corpus)}
    assert facts["good.png"].size == (96, 128)
    assert facts["turned.jpg"].size == (128, 96)
    assert facts["turned.jpg"].orientation == 6
    data = CASES["good.png"][0]
    assert facts["good.png"].sha256 == hashlib.sha256(data).hexdigest()
    assert facts["good.png"].findings == ()
    assert facts["empty.jpg"].size is None and facts["empty.jpg"].dhash is None
    assert facts["empty.jpg"].sha256 == hashlib.sha256(b"").hexdigest()


def test_a_finding_has_the_file_and_the_message_of_the_reader(corpus: list[Path]) -> None:
    facts = next(each for each in _check(corpus) if each.path.name == "page.jpg")
    with pytest.raises(ImageError) as error:
        read_image(facts.path)
    assert str(facts.findings[0]) == str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    folder, pipe, gone = tmp_path / "a.jpg", tmp_path / "pipe.jpg", tmp_path / "gone.jpg"
    folder.mkdir()
    os.mkfifo(pipe)
    facts = _check([folder, pipe, gone])
    assert [_kinds(each) for each in facts] == [{"unreadable_image": "error"}] * 3
    assert "a folder" in facts[0].findings[0].reason
    assert "not a regular file" in facts[1].findings[0].reason
    assert facts[2].findings[0].reason == "no such file"


def test_no_images() -> None:
    assert _check([], workers=2) == []


class _Deadly(type(Path())):  # type: ignore[misc]  # the concrete class of this system
    """Ends the process that unpickles it, like a crashing decoder."""

    def __reduce__(self) -> tuple[Callable[[int], object], tuple[int]]:
        return os._exit, (3,)


def test_a_file_that_crashes_its_worker_is_a_finding(corpus: list[Path]) -> None:
    deadly = _Deadly(corpus[0].parent / "deadly.jpg")
    facts = _check([*corpus, deadly, *corpus], workers=2)
    assert _kinds(facts[len(corpus)]) == {"decoder_crashed": "error"}
    found = [_kinds(each) for each in facts[: len(corpus)]]
    assert found == [kinds for _, kinds in CASES.values()]
    assert [_kinds(each) for each in facts[len(corpus) + 1 :]] == found


def test_truncated_images_under_each_rule(corpus: list[Path]) -> None:
    for policy, severity in (("warn", "warning"), ("skip", "warning"), ("error", "error")):
        facts = _check(corpus, ImageRules(on_truncated=policy))
        cut = next(each for each in facts if each.path.name == "cut.jpg")
        assert _kinds(cut) == {"truncated_image": severity}
        assert (cut.size is not None) == (policy == "warn")
        damaged = next(each for each in facts if each.path.name == "zeroed.jpg")
        assert _kinds(damaged) == {"damaged_image": severity}


# ---------------------------------------------------------------------------------- cache


def test_a_second_check_gives_the_same_facts_without_decoding(
    corpus: list[Path], tmp_path: Path
) -> None:
    cache = tmp_path / "cache" / "images.jsonl"
    fresh = _check(corpus, cache=cache)
    assert _check(corpus, cache=cache, workers=2) == fresh == _check(corpus)
    lines = [line for line in cache.read_text().splitlines() if line]
    distinct = {each.sha256 for each in fresh}
    assert len(lines) == len(distinct)
    # What the file says is believed: that is how one sees that nothing was decoded.
    cache.write_text(cache.read_text().replace("no end marker", "a mark from the cache"))
    again = {each.path.name: each for each in _check(corpus, cache=cache)}
    assert "a mark from the cache" in again["no_end.jpg"].findings[0].reason


def test_the_cache_key_is_content_and_rules(corpus: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "images.jsonl"
    _check(corpus, cache=cache)
    good, cut = corpus[0], next(path for path in corpus if path.name == "cut.jpg")
    good.write_bytes(b"no longer an image")
    assert _kinds(_check([good], cache=cache)[0]) == {"undecodable_image": "error"}
    lenient = _check([cut], ImageRules(on_truncated="warn"), cache=cache)
    assert _kinds(lenient[0]) == {"truncated_image": "warning"}


def test_damaged_lines_are_ignored(corpus: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "images.jsonl"
    fresh = _check(corpus, cache=cache)
    lines = cache.read_text().splitlines()
    broken = [line[: len(line) // 2] if number % 2 else line for number, line in enumerate(lines)]
    extra = [
        line.replace('"error"', '"fatal"').replace('"size": [96', '"size": ["x"') for line in lines
    ]
    cache.write_text("\n".join([*broken, "null", "[1]", *extra]))
    assert _check(corpus, cache=cache) == fresh


def test_a_cache_that_cannot_be_written_is_a_warning(
    corpus: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert len(_check(corpus, cache=tmp_path / "file" / "cache.jsonl")) == len(corpus)
    assert "not cached for the next run" in caplog.text
    # Every line of /dev/full ends with "no space left".
    assert len(_check(corpus, cache=Path("/dev/full"))) == len(corpus)


def test_each_cache_line_is_json(corpus: list[Path], tmp_path: Path) -> None:
    cache = tmp_path / "images.jsonl"
    _check(corpus, cache=cache)
    for line in cache.read_text().splitlines():
        assert not line or set(json.loads(line)) >= {"key", "size", "remarks"}


# ---------------------------------------------------------------------------------- any bytes


@settings(max_examples=150)
@given(
    data=st.sampled_from([CASES[name][0] for name in ("good.jpg", "good.png", "moving.webp")]),
    changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
    length=st.integers(0, 6000),
)
def test_facts_of_arbitrary_bytes(data: bytes, changes: list[tuple[int, int]], length: int) -> None:
    damaged = bytearray(data[:length])
    for place, value in changes:
        if place < len(damaged):
            damaged[place] = value
    content = examine(bytes(damaged), RULES)
    assert (content.size is None) == any(severity == "error" for _, severity, _ in content.remarks)


def test_usable_images_are_those_that_the_training_reader_reads(shared_data: Path) -> None:
    """On 248 files that crashed decoders in the past."""
    paths = sorted(path for path in (shared_data / "messy_images").iterdir() if path.is_file())
    facts = _check(paths, workers=2)
    for each in facts:
        errors = [finding for finding in each.findings if finding.severity == "error"]
        try:
            size = read_image(each.path).pixels.shape[:2]
        except ImageError as error:
            assert [str(finding) for finding in errors] == [str(error)]
            assert each.size is None
        else:
            assert errors == [] and each.size == size
