"""Fonts: names in any script are drawn, with a font that has them or in a form that every font has.

The fonts here are made on the spot, so that no result depends on what a machine has installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from resdet.detection import fonts
from resdet.detection.errors import ConfigError
from resdet.detection.fonts import drawable, drawable_names, font_runs, set_font, use_fonts

#: Letters of a private area, which no font of a system has.
PRIVATE = "\ue6d1\ue6d2"


def tiny_font(path: Path, letters: str, family: str = "Tiny") -> Path:
    """A font in which every letter is a block, as high as it is wide."""
    names = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
    pen = TTGlyphPen(None)
    for x, y in ((0, 0), (0, 700), (700, 700), (700, 0)):
        (pen.lineTo if (x, y) != (0, 0) else pen.moveTo)((x, y))
    pen.closePath()
    glyphs = dict.fromkeys(names, pen.glyph())
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):04X}" for letter in letters})
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path.parent.mkdir(parents=True, exist_ok=True)
    builder.save(path)
    return path


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_FONTS", fonts._Fonts())
    drawable_names.cache_clear()


def test_names_that_dejavu_has_are_shown_as_they_are() -> None:
    names = ("cat", "собака", "γάτα", "قط", "a  b", "$x$")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawable_names(names) == names
        assert drawable_names(()) == ()


def test_names_without_a_font_become_numbers_with_one_warning() -> None:
    with pytest.warns(UserWarning, match="--font FILE") as caught:
        assert drawable_names(("cat", PRIVATE)) == ("cat", "class 1")
        assert drawable_names(("cat", PRIVATE)) == ("cat", "class 1")
    assert len(caught) == 1
    assert f"{PRIVATE} as class 1" in str(caught[0].message)


def test_many_names_without_a_font_are_counted() -> None:
    with pytest.warns(UserWarning, match="as class 4 and 3 more"):
        drawable_names((PRIVATE,) * 8)


def test_names_are_on_one_line() -> None:
    assert drawable_names(("a\nb", "a\u202eb")) == ("a\\nb", "a\\u202eb")
    assert drawable(f"img\n{PRIVATE[0]}.jpg") == "img\\n\\ue6d1.jpg"


def test_a_font_that_is_set_is_used(tmp_path: Path) -> None:
    with pytest.warns(UserWarning):
        drawable_names((PRIVATE,))
    set_font(tiny_font(tmp_path / "tiny.ttf", PRIVATE))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawable_names((PRIVATE,)) == (PRIVATE,)
    runs = [(font.family, text) for font, text in font_runs(f"{PRIVATE} dog")]
    assert runs == [("Tiny", PRIVATE), ("DejaVu Sans", " dog")]


@pytest.mark.parametrize("content", [None, b"", b"no font at all"])
def test_a_font_that_cannot_be_used_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.ttf"
    if content is not None:
        path.write_bytes(content)
    reason = "no such file" if content is None else "not a font"
    with pytest.raises(ConfigError, match=f"--font {path}.*{reason}"):
        set_font(path)


def test_fonts_of_the_system_are_searched(tmp_path: Path) -> None:
    """The font with more of the characters comes first; a placeholder for all is not used."""
    folder = tmp_path / "fonts"
    tiny_font(folder / "A-Regular.ttf", PRIVATE[:1], "Half")
    tiny_font(folder / "LastResort.ttf", PRIVATE + "\ue6d3", "Last Resort")
    tiny_font(folder / "Z-Bold.ttf", PRIVATE, "Whole")
    (folder / "damaged.ttf").write_bytes(b"damaged")
    code = (
        "from resdet.detection.fonts import *\n"
        f"print(drawable_names(({PRIVATE!r}, 'cat')))\n"
        f"print(*[font.family for font, _ in font_runs({PRIVATE!r})])\n"
    )
    found = run_python(code, tmp_path)
    assert found.stdout.splitlines() == [str((PRIVATE, "cat")), "Whole"]
    assert found.stderr == ""


def run_python(code: str, fonts_above: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_DATA_HOME": str(fonts_above), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_joiner_needs_no_glyph() -> None:
    assert drawable_names(("a\u200db\ufe0f",)) == ("a\u200db\ufe0f",)


def test_plots_draw_with_the_fonts_in_use(tmp_path: Path) -> None:
    set_font(tiny_font(tmp_path / "tiny.ttf", PRIVATE, "Tiny plotted"))
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = Figure()
        axes = figure.subplots()
        axes.set_yticks([0], labels=[PRIVATE])
        axes.plot([0], [0], label=f"{PRIVATE} dog")
        axes.legend()
        use_fonts(figure)
        figure.savefig(tmp_path / "x.png")
