"""Capture of decoder messages: they are returned, and other output is passed on."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resdet.datasets.checks.decoder_messages import decoder_messages
from resdet.datasets.image import decode_image


def _jpeg() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def test_only_a_damaged_file_has_messages() -> None:
    data = _jpeg()
    middle = len(data) // 2
    with decoder_messages() as messages:
        decode_image(data, "good")
    assert messages == []
    with decoder_messages() as messages:
        decode_image(data[:middle] + bytes(100) + data[middle + 100 :], "bad")
    assert len(messages) == 1
    assert messages[0].startswith("Corrupt JPEG data: ")


def test_other_output_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with decoder_messages() as messages:
        os.write(2, b"hello\nCorrupt JPEG data: premature end of data segment\nworld\n")
    assert messages == ["Corrupt JPEG data: premature end of data segment"]
    assert capfd.readouterr().err == "hello\nworld\n"
    with decoder_messages(pass_on=False):
        os.write(2, b"hello\n")
    assert capfd.readouterr().err == ""


def test_a_full_pipe_does_not_block(capfd: pytest.CaptureFixture[str]) -> None:
    with decoder_messages(pass_on=False):
        for _ in range(100):
            try:
                os.write(2, b"x" * 4096)
            except BlockingIOError:
                break
        else:
            pytest.fail("the pipe took more than it should hold")
    os.write(2, b"again\n")
    assert capfd.readouterr().err == "again\n"


def test_an_error_in_the_block_restores_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(ValueError, match="inside"), decoder_messages():
        raise ValueError("inside")
    assert len(list(Path("/dev/fd").iterdir())) == before
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"
