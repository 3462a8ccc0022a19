"""Expected errors with the exit codes of commands, and formatting of messages.

0 ok · 1 a bug · 2 usage or config · 3 data, weights or class mismatch · 4 training diverged ·
5 all inputs failed, or some under ``--strict`` · 128 + a signal (130 Ctrl-C, 143 SIGTERM): stopped
after a saved checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable


class ResdetError(Exception):
    """Base of every expected failure. The message is one line: file, object, reason."""

    exit_code = 1


class ConfigError(ResdetError):
    """Wrong command line or config (exit code 2)."""

    exit_code = 2


class DataError(ResdetError):
    """A data set, annotation or class list that cannot be used as it is (exit code 3)."""

    exit_code = 3


class ImageError(DataError):
    """One image that cannot be used (exit code 3); runs over folders record it and go on."""


class WeightsError(DataError):
    """A weights file that is damaged, of an unknown layout, or does not fit (exit code 3)."""


class DivergedError(ResdetError):
    """The loss stayed non-finite (exit code 4)."""

    exit_code = 4


def first_few(items: Iterable[str], limit: int = 5) -> str:
    """The first ``limit`` items, and how many more there are, for a message of one line."""
    every = list(items)
    more = [f"and {len(every) - limit} more"] if len(every) > limit else []
    return "; ".join([*every[:limit], *more])


def one_line(error: BaseException) -> str:
    """The message of any exception on one line; the name of its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def quoted(value: object) -> str:
    """A value for a message: text and numbers in at most 40 characters, else the type's name.

    Values from other people's files may be of any size, and their ``repr`` may take for ever.
    """
    if isinstance(value, str | bytes):
        return repr(value[:40])
    if (
        value is None
        or isinstance(value, bool | float)
        or (isinstance(value, int) and value.bit_length() <= 128)
    ):
        return repr(value)
    return f"a {type(value).__name__}"
