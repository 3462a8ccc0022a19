"""The list of images that a run skipped: ``skipped_images.txt`` in its folder."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from ..files import read_limited
from .log import RunLog

SKIPPED_FILE = "skipped_images.txt"
#: Images that the log names; the file names all.
_LOGGED = 10


class SkippedImages:
    """Each unusable image of a run once, as a line ``path: reason``.

    All processes append to the file, and a resumed run continues it.
    """

    def __init__(self, folder: Path, log: RunLog) -> None:
        self.path, self._log = folder / SKIPPED_FILE, log
        self._logged = 0

    @cached_property
    def _known(self) -> set[str]:
        return set(self._lines())

    def _lines(self) -> list[str]:
        try:
            return read_limited(self.path).decode("utf-8").splitlines()
        except OSError:
            return []

    def add(self, lines: Iterable[str], *, log: bool = True) -> None:
        """Append the images that are not listed yet, and ``log`` the first ones."""
        new = [line for line in dict.fromkeys(map(_one_line, lines)) if line not in self._known]
        if not new:
            return
        self._known.update(new)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in new))
        except OSError as error:
            self._log.message(f"WARNING: {self.path} not written ({error}); training continues")
        for line in new if log else ():
            self._logged += 1
            if self._logged <= _LOGGED:
                self._log.message(f"WARNING: image skipped: {line}")
            elif self._logged == _LOGGED + 1:
                self._log.message(f"WARNING: more images skipped: see {self.path}")

    def summary(self) -> str:
        """One line with the number of images that all processes skipped; "" for none."""
        count = len(set(self._lines()) | self._known)
        return f"{count} image(s) skipped, with reasons in {self.path}" if count else ""


def _one_line(text: str) -> str:
    """Surrogates of undecodable file names have no UTF-8 form."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split("\n"))
