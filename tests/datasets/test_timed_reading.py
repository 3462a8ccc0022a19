"""Images that take too long to read, or end the process that reads them."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resdet.datasets.image import ImageRules, read_image
from resdet.datasets.jpeg_scans import MAX_SCANS
from resdet.datasets.timed_reading import TimedReader
from resdet.detection.errors import ImageError

RULES = ImageRules(on_truncated="warn")


def slow_jpeg(path: Path) -> Path:
    """As many scans as a JPEG may have, each a pass over 25 million pixels."""
    stream = io.BytesIO()
    Image.new("L", (5000, 5000), 120).save(stream, "JPEG", progressive=True)
    head, *scans = stream.getvalue().removesuffix(b"\xff\xd9").split(b"\xff\xda")
    scans += scans[-1:] * (MAX_SCANS - len(scans))
    path.write_bytes(b"\xff\xda".join([head, *scans]) + b"\xff\xd9")
    return path


def test_a_slow_image_ends_its_process(tmp_path: Path) -> None:
    slow, quick, text = (tmp_path / name for name in ("slow.jpg", "quick.png", "text.png"))
    slow_jpeg(slow)
    Image.new("RGB", (64, 48), (1, 2, 3)).save(quick)
    text.write_text("no image")
    with TimedReader(0.3) as reader:
        for _ in range(2):
            loaded = reader.read(quick, RULES)
            assert np.array_equal(loaded.pixels, read_image(quick).pixels)
            with pytest.raises(ImageError, match=r"slow.jpg: not read within 0.3 s$"):
                reader.read(slow, RULES)
            with pytest.raises(ImageError, match=r"text.png: not an image"):
                reader.read(text, RULES)


def test_a_crash_of_the_decoder_is_that_of_one_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 48)).save(path)
    with TimedReader(60) as reader:
        reader.read(path, RULES)
        worker = reader._idle.get()
        os.kill(worker._process.pid or 0, signal.SIGSEGV)
        reader._idle.put(worker)
        with pytest.raises(ImageError, match=r"a.png: cannot be read \(.*SIGSEGV\)"):
            reader.read(path, RULES)
        assert reader.read(path, RULES).size == (48, 64)
