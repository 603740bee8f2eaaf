"""The page of the cases that a person should look at first: why each is there, and its preview."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import PurePosixPath
from typing import Any

from segray import storage
from segray.evaluation.tables import read_csv_rows
from segray.report import html
from segray.report.html import Cell, Markup
from segray.report.png import png_size
from segray.report.sortable import Column, Figured, Shown, SortableCell, sortable_table

REVIEW_TABLE, REVIEW_PAGE, PREVIEWS = "review.csv", "review.html", "previews"
"""What the page is made from, its name, and the folder of ``<case id>.png`` beside both."""

MOST_CASES = 100
"""Cases on the page; the CSV beside it has all."""

_COLUMNS = (
    Column("rank"),
    Column("case"),
    Column("score", "descending"),
    Column("structure"),
    Column("reasons"),
    Column("preview", sorts=False),
)

_STYLE = """
.scroll.review { max-height: none; overflow: visible; }
table.review, .review thead, .review tbody { display: block; }
.review tr { display: flex; flex-wrap: wrap; gap: 2px 18px; align-items: baseline; }
.review thead tr::before { content: "Sort by"; color: var(--soft); }
.review th, .review td { position: static; border: 0; padding: 0; min-width: 0; text-align: left; white-space: normal; }
.review th:empty { display: none; } .review thead tr { margin-bottom: 10px; }
.review tbody tr { border-top: 1px solid var(--line); padding: 14px 0 18px; }
.review td:nth-child(1)::before { content: "#"; } .review td:nth-child(1) { color: var(--soft); }
.review td:nth-child(2) { font-weight: 600; }
.review td:nth-child(3)::before { content: "score "; color: var(--soft); }
.review td:nth-child(5), .review td:nth-child(6) { flex-basis: 100%; }
.review img { display: block; width: 100%; height: auto; margin-top: 8px; border-radius: 6px; background: #12161c; }
"""


def write_review_page(folder: str, rows: Sequence[Mapping[str, Any]] | None = None, *, most: int = MOST_CASES) -> str:
    """Write ``<folder>/review.html``; returns its path. It needs no network, and the folder can be moved.

    Args:
        folder: a prediction folder; pictures are those of ``previews/<case id>.png`` that are there.
        rows: the ranked list with ``rank``, ``case_id``, ``status``, ``score``, ``structure`` and ``reasons``, values
            or texts, any of which may be missing; by default those of ``review.csv``.
        most: cases with masks on the page, and failed cases, which have a list of their own.

    Raises SegrayError where a file cannot be read or written.
    """
    if rows is None:
        rows = read_csv_rows(storage.join(folder, REVIEW_TABLE))
    name = PurePosixPath(storage.absolute(folder)).name
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = html.document(f"segray review: {name}", f"Written {written}", _sections(folder, rows, most), _STYLE)
    path = storage.join(folder, REVIEW_PAGE)
    # half a surrogate pair, as names of files may hold, cannot be written as UTF-8
    storage.write_bytes(path, page.encode("utf-8", "replace"))
    return path


def _sections(folder: str, rows: Sequence[Mapping[str, Any]], most: int) -> list[tuple[str, str, list[Markup]]]:
    failed = [row for row in rows if row.get("status") == "failed"]
    shown = [row for row in rows if row.get("status") != "failed"][:most]
    pictures = set(storage.names(storage.join(folder, PREVIEWS), ".png"))
    counted: list[tuple[str, Cell]] = [("cases in the list", len(rows)), ("shown here", len(shown))]
    counted += [("failed", len(failed))] if failed else []
    about = [html.facts(counted)]
    beside = {"All of them": REVIEW_TABLE, "The report": "index.html"}
    links = [
        f"{what}: {html.link(name, name).html}"
        for what, name in beside.items()
        if storage.exists(storage.join(folder, name))
    ]
    if links:
        about.append(Markup(f'<p class="soft">{". ".join(links)}</p>'))
    if not shown:
        about.append(html.paragraph("No case has a mask." if failed else "No case needs a look.", "soft"))
    sections = [("about", "Review", about)]
    for name, title, some in (
        ("cases", "Cases, the most doubtful first", shown),
        ("failed", f"Failed cases, which have no mask ({len(failed)})", failed[:most]),
    ):
        if some:
            table = sortable_table(_COLUMNS, [_row(folder, row, pictures) for row in some], "review")
            sections.append((name, title, [table]))
    return sections


def _row(folder: str, row: Mapping[str, Any], pictures: set[str]) -> list[SortableCell]:
    case_id = _text(row.get("case_id"))
    cells = [_number(row.get("rank"), "{:.0f}"), case_id, _number(row.get("score"), "{:.3f}")]
    cells += [_text(row.get("structure")), _text(row.get("reasons"))]
    picture = f"{case_id}.png"
    return [*cells, Shown(_preview(folder, picture, case_id) if picture in pictures else Markup(""))]


def _preview(folder: str, picture: str, case_id: str) -> Markup:
    """The picture with its size, without which a browser would load those far below at once."""
    where = html.address(f"{PREVIEWS}/{picture}")
    size = png_size(storage.read_head(storage.join(folder, PREVIEWS, picture), 24))
    sides = f' width="{size[0]}" height="{size[1]}"' if size else ""
    image = f'<img src="{where}" alt="{escape(f"Preview of {case_id}")}" loading="lazy"{sides}>'
    return Markup(f'<a href="{where}">{image}</a>')


def _number(value: Any, shown: str) -> SortableCell:
    """A number with its text; what is none is shown as it stands."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _text(value) or None
    return Figured(number, shown.format(number)) if math.isfinite(number) else None


def _text(value: Any) -> str:
    return "" if value is None else str(value)
