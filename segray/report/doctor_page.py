"""The doctor's page: one HTML file with its pictures inside, ``doctor.json`` and ``sheet.png`` beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import PurePosixPath

import numpy as np
from matplotlib.figure import Figure

from segray import storage
from segray.doctor.diagnosis import Diagnosis
from segray.doctor.examine import CaseReport
from segray.doctor.findings import GRADES, FindingGroup, counts, grouped
from segray.doctor.intensity import rebinned, usual_range
from segray.doctor.tile import Tile
from segray.doctor.words import plan_facts, verdict
from segray.report import html
from segray.report.contact_sheet import contact_sheet
from segray.report.html import Cell, Markup
from segray.report.theme import ACCENT, WIDTH, new_figure, png_bytes, tidy

MOST_ROWS = 300
"""Rows of a table on the page; doctor.json holds all."""

MOST_SENTENCES = 3
TALLIED = 6
BARS = 120

GRADE_COLOURS = {"error": "#b3261e", "warning": "#9a6700", "note": "#5b6673"}


def write_doctor(folder: str, diagnosis: Diagnosis, tiles: Sequence[Tile]) -> dict[str, str]:
    """Write ``doctor.json``, ``index.html`` and, with tiles, ``sheet.png`` into ``folder``; returns name to path."""
    files = {"report": storage.join(folder, "index.html"), "json": storage.join(folder, "doctor.json")}
    sheet = png_bytes(contact_sheet(tiles)) if tiles else b""
    if sheet:
        files["sheet"] = storage.join(folder, "sheet.png")
        storage.write_bytes(files["sheet"], sheet)
    storage.write_text(files["json"], diagnosis.to_json())
    storage.write_text(files["report"], render(diagnosis, sheet))
    return files


def render(diagnosis: Diagnosis, sheet: bytes = b"") -> str:
    """The page, with the contact sheet (PNG) inside."""
    name = PurePosixPath(diagnosis.source).name or diagnosis.source
    looked = f"{len(diagnosis.reports)} cases examined in {diagnosis.seconds:.0f} s: {diagnosis.source}"
    sheet_parts = [html.embedded(sheet, "Cases with findings first, the slice with most foreground.")] if sheet else []
    sections = [
        ("summary", "Summary", _summary(diagnosis)),
        ("findings", "Findings", _findings(diagnosis)),
        ("plan", "What ingest will do", _plan(diagnosis)),
        ("sheet", "Contact sheet", sheet_parts),
        ("structures", "Structures", _structures(diagnosis)),
        ("values", "Values", _values(diagnosis)),
        ("geometry", "Sizes and grids", _tallies(diagnosis)),
        ("cases", "Cases", _cases(diagnosis)),
    ]
    return html.document(f"segray doctor: {name}", looked, sections)


def _summary(diagnosis: Diagnosis) -> list[Markup]:
    found = counts(diagnosis.findings)
    labelled = sum(report.labels is not None for report in diagnosis.reports)
    pairs: list[tuple[str, Cell]] = [
        ("cases", len(diagnosis.reports)),
        ("with usable labels", labelled),
        ("format", diagnosis.format),
        ("structures", len(diagnosis.structures)),
        *((f"{grade}s", found[grade]) for grade in GRADES),
    ]
    bad = "bad" if found["error"] else ""
    return [html.paragraph(verdict(diagnosis), bad), html.facts(pairs), html.bullets(diagnosis.notes)]


def _graded(grade: str) -> Markup:
    return Markup(f'<strong style="color:{GRADE_COLOURS[grade]}">{escape(grade)}</strong>')


def _findings(diagnosis: Diagnosis) -> list[Markup]:
    found = [_finding(group) for group in grouped(diagnosis.findings)]
    return found or [html.paragraph("None.", "soft")]


def _finding(group: FindingGroup) -> Markup:
    """A paragraph and not the row of a table: sentences in columns cannot be read on a phone."""
    more = len(group.sentences) - MOST_SENTENCES
    text = " ".join(group.sentences[:MOST_SENTENCES]) + (f" And {more} more like it." if more > 0 else "")
    count = f", {len(group.cases)} case{'s' * (len(group.cases) != 1)}" if group.cases else ""
    mend = f"<br><em>{escape(group.mend)}</em>" if group.mend else ""
    named = f'<br><span class="soft">{escape(group.named)}</span>' if group.cases else ""
    return Markup(f"<p>{_graded(group.grade).html} {escape(group.code + count)}<br>{escape(text)}{mend}{named}</p>")


def _plan(diagnosis: Diagnosis) -> list[Markup]:
    found = plan_facts(diagnosis)
    if not found:
        return [html.paragraph("There is nothing that it could take.", "soft")]
    return [html.table(["what", "how much"], [[name, value] for name, value in found])]


def _structures(diagnosis: Diagnosis) -> list[Markup]:
    rows: list[list[Cell]] = [
        [row.name, row.cases, row.empty, row.unmasked, row.median_ml, row.low_ml, row.high_ml]
        for row in diagnosis.structures[:MOST_ROWS]
    ]
    head = ["structure", "cases", "empty", "no file", "median ml", "least", "most"]
    return [html.table(head, rows)] if rows else []


def _values(diagnosis: Diagnosis) -> list[Markup]:
    found = [
        html.embedded(png_bytes(histogram(kind, bins)), f"Values of the kind {kind}, all voxels of its cases.")
        for kind, bins in diagnosis.histograms().items()
        if kind != "constant"
    ]
    return [html.pictures(found, pairs=True)] if found else []


def histogram(kind: str, bins: Mapping[int, int]) -> Figure:
    """The values of all voxels, from their 0.05 to their 99.95 percentile, on a logarithmic scale."""
    low, high = usual_range(bins)
    heights = rebinned(bins, low, high, BARS)
    figure = new_figure(WIDTH, 2.4)
    axes = figure.subplots()
    edges = np.linspace(low, high, BARS + 1)
    axes.bar(edges[:-1], heights, width=np.diff(edges), align="edge", color=ACCENT)
    axes.set_yscale("log")
    tidy(axes, title=f"Values ({kind})", x="HU" if kind == "HU" else "value", y="voxels")
    return figure


def _tallies(diagnosis: Diagnosis) -> list[Markup]:
    rows: list[list[Cell]] = []
    for name, found in diagnosis.tallies().items():
        shown = [f"{value} ({count})" for value, count in list(found.items())[:TALLIED]]
        more = f" and {len(found) - TALLIED} more" if len(found) > TALLIED else ""
        rows.append([name, len(found), ", ".join(shown) + more])
    return [html.table(["what", "different", "how many cases have it"], rows)] if diagnosis.readable else []


def _cases(diagnosis: Diagnosis) -> list[Markup]:
    rows = [_case_row(diagnosis, report) for report in diagnosis.reports[:MOST_ROWS]]
    head = ["case", "patient", "split", "size (z, y, x)", "spacing (mm)", "axes", "values", "from", "to", "labels (ml)"]
    parts = [html.table(head, rows)]
    if len(diagnosis.reports) > MOST_ROWS:
        parts.append(html.paragraph(f"And {len(diagnosis.reports) - MOST_ROWS} more: doctor.json holds all.", "soft"))
    return parts


def _case_row(diagnosis: Diagnosis, report: CaseReport) -> list[Cell]:
    split = diagnosis.split.get(report.case_id, "not used")
    if report.problem:
        return [report.case_id, report.patient, split, *([None] * 7)]
    facts = report.labels
    ml = None if facts is None else float(sum(facts.voxels.values()) * report.voxel_ml)
    return [
        report.case_id,
        report.patient,
        split,
        "x".join(str(one) for one in report.shape),
        " x ".join(f"{one:.3g}" for one in report.spacing),
        report.orientation,
        report.meaning,
        f"{report.intensities[0].low:g}",
        f"{report.intensities[0].high:g}",
        ml,
    ]
