"""The command `resdet`: dispatch, help, exit codes, error output and shared options."""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import resdet
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.errors import ConfigError, DataError, DivergedError
from resdet.tools.arguments import add_config_arguments, config_from_args, split_overrides
from resdet.tools.cli import COMMANDS, GROUPS, _warnings_in_one_line, main, run_tool

TOOL = """
\"\"\"A tool for tests.\"\"\"
import builtins, errno, os
from resdet.detection import errors

HELP = "end in a chosen way"

def add_arguments(parser):
    parser.add_argument("words", nargs="*")
    parser.add_argument("--end")
    parser.add_argument("--out")

def run(args):
    print(args.words, args.out)
    if args.end == "code":
        return 5
    if args.end == "flood":
        for _ in range(100_000):
            print("a line that nobody reads")
        return 0
    if args.end == "missing":
        open("/no/such\\nfile")
    if args.end == "denied":
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs/1")
    if args.end == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if args.end == "pipe":
        raise BrokenPipeError("a worker is gone")
    if args.end:
        kind = getattr(errors, args.end, None) or getattr(builtins, args.end)
        raise kind("cats.jpg: no\\nsecond line")
    return 0
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A real tool module, found under the command ``try-it``."""
    (tmp_path / "resdet_tool_for_tests.py").write_text(TOOL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "try-it", "resdet_tool_for_tests")
    return "try-it"


def python(code: str, folder: Path) -> list[str]:
    """A command line that runs ``code`` with the tool above installed."""
    (folder / "resdet_tool_for_tests.py").write_text(TOOL)
    start = f"import sys; sys.path.insert(0, {str(folder)!r}); from resdet.tools import cli; "
    return [
        sys.executable,
        "-c",
        start + "cli.COMMANDS['try-it'] = 'resdet_tool_for_tests'; " + code,
    ]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"resdet {resdet.__version__}\n"


def test_help_names_every_command_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    described = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ")}
    assert list(described) == list(COMMANDS)
    assert all(len(words) >= 3 for words in described.values())
    assert max(map(len, lines)) <= 110


def test_every_command_is_in_one_group() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(set(names)) == sorted(COMMANDS)


def test_help_imports_nothing_slow() -> None:
    code = (
        "import sys; from resdet.tools.cli import main; main(['--help']); main(['--version']); "
        "slow = {'torch', 'numpy', 'pydantic', 'yaml', 'rich', 'cv2'} & set(sys.modules); "
        "sys.exit(f'imported: {slow}' if slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


#: Three commands, and the libraries and packages that each does without.
LEAN = """
import sys
from resdet.tools.cli import main

def without(*names):
    slow = [name for name in names if name in sys.modules]
    assert not slow, slow

scenes, run, out = sys.argv[1:]
assert main(["check-data", scenes, "--quick"]) == 0
without("torch", "resdet.detection.structures", "resdet.detection.config.detector")
assert main(["infer", "--weights", run, f"{scenes}/JPEGImages", "--out", out]) == 0
import torch
from resdet.backbones.resnet import ResNet
from resdet.backbones.undrawn import shapes_only
from resdet.detection.config.base import TrainConfig
from resdet.detection.engine.optim import make_sgd
with shapes_only():
    for norm in ("frozen", "group"):
        ResNet(50, width=8, norm=norm).classifier(classes=2)
layer = torch.nn.Linear(1, 1)
optimizer = make_sgd(layer, TrainConfig())
layer(torch.ones(1, 1)).sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
without("torch._dynamo", "sympy", "triton", "torchvision", "scipy", "pycocotools", "jinja2")
without("matplotlib", "albumentations", "tensorboard", "onnxruntime")
"""


def test_what_only_some_commands_need_is_not_loaded_by_others(
    scenes: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """torch takes two seconds to import, its compiler two more, torchvision one, the others parts
    of one."""
    done = subprocess.run(
        [sys.executable, "-c", LEAN, str(scenes), str(tiny_run), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: resdet COMMAND")


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("trian-det", "did you mean train-det?"),
        ("convert_weight", "did you mean convert-weights?"),
        ("xyz", f"choose from {', '.join(COMMANDS)}"),
        ("--bogus", f"choose from {', '.join(COMMANDS)}"),
    ],
)
def test_unknown_command(word: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert capsys.readouterr().err == f"error: no command {word!r}; {reason}\n"


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_tool_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    hyphen = capsys.readouterr().out
    assert hyphen.startswith(f"usage: resdet {command} ")
    assert "--debug" in hyphen
    assert main([command.replace("-", "_"), "--help"]) == 0
    assert capsys.readouterr().out == hyphen


def test_arguments_may_be_intermixed(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([tool, "a=1", "--out", "x", "b=2", "c"]) == 0
    assert capsys.readouterr().out == "['a=1', 'b=2', 'c'] x\n"
    assert run_tool("try_it", ["d"]) == 0
    assert capsys.readouterr().out == "['d'] None\n"


def test_arguments_default_to_the_command_line(
    tool: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["resdet", tool, "a"])
    assert main() == 0
    monkeypatch.setattr(sys, "argv", ["try_it.py", "b"])
    assert run_tool(tool) == 0
    assert capsys.readouterr().out == "['a'] None\n['b'] None\n"


def test_wrong_options_exit_with_2(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([tool, "--nope"]) == 2
    assert "unrecognized arguments: --nope" in capsys.readouterr().err
    assert main([tool, "--ou", "x"]) == 2  # options are not guessed from their beginning


def test_options_that_a_mistyped_one_may_mean(tool, capsys):
    assert main([tool, "x", "--debugg", "--nope"]) == 2
    message = "unrecognized arguments: --debugg --nope; did you mean --debug?"
    assert message in capsys.readouterr().err
    assert main(["infer", "--weights", "w.pt", "--tiles=640", "a.png"]) == 2
    assert "--tiles=640; did you mean --tile?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("end", "code", "err"),
    [
        ("code", 5, ""),
        ("ConfigError", ConfigError.exit_code, "error: cats.jpg: no\nerror: second line\n"),
        ("DataError", DataError.exit_code, "error: cats.jpg: no\nerror: second line\n"),
        ("ImageError", 3, "error: cats.jpg: no\nerror: second line\n"),
        ("DivergedError", DivergedError.exit_code, "error: cats.jpg: no\nerror: second line\n"),
        ("KeyboardInterrupt", 130, "interrupted\n"),
        (
            "ZeroDivisionError",
            1,
            "error: ZeroDivisionError: cats.jpg: no second line; "
            "run again with --debug for the traceback\n",
        ),
        (
            "pipe",  # a broken pipe that is not the output is no reason for silence
            2,
            "error: cannot read or write: a worker is gone\n",
        ),
        (
            "missing",
            2,
            "error: /no/such\\nfile: No such file or directory\n",
        ),
        ("denied", 2, "error: runs/1: Permission denied\n"),
        (
            "full",
            2,
            "error: cannot read or write: No space left on device\n",
        ),
    ],
)
def test_exit_codes_and_error_output(
    tool: str, end: str, code: int, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([tool, "--end", end]) == code
    assert capsys.readouterr().err == err


@pytest.mark.parametrize("words", [["--debug", "try-it"], ["try-it", "--debug"]])
@pytest.mark.parametrize(("end", "code"), [("DataError", 3), ("ZeroDivisionError", 1)])
def test_debug_shows_the_traceback(
    tool: str, words: list[str], end: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--end", end]) == code
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "resdet_tool_for_tests.py" in err


def test_a_closed_output_pipe_is_quiet(tmp_path: Path) -> None:
    command = python("sys.exit(cli.main(['try-it', '--end', 'flood']))", tmp_path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0  # of the work, which goes on


def test_errors_are_coloured_only_on_a_terminal(
    tool: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main([tool, "--end", "DataError"])
    assert capsys.readouterr().err.startswith("\x1b[31merror:\x1b[0m cats.jpg: no\n")
    monkeypatch.setenv("NO_COLOR", "1")
    main([tool, "--end", "DataError"])
    assert capsys.readouterr().err.startswith("error: cats.jpg: no\n")


def test_the_installed_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "resdet.tools.cli", "doktor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: no command 'doktor'; did you mean doctor?\n"


@pytest.mark.parametrize("flag", ["--cfg", "--config", "--config-file"])
def test_config_arguments(flag: str) -> None:
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    words = ["train.lr=0.5", flag, "quickstart_r18.yaml", "train.seed=3", "--dry-run"]
    args = parser.parse_intermixed_args(words)
    config = config_from_args(args, DetectorConfig)
    assert (config.train.lr, config.train.seed) == (0.5, 3)
    assert (args.dry_run, args.print_config) == (True, False)


def test_config_arguments_without_a_config() -> None:
    required, optional = argparse.ArgumentParser(), argparse.ArgumentParser()
    add_config_arguments(required)
    add_config_arguments(optional, required=False)
    with pytest.raises(SystemExit):
        required.parse_intermixed_args([])
    args = optional.parse_intermixed_args(["train.lr=1"])
    with pytest.raises(ConfigError, match="no config: give --cfg"):
        config_from_args(args, DetectorConfig)


def test_words_with_a_dotted_key_are_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["a=b/best.pt", "data.root=x", "dir.v1/lr=0.1.pt", "test.nms_iou=0.4.jpg"]
    Path(words[-1]).touch()
    overrides, others = split_overrides(words)
    assert overrides == ["data.root=x"]
    assert others == ["a=b/best.pt", "dir.v1/lr=0.1.pt", "test.nms_iou=0.4.jpg"]


def test_warnings_of_pillow_which_name_no_file_are_left_out(
    recwarn: pytest.WarningsRecorder,
) -> None:
    with _warnings_in_one_line():
        warnings.warn_explicit("Corrupt EXIF", UserWarning, "file", 1, module="PIL.Image")
        warnings.warn_explicit("other", UserWarning, "file", 1, module="resdet")
    assert [str(each.message) for each in recwarn] == ["other"]
