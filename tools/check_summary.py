"""The report of ``check-data`` printed on a terminal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.datasets.finding_kinds import Severity, meaning
from resdet.datasets.finding_remedies import remedy, settings_for
from resdet.datasets.findings import Finding
from resdet.detection.printing import cell, table_console
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from resdet.datasets.checks.check import Report
    from resdet.datasets.checks.statistics import SplitCounts

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
#: Classes shown in the table; the written report has all.
_MAX_CLASSES = 30
#: Findings shown of a kind, by severity; kinds shown; characters of a finding shown.
_EXAMPLES: Mapping[Severity, int] = {"error": 3, "warning": 2, "note": 1}
_MAX_KINDS, _MAX_LINE = 25, 300
_INDENT = " " * 8


def print_report(report: Report, root: Path) -> None:
    """Print counts, classes, anchors, and for each kind of finding the first ones and what settles
    it; ``root`` is the folder that was checked, or the config."""
    console = table_console()
    console.print(cell(report.title, "bold"), highlight=False)
    for split in report.splits:
        console.print(cell(f"  {_split(split)}"), highlight=False)
    if report.classes:
        console.print(_classes(report))
    decoded = f"{report.images_checked} images decoded" if report.images_checked else "headers only"
    for line in (*_edges(report), *_anchors(report), f"{decoded}, {report.seconds:.1f} s"):
        console.print(f"  {line}", highlight=False)
    if not report.findings:
        console.print("[green]no findings[/]")
        return
    for text in _findings(report.findings, root):
        console.print(text, highlight=False, soft_wrap=True)
    for line in _verdict(report.findings):
        console.print(line, highlight=False)


def _split(split: SplitCounts) -> str:
    parts = [f"{split.name}: {split.images} images"]
    if split.objects:
        parts += [f" ({split.empty} without objects)"] * bool(split.empty)
        parts += [f", {split.objects} objects"]
        parts += [f" ({split.ignored} difficult or crowd)"] * bool(split.ignored)
    return "".join(parts)


def _classes(report: Report) -> Table:
    table = Table("objects of", *(Column(cell(split.name)) for split in report.splits))
    for each in report.classes[:_MAX_CLASSES]:
        table.add_row(cell(each.name), *map(str, each.objects))
    hidden = len(report.classes) - _MAX_CLASSES
    if hidden > 0:
        table.add_row(f"and {hidden} more")
    return table


def _anchors(report: Report) -> list[str]:
    fit = report.anchors
    if fit is None or not fit.objects:
        return []
    sizes = ", ".join(f"{size:g}" for size in fit.sizes)
    return [
        f"anchors {sizes} at {fit.short_side}/{fit.long_side_max} px: {fit.poor / fit.objects:.1%} "
        "of the objects have no anchor of IoU 0.5"
    ]


def _edges(report: Report) -> list[str]:
    """Evidence for 0- or 1-based boxes: if read correctly, those at the left edge start at 0."""
    edges = report.edges
    if report.anchors is None or not edges.boxes:
        return []
    before = f"{edges.before} at -1, " if edges.before else ""
    return [
        f"of {edges.boxes} boxes {before}{edges.at_zero} start at 0, {edges.at_one} at 1, "
        f"{edges.at_far_edge} end at the far edge (0-based)"
    ]


def _findings(findings: Sequence[Finding], root: Path) -> Iterator[Text]:
    """For each kind its count and meaning, the first findings, and what settles it."""
    kinds: dict[tuple[Severity, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        kinds[finding.severity, finding.kind].append(finding)
    for (severity, kind), found in list(kinds.items())[:_MAX_KINDS]:
        heading = cell(f"{severity:7} {len(found):5}  ", _COLOURS[severity])
        heading.append_text(cell(kind, "bold"))
        yield heading.append_text(cell(f"  {meaning(kind)}" if meaning(kind) else ""))
        shown = found[: _EXAMPLES[severity]]
        for example in shown:
            yield cell(f"{_INDENT}{_example(example, root)}")
        if len(found) > len(shown):
            yield cell(f"{_INDENT}and {len(found) - len(shown)} more", "dim")
        if text := remedy(kind):
            yield cell(f"{_INDENT}-> {text}", "green")
    if len(kinds) > _MAX_KINDS:
        yield cell(f"and {len(kinds) - _MAX_KINDS} more kinds; --out DIR writes all", "dim")


def _example(finding: Finding, root: Path) -> str:
    """The finding with its file as it is named in the checked folder."""
    text = str(finding).removeprefix(f"{root}/")
    return text if len(text) <= _MAX_LINE else f"{text[:_MAX_LINE]}…"


def _verdict(findings: tuple[Finding, ...]) -> list[str]:
    """The number of findings per severity, and whether training accepts the data."""
    counts = Counter(finding.severity for finding in findings)
    tally = ", ".join(
        f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}"
        for severity in ("error", "warning", "note")
    )
    what = "training would stop" if counts["error"] else "training accepts the data"
    lines = [f"{tally}: {what}"]
    if settings := settings_for(findings):
        lines.append(f"{' and '.join(settings)} settle{'s' * (len(settings) == 1)} all errors")
    if any(finding.box for finding in findings):
        lines.append("boxes are (left, top, right, bottom), 0-based; VOC files are 1-based")
    return lines
