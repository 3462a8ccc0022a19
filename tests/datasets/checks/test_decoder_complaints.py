"""Is the decoder heard, and nothing else swallowed?"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resdet.datasets.checks.decoder_complaints import heard_complaints
from resdet.datasets.image import decode_image


def _jpeg() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def test_a_damaged_file_is_heard_and_a_good_one_is_not() -> None:
    data = _jpeg()
    middle = len(data) // 2
    with heard_complaints() as heard:
        decode_image(data, "good")
    assert heard == []
    with heard_complaints() as heard:
        decode_image(data[:middle] + bytes(100) + data[middle + 100 :], "bad")
    assert len(heard) == 1
    assert heard[0].startswith("Corrupt JPEG data: ")


def test_what_others_write_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with heard_complaints() as heard:
        os.write(2, b"hello\nCorrupt JPEG data: premature end of data segment\nworld\n")
    assert heard == ["Corrupt JPEG data: premature end of data segment"]
    assert capfd.readouterr().err == "hello\nworld\n"
    with heard_complaints(pass_on=False):
        os.write(2, b"hello\n")
    assert capfd.readouterr().err == ""


def test_more_than_a_pipe_holds_blocks_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    with heard_complaints(pass_on=False):
        for _ in range(100):
            try:
                os.write(2, b"x" * 4096)
            except BlockingIOError:
                break
        else:
            pytest.fail("the pipe took more than it should hold")
    os.write(2, b"again\n")
    assert capfd.readouterr().err == "again\n"


def test_an_error_inside_leaves_stderr_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(ValueError, match="inside"), heard_complaints():
        raise ValueError("inside")
    assert len(list(Path("/dev/fd").iterdir())) == before
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"
