"""The command ``resdet``: dispatch to the tools, error output and exit codes.

Each tool is a module of this package with ``HELP``, ``add_arguments(parser)`` and ``run(args)``,
which returns an exit code (see detection/errors.py). Tools import slow modules inside ``run``, so
that ``--help`` is fast.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from resdet import __version__
from resdet.detection.errors import ConfigError, ResdetError, one_line
from resdet.detection.printing import lasting_outputs, printable
from resdet.detection.processor import keep_memory

#: The commands by what people want to do: {title: {command: its module}}.
GROUPS = {
    "data": {
        "check-data": "resdet.tools.check_data",
        "convert-data": "resdet.tools.convert_data",
        "split": "resdet.tools.split",
        "crop-objects": "resdet.tools.crop_objects",
        "write-shards": "resdet.tools.write_shards",
        "get-data": "resdet.tools.get_data",
    },
    "train": {
        "train-det": "resdet.tools.train_det",
        "train-cls": "resdet.tools.train_cls",
        "train-loc": "resdet.tools.train_loc",
        "find-lr": "resdet.tools.find_lr",
    },
    "measure and compare": {
        "eval": "resdet.tools.eval",
        "report": "resdet.tools.report",
        "compare": "resdet.tools.compare",
        "ablate": "resdet.tools.ablate",
        "curves": "resdet.tools.curves",
        "responses": "resdet.tools.responses",
        "score-submission": "resdet.tools.score_submission",
    },
    "use": {
        "infer": "resdet.tools.infer",
        "manifest": "resdet.tools.manifest",
        "serve": "resdet.tools.serve",
        "export": "resdet.tools.export",
        "benchmark": "resdet.tools.benchmark",
        "push": "resdet.tools.push",
    },
    "weights and networks": {
        "convert-weights": "resdet.tools.convert_weights",
        "freeze-bn": "resdet.tools.freeze_bn",
        "networks": "resdet.tools.networks",
    },
    "this machine": {
        "doctor": "resdet.tools.doctor",
        "completion": "resdet.tools.completion",
    },
}
COMMANDS = {name: module for group in GROUPS.values() for name, module in group.items()}

#: Those that run networks again and again, which is faster with memory that is kept.
COMPUTING = {*GROUPS["train"], "eval", "infer", "serve", "benchmark"}

INTERRUPTED = 130


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Adds defaults to the help of options, except empty ones and those the help describes."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if not action.default or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``resdet COMMAND ...`` and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:  # a shell asks, see tools/completion.py
        from resdet.tools.completion import complete

        complete(COMMANDS, add_all_arguments)
    if words[:1] == ["--debug"]:
        words = [*words[1:], "--debug"]
    if words[:1] in (["-h"], ["--help"]):
        print(_overview())
        return 0
    if words[:1] == ["--version"]:
        print(f"resdet {__version__}")
        return 0
    if not words or words == ["--debug"]:
        print(_overview(), file=sys.stderr)
        return ConfigError.exit_code
    if argv is None and words[0] in COMPUTING:  # in a process of its own
        keep_memory()
    return run_tool(words[0], words[1:])


def run_tool(name: str, argv: Sequence[str] | None = None) -> int:
    """Parse the arguments of a tool, run it and return an exit code; never raises."""
    words = list(sys.argv[1:] if argv is None else argv)
    with lasting_outputs(), _warnings_in_one_line():
        try:
            return _run(name, words)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:
            if "--debug" in words:
                traceback.print_exc()
            return _report(error)


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Within the context, warnings name no line of code: they are about the user's files.

    Those of Pillow, which do not name the file either, are left out.
    """
    before = warnings.formatwarning

    def format_line(message: Any, category: type[Warning], *place: Any, **code: Any) -> str:
        if category is not UserWarning:
            return before(message, category, *place, **code)
        return f"warning: {printable(message)}\n"

    setattr(warnings, "formatwarning", format_line)  # noqa: B010 (mypy wants names of arguments)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        warnings.formatwarning = before


def _run(name: str, words: Sequence[str]) -> int:
    command = name.replace("_", "-")
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        near = f"did you mean {close[0]}?" if close else f"choose from {', '.join(COMMANDS)}"
        raise ConfigError(f"no command {name!r}; {near}")
    tool = import_module(COMMANDS[command])
    parser = argparse.ArgumentParser(
        prog=f"resdet {command}",
        description=tool.__doc__,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    add_all_arguments(parser, tool)
    try:
        # Intermixed: key=value overrides may appear between options.
        args, unknown = parser.parse_known_intermixed_args(words)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{_near(parser, unknown)}")
    except SystemExit as stop:  # after --help, or after argparse printed a usage error
        return int(stop.code or 0)
    if getattr(args, "font", None):
        from resdet.detection.fonts import set_font

        set_font(args.font)
    return int(tool.run(args))


def _near(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """The options that ``unknown`` words may mean, as the end of a message."""
    options = [option for action in parser._actions for option in action.option_strings]
    given = (word.partition("=")[0] for word in unknown if word.startswith("--"))
    near = [close for word in given for close in difflib.get_close_matches(word, options, n=1)]
    return f"; did you mean {' '.join(near)}?" if near else ""


def add_all_arguments(parser: argparse.ArgumentParser, tool: ModuleType) -> None:
    """Add the options of a tool and those of every command."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    tool.add_arguments(parser)


def _report(error: Exception) -> int:
    """Print an expected error line by line, and an unexpected one on a single line."""
    if isinstance(error, ResdetError):
        for line in str(error).split("\n"):
            _print_error(line)
        return error.exit_code
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which takes seconds to import
        _print_error(f"{text}; choose another device with --device, such as cpu")
        return ConfigError.exit_code
    if isinstance(error, OSError):  # of the machine, such as a full disk or a missing right
        _print_error(_machine_fault(error))
        return ConfigError.exit_code
    _print_error(f"{text}; run again with --debug for the traceback")
    return ResdetError.exit_code


def _print_error(text: str) -> None:
    line = printable(text)
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    print(f"\x1b[31merror:\x1b[0m {line}" if coloured else f"error: {line}", file=sys.stderr)


def _machine_fault(error: OSError) -> str:
    """File and reason of an error that the operating system reports."""
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = error.strerror or one_line(error)
    return f"{' and '.join(files)}: {reason}" if files else f"cannot read or write: {reason}"


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: resdet COMMAND [options]"]
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{width}}  {_help(module)}" for name, module in group.items()]
    return "\n".join(
        [*lines, "", "Run `resdet COMMAND --help` for details, `resdet --version` for the version."]
    )


def _help(module: str) -> str:
    """The ``HELP`` of a tool, parsed from its source: importing all tools takes seconds."""
    source = Path(__file__).with_name(f"{module.rpartition('.')[2]}.py")
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign([ast.Name("HELP")], value) | ast.AnnAssign(
                ast.Name("HELP"), value=ast.Constant() as value
            ):
                return str(ast.literal_eval(value))
    raise LookupError(f"{source} has no HELP")


if __name__ == "__main__":
    raise SystemExit(main())
