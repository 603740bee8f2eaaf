"""A table whose columns sort by a click on their heads, without any library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from segray.report.html import NOTHING, Markup

_SCRIPT = """
document.querySelectorAll('table.sortable').forEach(table => {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = (row, at) => row.cells[at].dataset.key ?? row.cells[at].textContent;
  heads.forEach((head, at) => head.firstElementChild?.addEventListener('click', () => {
    const before = head.getAttribute('aria-sort');
    const down = before ? before === 'ascending' : head.dataset.first === 'descending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const number = head.classList.contains('number'), sign = down ? -1 : 1;
    const rows = [...body.rows].map(row => [key(row, at), row]);
    rows.sort(([a], [b]) => {
      if (a === '' || b === '') return (a === '') - (b === '');
      return sign * (number ? a - b : a.localeCompare(b, undefined, {numeric: true}));
    });
    body.append(...rows.map(([, row]) => row));
  }));
});
"""


@dataclass(frozen=True)
class Column:
    """A column of a sortable table.

    Attributes:
        name: its head.
        first: the order after the first click.
        sorts: a click on its head sorts; else it has no head.
    """

    name: str
    first: Literal["ascending", "descending"] = "ascending"
    sorts: bool = True


@dataclass(frozen=True)
class Figured:
    """A number with the text that is shown for it."""

    value: float
    text: str


@dataclass(frozen=True)
class Shown:
    """Markup in a cell, such as a link or a picture, and the text that it sorts by."""

    markup: Markup
    key: str = ""


_WORD, _TEXT = 20, 60
"""Letters of the longest cell of a column that is not broken into lines, and of one that may be narrow."""

SortableCell = str | int | Figured | Shown | None


def sortable_table(columns: Sequence[Column], rows: Iterable[Sequence[SortableCell]], look: str = "") -> Markup:
    """A table of which a click on a head sorts the rows; what is missing or no number stays at the end.

    A column whose cells are all numbers sorts by size and is right-aligned, any other sorts as text. ``look`` is a
    class of the page's style sheet.
    """
    body = [list(row) for row in rows]
    kinds = [_kind([row[at] for row in body]) for at in range(len(columns))]
    top = "".join(map(_head, kinds, columns))
    lines = ["<tr>" + "".join(map(_cell, kinds, row)) + "</tr>" for row in body]
    more = f" {escape(look)}" if look else ""
    return Markup(
        f'<div class="scroll{more}"><table class="sortable{more}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div><script>{_SCRIPT}</script>"
    )


def _head(kind: str, column: Column) -> str:
    button = f'<button type="button">{escape(column.name)}</button>' if column.sorts else ""
    return f'<th class="{kind}" data-first="{column.first}">{button}</th>'


def _kind(cells: Sequence[SortableCell]) -> Literal["number", "word", "text", "long"]:
    """What the style sheet and the script tell columns apart by."""
    texts = [cell for cell in cells if isinstance(cell, (str, Shown))]
    if not texts and any(cell is not None for cell in cells):
        return "number"
    longest = max(map(_shown_letters, cells), default=0)
    return "word" if longest <= _WORD else "text" if longest <= _TEXT else "long"


def _shown_letters(cell: SortableCell) -> int:
    if isinstance(cell, Shown):
        return len(cell.key)
    return len(cell.text if isinstance(cell, Figured) else str(cell))


def _cell(kind: str, cell: SortableCell) -> str:
    if cell is None or cell == "":
        return f'<td class="{kind}" data-key="">{NOTHING}</td>'
    if isinstance(cell, Shown):
        return f'<td class="{kind}" data-key="{escape(cell.key)}">{cell.markup.html}</td>'
    if isinstance(cell, Figured):
        key = repr(float(cell.value)) if math.isfinite(cell.value) else ""
        return f'<td class="{kind}" data-key="{key}">{escape(cell.text)}</td>'
    return f'<td class="{kind}">{escape(str(cell))}</td>'
