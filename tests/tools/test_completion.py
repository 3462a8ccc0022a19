"""Completion of commands and options, tried in bash itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from resdet.tools.cli import COMMANDS, main
from resdet.tools.completion import SHELLS

pytest.importorskip("argcomplete")
BASH = shutil.which("bash") or ""

#: Sets what bash sets when a tab is pressed at the end of ``$1``, and prints what it would propose.
ASK = """
source {script}
COMP_LINE=$1; COMP_POINT=${{#1}}; COMP_TYPE=9
_python_argcomplete resdet
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(folder: Path, line: str) -> list[str]:
    """What bash proposes at the end of a line."""
    command = folder / "resdet"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m resdet.tools.cli "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [BASH, "-c", ASK.format(script=folder / "script"), "bash", line],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stdout.split()


@pytest.mark.skipif(not BASH, reason="no bash")
def test_bash_completes_commands_options_and_choices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    assert completed(tmp_path, "resdet train-") == ["train-det", "train-cls", "train-loc"]
    assert completed(tmp_path, "resdet export --wei") == ["--weights"]
    assert {"synthetic", "coco2017"} <= set(completed(tmp_path, "resdet get-data "))
    assert set(COMMANDS) <= set(completed(tmp_path, "resdet "))


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert "resdet" in capsys.readouterr().out
