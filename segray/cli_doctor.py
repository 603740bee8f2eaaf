"""What `segray doctor` prints: what is there, what its values and structures are, findings, and the plan of ingest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from segray.cli_display import console, print_paths, sayable
from segray.doctor.diagnosis import Diagnosis
from segray.doctor.findings import counts, grouped
from segray.doctor.intensity import rebinned, usual_range
from segray.doctor.whole import StructureRow
from segray.doctor.words import plan_facts, verdict

GRADE_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}

TALLIED = 3
"""Sizes, spacings and the like that are named; the page names more."""

MOST_STRUCTURES = 12
"""Rows of the table of structures; the page has all."""

NAME_COLUMNS = 28
"""The longest name of TotalSegmentator; six columns of numbers beside it fit into 80 columns."""

MEANINGS = {"other": "no HU, as in MR"}
"""Kinds of values whose name says too little."""

BINS, BIN_ROWS = 64, 4
"""Columns and lines of a histogram: with its frame it fits into 80 columns."""

BLOCKS, PLAIN_BLOCKS = " ▁▂▃▄▅▆▇█", "    ####"
"""Eighths of a line from the bottom up; the second where the terminal knows no others than ASCII."""


def print_doctor(diagnosis: Diagnosis) -> None:
    """Facts, findings by their grade, what ingest would do, and where the whole report lies."""
    for note in diagnosis.notes:
        console.print(sayable(note), soft_wrap=True)
    for part in _parts(diagnosis):
        console.print(part)
        console.print()
    number = counts(diagnosis.findings)
    console.print(", ".join(f"{count} {grade}{'s' * (count != 1)}" for grade, count in number.items()))
    console.print(f"[bold]{sayable(verdict(diagnosis))}[/bold]", soft_wrap=True)
    print_paths(**diagnosis.files)


def _parts(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    """The tables that have rows."""
    if diagnosis.readable:
        yield tally_table(diagnosis.tallies(), len(diagnosis.readable))
    for kind, bins in diagnosis.histograms().items():
        if kind != "constant":
            blocks = BLOCKS if console.encoding.startswith("utf") else PLAIN_BLOCKS
            yield Text("\n".join(histogram(kind, bins, blocks)))
    if diagnosis.structures:
        yield structure_table(diagnosis.structures, diagnosis.files.get("report", ""))
    if diagnosis.findings:
        yield _finding_table(diagnosis)
    planned = _table("What ingest will do", show_header=False)
    for name, value in plan_facts(diagnosis):
        planned.add_row(sayable(name), sayable(value))
    if planned.row_count:
        yield planned


def _table(title: str, *, show_header: bool = True) -> Table:
    edges = box.SIMPLE_HEAD if show_header else None
    padding = (0, 1, 0, 0) if show_header else (0, 2, 0, 0)
    return Table(title=title, title_justify="left", box=edges, show_header=show_header, padding=padding)


def tally_table(tallies: Mapping[str, Mapping[str, int]], cases: int) -> Table:
    """Sizes, spacings, orientations, kinds of values and readers, the most frequent first, each with its cases."""
    table = _table(f"What is there: {cases} readable case{'s' * (cases != 1)}", show_header=False)
    for name, found in tallies.items():
        named = [(MEANINGS.get(value, value), count) for value, count in list(found.items())[:TALLIED]]
        shown = ", ".join(f"{value} ({count})" for value, count in named)
        more = f" and {len(found) - TALLIED} others" if len(found) > TALLIED else ""
        table.add_row(sayable(name), sayable(shown + more))
    return table


def structure_table(rows: Sequence[StructureRow], page: str) -> Table:
    """In how many cases a structure is there, empty, or without a mask file, and its volume where it is there.

    Args:
        rows: of all structures.
        page: where those are that do not fit; empty: nowhere.
    """
    table = _table(f"Structures: {len(rows)} (absent: no mask file, or nobody looked; volumes in ml, where present)")
    table.add_column("structure", overflow="ellipsis", no_wrap=True, max_width=NAME_COLUMNS)
    for name in ("present", "empty", "absent", "median", "least", "most"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:MOST_STRUCTURES]:
        volumes = [_number(one) if row.cases else "-" for one in (row.median_ml, row.low_ml, row.high_ml)]
        table.add_row(sayable(row.name), str(row.cases), str(row.empty), str(row.unmasked), *volumes)
    if len(rows) > MOST_STRUCTURES:
        where = f"in {sayable(page)}" if page else "on the page that --out writes"
        table.caption = f"and {len(rows) - MOST_STRUCTURES} more {where}"
        table.caption_justify = "left"
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def histogram(kind: str, bins: Mapping[int, int], blocks: str = BLOCKS) -> list[str]:
    """A title, :data:`BIN_ROWS` lines of blocks, and the lowest and highest value; heights are roots of the voxels.

    The root lets an organ be seen beside the air, which has most of the voxels.

    Args:
        kind: what the values seem to be.
        bins: number of a bin of :mod:`segray.doctor.intensity` to its voxels.
        blocks: nine or fewer characters from empty to full.
    """
    low, high = usual_range(bins)
    shown = rebinned(bins, low, high, BINS)
    heights = shown**0.5
    full = len(blocks) - 1
    units = [max(round(float(one)), int(one > 0)) for one in heights / heights.max() * full * BIN_ROWS]
    lines = [
        "".join(blocks[min(max(unit - full * level, 0), full)] for unit in units)
        for level in range(BIN_ROWS - 1, -1, -1)
    ]
    left, right = _number(low), _number(high)
    middle = MEANINGS.get(kind, kind) + _beyond(1 - float(shown.sum()) / sum(bins.values()))
    title = f"Values: {middle} (height: root of the voxels)"
    return [title, *lines, left + right.rjust(BINS - len(left))]


def _beyond(share: float) -> str:
    return f", {100 * share:.1f} % lie beyond" if share >= 0.001 else ""


def _finding_table(diagnosis: Diagnosis) -> Table:
    count = len(diagnosis.reports)
    title = f"Findings in {count} case{'s' * (count != 1)}"
    table = Table(title=title, title_justify="left", show_lines=True)
    for name in ("grade", "cases", "what", "mend"):
        table.add_column(name, overflow="fold")
    for group in grouped(diagnosis.findings):
        style = GRADE_STYLES[group.grade]
        more = f" (and {len(group.sentences) - 1} more like it)" if len(group.sentences) > 1 else ""
        named = f"{len(group.cases)}: {group.named}" if group.cases else "all"
        what = sayable(f"{group.code}: {group.sentences[0]}{more}")
        table.add_row(f"[{style}]{group.grade}[/{style}]", sayable(named), what, sayable(group.mend))
    return table
