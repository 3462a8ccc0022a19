"""Print what makes a shell complete commands, options and files of resdet.

  echo 'eval "$(resdet completion bash)"' >> ~/.bashrc
  echo 'eval "$(resdet completion zsh)"' >> ~/.zshrc
  resdet completion fish > ~/.config/fish/completions/resdet.fish

The shell then asks resdet itself, through argcomplete.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType

from resdet.detection.extras import expect_extra

HELP = "complete commands and options in a shell"

SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(args: argparse.Namespace) -> int:
    expect_extra("completion")
    import argcomplete

    sys.stdout.write(argcomplete.shellcode(["resdet"], shell=args.shell))  # lines, unlike `say`
    return 0


def complete(
    modules: Mapping[str, str],
    add_all_arguments: Callable[[argparse.ArgumentParser, ModuleType], None],
) -> None:
    """Answer the shell that asks through the environment, and end the process. ``modules`` are
    those of the commands."""
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    parser = argparse.ArgumentParser(prog="resdet")
    commands = parser.add_subparsers()
    for name, module in modules.items():
        command = commands.add_parser(name)
        if name in words:  # the others' options are not asked for: their modules take time
            add_all_arguments(command, import_module(module))
    argcomplete.autocomplete(parser)
