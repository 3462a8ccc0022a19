"""ILSVRC classification and localization data: images with their classes and, where there are XML
files, with boxes.

The classes of the images in ``val/`` come from one of

- ``LOC_val_solution.csv`` (Kaggle's download; the boxes in it are not used),
- ``ILSVRC2012_validation_ground_truth.txt`` (the development kit): line n is the number of the
  class of image n. The numbers mean what ``meta.mat`` or ``map_clsloc.txt`` beside it says; they
  are not the order of the wnids.

Classes are wnids, and their order, sorted, is that of the published models.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...detection.errors import first_few
from ..findings import Fault, Finding, refuse
from ..image import ImageRules
from ..listing import files_in, has_images, is_image_name, subfolders
from ..records import RawImage
from . import ilsvrc_layout
from .format import Format, Inspected, Reading, checked_size, root_places
from .ilsvrc_boxes import inspect_boxes
from .ilsvrc_files import TextLines, read_mapping, read_solution
from .ilsvrc_layout import GROUND_TRUTHS, KITS, NAMES, NUMBER, SOLUTION, IlsvrcSource, images_folder
from .image_folder import inspect_image_folder
from .mat_file import read_table

#: The fields of a synset in `meta.mat`.
_SYNSET = ("ILSVRC2012_ID", "WNID", "num_children")


def class_names(root: Path) -> dict[str, str]:
    """{wnid: names}; empty without the file, raises DataError for a malformed one."""
    if not (root / NAMES).is_file():
        return {}
    names, findings = read_mapping(root / NAMES)
    refuse(findings, str(root / NAMES))
    return names


def inspect_ilsvrc(source: IlsvrcSource, reading: Reading) -> Inspected:
    """The images of a split with their wnids and, if ``reading`` asks for them, boxes; and all
    findings."""
    boxes = ilsvrc_layout.has_boxes(source.root) if reading.boxes is None else reading.boxes
    return inspect_boxes(source, reading) if boxes else inspect_classes(source, reading)


def inspect_classes(source: IlsvrcSource, reading: Reading) -> Inspected:
    """The images of a split with their wnids, and all findings.

    A split with class folders is read as such, any other as val.
    """
    root, rules, headers = source.root, reading.rules, source.headers
    folder = images_folder(root, source.folder(reading.part))
    if not folder.is_dir() or any(map(has_images, subfolders(folder))):
        images, findings = inspect_image_folder(folder, rules=rules, headers=headers)
    else:
        images, findings = _flat(root, folder, rules, headers=headers)
    return images, findings + _unknown_wnids(root, images)


def _unknown_wnids(root: Path, images: list[RawImage]) -> list[Finding]:
    """One error for each, at its first image, with the line of a file that names the classes."""
    names, place = class_names(root), root / NAMES
    first = {image.image_class or "": image for image in reversed(images)}
    findings = []
    for wnid, image in first.items():
        if names and wnid not in names:
            rows = TextLines(image.source) if image.source.is_file() else ()
            line = next((n for n, row in rows if row.startswith(image.path.stem)), 0)
            reason = f"first at {image.path.name}, is not in {place}"
            reason = f"line {line}: {reason}" if line else reason
            findings.append(Finding("unknown_class", "error", image.source, reason, wnid))
    return findings


def _flat(root: Path, folder: Path, rules: ImageRules, *, headers: bool) -> Inspected:
    paths = [path for path in files_in(folder) if is_image_name(path.name)]
    files = {path.stem: path for path in paths}
    if not files:
        return [], [Finding("no_classes", "error", folder, "has neither images nor class folders")]
    answers, findings = _answers(root, files)
    images = []
    for stem, (wnid, source) in answers.items():
        try:
            path = files[stem]
            size = checked_size(path, None, source, rules) if headers else (0, 0)
            images.append(RawImage(path.name, path, size, (), source, wnid))
        except Fault as fault:
            findings.append(fault.finding)
    return images, findings


#: {image's stem: (wnid, the file with it)}, and findings.
_Answers = tuple[dict[str, tuple[str, Path]], list[Finding]]


def _answers(root: Path, images: Mapping[str, Path]) -> _Answers:
    """The class of every image; findings for images without a class and the reverse."""
    path = ilsvrc_layout.ground_truth(root)
    if path is not None and path.name == SOLUTION:
        return _from_solution(path, images)
    if path is None:
        reason = (
            f"nothing says the classes of its images: neither {SOLUTION} nor {GROUND_TRUTHS[0]} "
            f"(in {first_few([str(root / kit) for kit in KITS])})"
        )
        folder = next(iter(images.values())).parent
        return {}, [Finding("missing_file", "error", folder, reason)]
    return _from_ground_truth(path, images)


def _from_solution(path: Path, images: Mapping[str, Path]) -> _Answers:
    solution, findings = read_solution(path)
    if stems := sorted(images.keys() - solution.keys()):
        reason = f"no row for the image {first_few(stems, 3)} ({len(stems)} in all)"
        findings.append(Finding("missing_solution", "error", path, reason))
    findings += [
        Finding("missing_image", "error", path, "no image for the row", stem)
        for stem in sorted(solution.keys() - images.keys())
    ]
    both = [stem for stem in images if stem in solution]
    return {stem: (solution[stem][0][0], path) for stem in both}, findings


def _from_ground_truth(path: Path, images: Mapping[str, Path]) -> _Answers:
    numbers, findings = _read_numbers(path)
    wnids, faults = _read_order(path.parent)
    if findings or faults:
        return {}, findings + faults
    if len(numbers) < len(images):
        reason = f"{len(numbers)} lines for {len(images)} images"
        findings.append(Finding("malformed_file", "error", path, reason))
    answers = {}
    without = dict(numbers)
    for stem, image in images.items():
        found = NUMBER.search(stem)
        line = int(found[1]) if found else 0
        without.pop(line, None)
        if line not in numbers:
            reason = f"its number is not one of the lines 1..{len(numbers)} of {path}"
            findings.append(Finding("missing_solution", "error", image, reason))
        elif numbers[line] not in wnids:
            reason = f"line {line}: no class has the number {numbers[line]} (1..{len(wnids)})"
            findings.append(Finding("unknown_class", "error", path, reason))
        else:
            answers[stem] = wnids[numbers[line]], path
    reason = f"no image for it ({len(numbers)} lines for {len(images)} images)"
    findings += [
        Finding("missing_image", "error", path, reason, f"line {line}") for line in without
    ]
    return answers, findings


def _read_numbers(path: Path) -> tuple[dict[int, int], list[Finding]]:
    """{line: class's number}."""
    lines = TextLines(path)
    numbers = {}
    for line, text in lines:
        if text.strip().isdecimal():
            numbers[line] = int(text)
        else:
            lines.bad(line, f"{text!r:.40}: expected a class's number")
    return numbers, lines.findings


# ------------------------------------------------------------------------------- class numbers


def _read_order(kit: Path) -> tuple[dict[int, str], list[Finding]]:
    """{number: wnid}."""
    if (kit / "meta.mat").is_file():
        return _from_meta(kit / "meta.mat")
    if (kit / "map_clsloc.txt").is_file():
        return _from_map(kit / "map_clsloc.txt")
    reason = "neither meta.mat nor map_clsloc.txt, which say which class each number is"
    return {}, [Finding("missing_file", "error", kit, reason)]


def _from_map(path: Path) -> tuple[dict[int, str], list[Finding]]:
    """Lines are ``n02119789 1 kit_fox``."""
    lines = TextLines(path)
    wnids: dict[int, str] = {}
    for line, text in lines:
        words = text.split()
        if len(words) < 2 or not words[1].isdecimal():
            lines.bad(line, f"{text!r:.60}: expected a wnid and a number")
        elif int(words[1]) in wnids or words[0] in wnids.values():
            lines.bad(line, f"{words[0]} {words[1]}: one is there twice")
        else:
            wnids[int(words[1])] = words[0]
    return wnids, lines.findings


def _from_meta(path: Path) -> tuple[dict[int, str], list[Finding]]:
    """The leaf synsets of the MATLAB file; inner synsets are not classes."""
    wnids: dict[int, str] = {}
    try:
        for number, wnid, children in read_table(path, "synsets", _SYNSET):
            if not (isinstance(number, float) and number % 1 == 0 and isinstance(wnid, str)):
                raise ValueError(f"a synset has the number {number} and the WNID {wnid!r:.40}")
            if children == 0:
                wnids[int(number)] = wnid
    except (OSError, ValueError) as error:
        return {}, [Finding("malformed_file", "error", path, f"cannot be read ({error})")]
    return wnids, []


FORMAT = Format(
    name="ilsvrc",
    source=IlsvrcSource,
    carries="both",
    layout="Data/CLS-LOC, or ILSVRC2012_val_*.JPEG with their ground truth",
    recognise=ilsvrc_layout.recognise,
    splits=ilsvrc_layout.splits,
    inspect=inspect_ilsvrc,
    places=lambda source: root_places(source.root, source.train, source.val),
    boxed=lambda source: ilsvrc_layout.has_boxes(source.root),
)
