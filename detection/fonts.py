"""Fonts for class names in any script, for drawings (Pillow) and plots (matplotlib).

DejaVu Sans, a part of matplotlib, comes first; for characters that it lacks, the fonts of the
system are searched. Where none has them, names are shown in a form that every font can draw, with
one warning. The state is that of the process, as matplotlib's is; threads may share it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from PIL import ImageFont

from .errors import ConfigError, one_line
from .printing import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Names in a warning; further ones are counted.
_SHOWN = 5
#: Styles that are less legible than the regular one of a family, in names of files.
_STYLES = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "condensed", "serif")
#: These have a glyph for every character, none of which can be read.
_PLACEHOLDERS = ("lastresort", "adobeblank")


@dataclass(frozen=True)
class FontFile:
    """A font; ``characters`` are those that it can draw. Fonts that are not ``scalable`` have
    bitmaps of one size, as those of coloured emoji do; matplotlib cannot use them."""

    path: Path
    family: str
    characters: frozenset[int]
    scalable: bool

    @staticmethod
    def read(path: Path) -> FontFile:
        """Raises OSError or RuntimeError for a file that is no font."""
        from matplotlib.ft2font import FT2Font  # late: only drawings need it

        font = FT2Font(str(path))
        characters = frozenset(code for code, glyph in font.get_charmap().items() if glyph)
        return FontFile(path, font.family_name, characters, bool(font.scalable))


class _Fonts:
    """The fonts in use, first choice first, and the characters that no font of the system has."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.used: list[FontFile] = []
        self.absent: set[int] = set()

    def chain(self) -> tuple[FontFile, ...]:
        with self.lock:
            if not self.used:
                import matplotlib

                folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
                self.used = [FontFile.read(folder / "DejaVuSans.ttf")]
            return tuple(self.used)

    def lead(self, font: FontFile) -> None:
        with self.lock:
            self.used = [font, *(each for each in self.chain() if each.path != font.path)]
            self.absent -= font.characters
            drawable_names.cache_clear()

    def without_glyph(self, text: str, *, scalable: bool) -> set[int]:
        """The characters of ``text`` that no font has, after a search for fonts that do."""

        def lacking() -> set[int]:
            fonts = [font for font in self.chain() if font.scalable or not scalable]
            return wanted.difference(*(font.characters for font in fonts))

        wanted = {ord(letter) for letter in text if not _joins(letter)}
        with self.lock:
            if unknown := lacking() - self.absent:
                self._search(unknown)
                self.absent |= lacking()
            return lacking()

    def _search(self, unknown: set[int]) -> None:
        """Add fonts of the system: one that has all unknown characters, else those that have most
        of them, scalable ones first."""
        found: list[FontFile] = []
        for font in _system_fonts():
            # Only what is asked for is kept: a font may have 65,000 characters.
            known = replace(font, characters=font.characters & unknown)
            if known.scalable and len(known.characters) == len(unknown):
                found = [known]
                break
            found += [known] if known.characters else []
        for scalable in (True, False):
            fonts = [font for font in found if font.scalable == scalable]
            while unknown and fonts:
                best = max(fonts, key=lambda font: len(font.characters & unknown))
                if unknown.isdisjoint(best.characters):
                    break
                self.used.append(FontFile.read(best.path))
                unknown = unknown - best.characters


_FONTS = _Fonts()


def set_font(path: Path) -> None:
    """Draw text with this font file first. Raises ConfigError if it cannot be used."""
    try:
        font = FontFile.read(path)
        if not font.scalable:
            raise ConfigError(f"--font {path}: expected a scalable font, these are bitmaps")
        ImageFont.truetype(path, 10)
    except (OSError, RuntimeError) as error:
        reason = "no such file" if not path.is_file() else one_line(error)
        raise ConfigError(f"--font {path}: not a font: {reason}") from error
    _FONTS.lead(font)


@lru_cache(maxsize=64)
def drawable_names(names: tuple[str, ...], *, plotted: bool = False) -> tuple[str, ...]:
    """The class names as drawings show them: on one line, and ``class N``, the number in the list
    of classes from 0, instead of a name with characters that no font has.

    These are warned of, once. ``plotted`` is for matplotlib, which cannot use fonts with bitmaps.
    """
    lines = tuple(printable(name) for name in names)
    missing = _FONTS.without_glyph("".join(lines), scalable=plotted)
    if not missing:
        return lines
    unseen = [not missing.isdisjoint(map(ord, name)) for name in lines]
    shown = [
        f"class {label}" if hidden else name
        for label, (name, hidden) in enumerate(zip(lines, unseen, strict=True))
    ]
    _warn([f"{name} as {other}" for name, other in zip(lines, shown, strict=True) if name != other])
    return tuple(shown)


def drawable(text: str, *, plotted: bool = False) -> str:
    """``text`` on one line, with characters that no font has as escapes."""
    line = printable(text)
    missing = _FONTS.without_glyph(line, scalable=plotted)
    return "".join(
        letter.encode("unicode_escape").decode() if ord(letter) in missing else letter
        for letter in line
    )


def use_fonts(figure: Figure) -> None:
    """Give all text of a figure of matplotlib the fonts in use; call it before it is saved."""
    from matplotlib.font_manager import fontManager
    from matplotlib.text import Text

    known = {font.fname for font in fontManager.ttflist}
    fonts = [font for font in _FONTS.chain() if font.scalable]
    for font in fonts:
        if str(font.path) not in known:
            fontManager.addfont(font.path)
    families = list(dict.fromkeys(font.family for font in fonts))
    for text in figure.findobj(Text):
        text.set_fontfamily(families)


def font_runs(text: str) -> Iterator[tuple[FontFile, str]]:
    """``text`` in parts, each with the first font that has its characters."""
    chain = _FONTS.chain()
    whole = next((font for font in chain if font.characters.issuperset(map(ord, text))), None)
    if whole is not None:
        yield whole, text
        return
    chosen: list[tuple[FontFile, str]] = []
    for letter in text:
        before = chosen[-1][0] if chosen else chain[0]
        fits = _joins(letter) or (letter == " " and before.scalable and 32 in before.characters)
        candidates = [font for font in chain if ord(letter) in font.characters]
        chosen.append((before if fits else (candidates or [before])[0], letter))
    for font, letters in groupby(chosen, key=lambda pair: pair[0]):
        yield font, "".join(letter for _, letter in letters)


def _joins(letter: str) -> bool:
    """Whether the character only joins others or varies them: it needs no glyph of its own."""
    return letter == "\u200d" or "\ufe00" <= letter <= "\ufe0f" or letter == "\u200c"


def _warn(lines: Sequence[str]) -> None:
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    warnings.warn(
        f"no font here has all characters of these class names; drawings show "
        f"{', '.join(lines[:_SHOWN])}{more}. Install one that has them (Noto Sans, for instance), "
        "or name one with --font FILE",
        stacklevel=2,
    )


def _system_fonts() -> Iterator[FontFile]:
    """Regular fonts first."""
    from matplotlib.font_manager import findSystemFonts

    def rank(path: Path) -> tuple[int, str]:
        return sum(style in path.stem.lower() for style in _STYLES), path.name

    for path in sorted(map(Path, findSystemFonts()), key=rank):
        if any(name in path.stem.lower() for name in _PLACEHOLDERS):
            continue
        try:
            yield FontFile.read(path)
        except (OSError, RuntimeError):  # damaged, or in a format of its own
            continue
