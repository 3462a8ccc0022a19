"""Signals as a request to stop: the first is recorded, the second acts; ignored ones stay so."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from resdet.detection.engine.signals import StopRequest
from resdet.tools.cli import main


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """As in a shell's foreground, even where the suite was started by ``nohup`` or with ``&``."""
    before = {number: signal.getsignal(number) for number in StopRequest.SIGNALS}
    for number in before:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, usual)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGUSR1, 128 + signal.SIGUSR1),
    ],
)
def test_the_first_is_noted_and_gives_the_exit_code(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested and stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert stop.requested and stop.exit_code == code
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before


def test_the_second_acts_at_once() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="x"), StopRequest():
        raise ValueError("x")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_what_was_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert not stop.requested and stop.exit_code == 0
        assert signal.getsignal(number) is signal.SIG_IGN
    assert signal.getsignal(number) is signal.SIG_IGN


def test_a_run_in_another_thread_leaves_the_signals_alone(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in StopRequest.SIGNALS}
    words = ["train-det", "--cfg", str(tiny_config), "--out", str(tmp_path / "run")]
    with ThreadPoolExecutor(1) as thread:
        code = thread.submit(main, [*words, "train.iterations=1", "train.milestones=[]"]).result()
    assert code == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "weights" / "best.pt").is_file()
    assert {number: signal.getsignal(number) for number in StopRequest.SIGNALS} == before
