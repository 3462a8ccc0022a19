"""Capture of decoder messages: each file gets its own, and other output is passed on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from resdet.datasets.decoder_messages import with_messages
from resdet.datasets.image import ImageRules, decode_image
from resdet.tests.datasets.image_corpus import encoded, noisy, quarters, zeroed

KEEP = ImageRules(on_truncated="warn")


def _write(text: bytes) -> int:
    return os.write(2, text)


def test_messages_are_returned_and_other_output_is_passed_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    text = b"hello\nCorrupt JPEG data: premature end of data segment\nworld\n"
    text += b"TIFFFillStrip: Read error on strip 0; got 5 bytes, expected 10.\n"
    written, messages = with_messages(lambda: _write(text))
    assert written == len(text)
    assert messages == [
        "Corrupt JPEG data: premature end of data segment",
        "TIFFFillStrip: Read error on strip 0; got 5 bytes, expected 10.",
    ]
    assert capfd.readouterr().err == "hello\nworld\n"


def test_an_error_restores_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(ZeroDivisionError):
        with_messages(lambda: 1 // 0)
    assert len(list(Path("/dev/fd").iterdir())) == before
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"


def test_a_closed_stderr_stays_closed() -> None:
    kept = os.dup(2)
    os.close(2)
    try:
        _, messages = with_messages(lambda: _write(b"Corrupt JPEG data: bad Huffman code\n"))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(2)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert messages == ["Corrupt JPEG data: bad Huffman code"]


def test_threads_get_the_messages_of_their_own_images(capfd: pytest.CaptureFixture[str]) -> None:
    good, bad = encoded(quarters(size=(240, 320))), zeroed(noisy())
    items = [bad if number % 3 == 0 else good for number in range(300)]
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda data: decode_image(data, "x", KEEP), items))
    assert [bool(each.warnings) for each in loaded] == [data is bad for data in items]
    assert capfd.readouterr().err == ""


@pytest.fixture
def forked_while_decoding() -> Iterator[int]:
    """The read end of the stderr of a child that was forked during a decoding."""
    reader, writer = os.pipe()
    kept = os.dup(2)
    os.dup2(writer, 2)

    def fork() -> None:
        if os.fork() == 0:
            try:
                with_messages(lambda: None)  # no lock is held for ever
                os.write(2, b"child\n")
            finally:
                os._exit(0)
        os.wait()

    try:
        with_messages(fork)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)
    yield reader
    os.close(reader)


def test_a_fork_meanwhile_has_the_true_stderr(forked_while_decoding: int) -> None:
    assert os.read(forked_while_decoding, 100) == b"child\n"
