"""Text of annotations in other encodings than UTF-8: refused with file, line and the way on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from resdet.datasets.convert.convert import plan_conversion, write_plan
from resdet.datasets.convert.reading import read_splits
from resdet.datasets.formats import FORMATS, inspect, recognise
from resdet.datasets.formats.csv_boxes import CsvSource
from resdet.datasets.formats.format import Inspected
from resdet.datasets.text import NotUtf8, utf8_text
from resdet.detection.errors import ConfigError, DataError
from resdet.detection.inference.inputs import find_inputs
from resdet.tools.cli import main

TEXTS = (".xml", ".json", ".txt", ".yaml", ".csv")
CSV = "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,64,48,dog,1,2,9,9\n"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """One image with a class whose name is not ASCII, in line 3."""
    folder = tmp_path / "csv"
    folder.mkdir()
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    (folder / "boxes.csv").write_text(f"{CSV}a.png,64,48,café,3,4,9,9\n", encoding="utf-8")
    return folder


def _read(root: Path) -> Inspected:
    (source,) = recognise(root).format.splits(root).values()
    return inspect(source)


@pytest.mark.parametrize("encoding", ["latin-1", "cp936", "utf-16"])
@pytest.mark.parametrize("name", [each for each, format in FORMATS.items() if format.writer])
def test_annotations_in_another_encoding_are_refused(
    csv: Path, tmp_path: Path, name: str, encoding: str
) -> None:
    root = tmp_path / name
    if name != "csv":
        splits = read_splits({"train": CsvSource(images=csv, annotations=csv / "boxes.csv")})
        write_plan(plan_conversion(splits, name), root)
        (root / "conversion.txt").unlink()
    assert {obj.name for obj in _read(root)[0][0].objects} == {"dog", "café"}
    changed = []
    for path in sorted(each for each in root.rglob("*") if each.suffix in TEXTS):
        text = path.read_text("utf-8").replace("\\u00e9", "é")
        if not text.isascii() or encoding == "utf-16":
            path.write_bytes(text.encode(encoding))
            changed.append(path)
    assert changed
    _, findings = _read(root)
    if name in ("voc", "cvat") and encoding == "utf-16":  # XML states it by its mark
        assert findings == []
        return
    told = [str(each) for each in findings if each.severity == "error"]
    assert told
    for line in told:
        assert line.startswith(tuple(f"{path}: " for path in changed))
        assert "is not UTF-8" in line and "iconv -f " in line
        assert ("UTF-16" in line) == (encoding == "utf-16")


def test_a_line_is_named_wherever_it_is() -> None:
    assert utf8_text("\ufeffcafé\n".encode()) == "café\n"
    with pytest.raises(NotUtf8, match=r"^line 3 is not UTF-8 \(byte 0xe9\); save it as UTF-8, "):
        utf8_text("a\n\ncafé".encode("latin-1"))
    with pytest.raises(NotUtf8, match=r"^line 8 is not UTF-8 "):
        utf8_text("café".encode("cp936"), 8)
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        with pytest.raises(NotUtf8, match=r"^line 1 is not UTF-8 but looks like UTF-16 "):
            utf8_text("a\nb".encode(encoding))


def test_names_of_open_images_in_another_encoding(csv: Path) -> None:
    """Of codes with names in a second file, which would be garbled."""
    rows = "ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/01,0.1,0.5,0.1,0.5\n"
    (csv / "boxes.csv").write_text(rows)
    names = csv / "class-descriptions-boxable.csv"
    names.write_text("/m/01,café\n", encoding="latin-1")
    _, (fault,) = inspect(CsvSource(images=csv, annotations=csv / "boxes.csv"))
    assert fault.file == names and "line 1 is not UTF-8" in fault.reason


def test_an_xml_that_states_the_wrong_encoding(csv: Path, tmp_path: Path) -> None:
    splits = read_splits({"train": CsvSource(images=csv, annotations=csv / "boxes.csv")})
    write_plan(plan_conversion(splits, "voc"), tmp_path / "voc")
    (path,) = (tmp_path / "voc" / "Annotations").iterdir()
    text = path.read_text("utf-8")
    for stated in ("", '<?xml version="1.0" encoding="utf-8"?>\n'):
        path.write_bytes((stated + text).encode("cp936"))
        (fault,) = (each for each in _read(tmp_path / "voc")[1] if each.kind == "malformed_xml")
        assert "is not UTF-8 (byte 0xa8)" in fault.reason
    path.write_bytes(('<?xml version="1.0" encoding="gbk"?>\n' + text).encode("cp936"))
    assert "café" in {obj.name for obj in _read(tmp_path / "voc")[0][0].objects}
    path.write_text(text.replace("</annotation>", ""), encoding="utf-8")
    (fault,) = (each for each in _read(tmp_path / "voc")[1] if each.kind == "malformed_xml")
    assert "UTF-8" not in fault.reason


def test_the_check_names_file_and_line(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv / "boxes.csv"
    path.write_bytes(path.read_text("utf-8").encode("latin-1"))
    assert main(["check-data", str(csv)]) == 3
    said = capsys.readouterr().out
    assert "boxes.csv: cannot be read (line 3 is not UTF-8 (byte 0xe9)" in said


def test_lists_of_images(csv: Path, tmp_path: Path) -> None:
    """A name that is no UTF-8 is taken where the disk has it."""
    path = tmp_path / "list.txt"
    (csv / "a.png").rename(tmp_path / "café.png")
    for encoding in ("latin-1", "utf-16"):
        path.write_bytes("café.png\n".encode(encoding))
        with pytest.raises(ConfigError, match=r"list\.txt: line 1 is not UTF-8"):
            find_inputs([str(path)])
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        from resdet.datasets.manifests.sources import find_sources

        with pytest.raises(DataError, match=r"list\.txt: line 1 is not UTF-8"):
            list(find_sources([str(path)])[0].entries(None, 0))
    path.write_text("café.png\n", encoding="utf-8")
    assert [file.path.name for file in find_inputs([str(path)])] == ["café.png"]
    shutil.copy(tmp_path / "café.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    path.write_bytes(b"caf\xe9.png\n")
    assert [file.path.exists() for file in find_inputs([str(path)])] == [True]
