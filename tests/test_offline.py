"""Training, evaluation and inference do not use the network.

The commands run in a child process in which Python blocks all connections and, if the system
permits it, without any network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Runs in every Python process before anything else; workers are forked and inherit it.
GUARD = """
import os, sys

WATCHED = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname",
           "urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect")

def guard(event, args):
    if event not in WATCHED:
        return
    if event in ("socket.connect", "socket.bind") and isinstance(args[1], (str, bytes)):
        return  # a Unix socket, which data workers use
    with open(os.environ["GUARD_LOG"], "a") as log:
        log.write(f"{event} {args[1:]!r}\\n")
    raise PermissionError(f"no network here: {event}")

sys.addaudithook(guard)
"""

#: Several commands in one process, which saves imports; prints their exit codes.
COMMANDS = """
import json, sys
from resdet.tools.cli import main
print("codes:", json.dumps([main(words) for words in json.loads(sys.argv[1])]))
"""


@pytest.fixture
def guarded(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "guard"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(GUARD)
    (folder / "log").touch()
    # A cache that may hold what an earlier run has fetched would hide a download.
    return os.environ | {
        "PYTHONPATH": str(folder),
        "GUARD_LOG": str(folder / "log"),
        "RESDET_CACHE": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }


def without_network() -> list[str]:
    """The prefix of a command that removes the network, if that is permitted."""
    words = ["/usr/bin/unshare", "--net"]
    try:
        done = subprocess.run([*words, "/bin/true"], capture_output=True)
    except OSError:
        return []
    return words if done.returncode == 0 else []


def run(environment: dict[str, str], *commands: list[str]) -> tuple[list[int], str, list[str]]:
    """Exit codes, stderr, and attempts to use the network."""
    words = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(
        [*without_network(), *words], capture_output=True, text=True, env=environment
    )
    codes = [line for line in done.stdout.splitlines() if line.startswith("codes: ")]
    assert codes, done.stderr
    log = Path(environment["GUARD_LOG"]).read_text().splitlines()
    return json.loads(codes[0].removeprefix("codes: ")), done.stderr, log


def test_train_eval_infer_and_report_need_no_network(
    guarded: dict[str, str], tiny_config: Path, scenes: Path, tmp_path: Path
) -> None:
    train, found = tmp_path / "run", tmp_path / "found"
    best = str(train / "weights" / "best.pt")
    codes, errors, log = run(
        guarded,
        ["train-det", "--cfg", str(tiny_config), "--out", str(train), "data.workers=1"],
        ["eval", "--weights", best],
        ["infer", "--weights", best, str(scenes / "JPEGImages"), "--out", str(found)],
        ["report", str(train), "--detections", str(found), "--out", str(tmp_path / "report.html")],
        ["doctor"],
    )
    assert codes[:4] == [0, 0, 0, 0], errors
    assert log == []


def test_a_requested_download_is_detected_and_ends_in_one_line(
    guarded: dict[str, str], tiny_config: Path, tmp_path: Path
) -> None:
    """The block detects a connection, and a user without a network gets one line."""
    weights = "backbone.weights=https://example.org/weights.pth"
    train = ["train-det", "--cfg", str(tiny_config), "--out", str(tmp_path / "run"), weights]
    codes, errors, log = run(guarded, train)
    assert codes == [3] and log and "example.org" in errors
    (error,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "cannot download: " in error and f"put the file at {tmp_path / 'cache'}" in error
    assert "Traceback" not in errors
