"""Names are printed without effects on the terminal; a closed output does not end the work."""

from __future__ import annotations

import ast
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resdet.detection import printing
from resdet.detection.printing import (
    LINE_EVERY,
    LastingStream,
    ProgressLines,
    cell,
    printable,
    say,
    tracked,
)
from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]


def test_names_by_hand() -> None:
    assert printable("a\x1b[31mb\nc\u202ed\x9b\u2028\ud800é猫🐈") == (
        r"a\x1b[31mb\nc\u202ed\x9b\u2028\ud800é猫🐈"
    )
    assert printable(Path("a b")) == "a b" and printable("") == ""


@given(st.text())
def test_what_is_printed_is_one_line_without_controls(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1 and "\x1b" not in shown
    shown.encode()
    assert printable(shown) == shown


def test_say_and_cell(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb", "c")
    assert capsys.readouterr().out == "a\\nb c\n"
    out = io.StringIO()
    Console(file=out, width=80).print(cell("[red]x[/] :smile: \x1b[2J"))
    assert out.getvalue() == "[red]x[/] :smile: \\x1b[2J\n"


def test_tools_print_names_by_say_and_cell_alone() -> None:
    """Only texts that have their own escapes go to print: JSON, YAML and help."""
    own = ("dump_config(", "json.dumps(", "_overview()", "__version__", "'interrupted'", "{line}")
    for path in sorted((ROOT / "tools").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                assert any(word in ast.unparse(node) for word in own), f"{path}:{node.lineno}"


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_stream_that_fails_is_silent() -> None:
    for stream in (Broken(), None):
        lasting = LastingStream(stream)
        assert lasting.write("abc") == 3 and not lasting.isatty()
        lasting.flush()


def test_each_line_is_written_at_once(tmp_path: Path) -> None:
    """Also to a file: who follows the log of a training sees its steps."""
    with (tmp_path / "log").open("w") as stream:
        say("step 1", file=LastingStream(stream))
        assert (tmp_path / "log").read_text() == "step 1\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "| true", ">/dev/full"])
def test_the_exit_code_is_that_of_the_work(closed: str, tmp_path: Path) -> None:
    if "full" in closed and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    work = f"get-data synthetic --out {tmp_path} --train 1 --val 1"
    words = f"{sys.executable} -m resdet.tools.cli {work} {closed}"
    command = [shutil.which("bash") or "bash", "-o", "pipefail", "-c", words]
    done = subprocess.run(command, capture_output=True, env=os.environ, timeout=100)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(list((tmp_path / "synthetic" / "JPEGImages").iterdir())) == 2


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_has_what_share_count_rate_and_time_left() -> None:
    written = Screen()
    console = Console(file=written, force_terminal=True, width=100, color_system=None)
    for _ in tracked(range(4), "evaluating", 4, console):
        time.sleep(0.06)  # a rate is known once the bar was drawn at two times
    last = written.getvalue().replace("\r", "\n")
    assert "evaluating" in last and "100%" in last and "4/4" in last
    assert "images/s" in last and "0:00:00" in last


@pytest.mark.parametrize("colour", ["", "1"])
def test_no_progress_off_a_terminal(colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", colour)  # as in logs of CI, with no one to watch a bar
    written = io.StringIO()
    assert list(tracked(range(4), "evaluating", 4, Console(file=written))) == [0, 1, 2, 3]
    assert written.getvalue() == ""


def test_lines_of_progress_where_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("resdet.detection.printing.LINE_EVERY", 0.0)
    written = io.StringIO()
    list(tracked(range(4), "evaluating", 4, Console(file=written)))
    assert [line[:15] for line in written.getvalue().splitlines()][-1] == "evaluating: 100"
    assert "\x1b" not in written.getvalue()


def test_a_line_says_what_share_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(printing, "time", SimpleNamespace(monotonic=lambda: now))
    written = io.StringIO()
    lines = ProgressLines("detecting", "images", written)
    lines.report(10, 60)  # of an earlier run
    assert written.getvalue() == ""
    now += LINE_EVERY
    lines.report(30, 60, "2 failed")
    lines.report(31, 60)  # at once: no second line
    assert written.getvalue() == "detecting: 50%, 30/60, 2 images/s, 0:00:15 left, 2 failed\n"


def test_a_slow_start_is_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(printing, "time", SimpleNamespace(monotonic=lambda: now))
    written = io.StringIO()
    lines = ProgressLines("detecting", "images", written)
    now += 140
    lines.report(1, 5001)
    now += LINE_EVERY
    lines.report(101, 5001)
    first, second = written.getvalue().splitlines()
    assert first == "detecting: 0%, 1/5001"
    assert second == "detecting: 2%, 101/5001, 10 images/s, 0:08:10 left"
