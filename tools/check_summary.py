"""The report of ``check-data`` printed on a terminal."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from resdet.datasets.finding_kinds import RESOLVED_BY
from resdet.datasets.findings import Finding
from resdet.detection.printing import cell
from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from resdet.datasets.checks.check import Report
    from resdet.datasets.checks.statistics import SplitCounts

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
#: Without a terminal, wide enough not to break lines.
_FILE_WIDTH = 240
#: Classes shown in the table; the written report has all.
_MAX_CLASSES = 30


def print_report(report: Report) -> None:
    """Print counts, classes, anchors and the first finding of each kind."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
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
    console.print(_findings(report.findings))
    for line in _verdict(report.findings):
        console.print(line, highlight=False)


def _split(split: SplitCounts) -> str:
    parts = [f"{split.name}: {split.images} images"]
    if split.objects:
        parts += [f" ({split.empty} without objects)"] * bool(split.empty)
        parts += [f", {split.objects} objects"]
        parts += [f" ({split.ignored} ignored)"] * bool(split.ignored)
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


def _findings(findings: tuple[Finding, ...]) -> Table:
    kinds: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        kinds[finding.severity, finding.kind].append(finding)
    table = Table("severity", "kind", "count", Column("first", overflow="fold"))
    for (severity, kind), found in kinds.items():
        colour = _COLOURS[severity]
        table.add_row(f"[{colour}]{severity}[/]", kind, str(len(found)), cell(found[0]))
    return table


def _verdict(findings: tuple[Finding, ...]) -> list[str]:
    """The number of findings per severity, and whether training accepts the data."""
    counts = Counter(finding.severity for finding in findings)
    tally = ", ".join(
        f"{counts[severity]} {severity}{'' if counts[severity] == 1 else 's'}"
        for severity in ("error", "warning", "note")
    )
    what = "training would stop" if counts["error"] else "training accepts the data"
    lines = [f"{tally}: {what}"]
    errors = [finding.kind for finding in findings if finding.severity == "error"]
    for setting, kinds in RESOLVED_BY.items():
        if count := sum(kind in kinds for kind in errors):
            lines.append(f"{setting} settles {count} of the errors: it leaves them out, counted")
    if any(finding.box for finding in findings):
        lines.append("boxes are (left, top, right, bottom), 0-based; VOC files are 1-based")
    return lines
