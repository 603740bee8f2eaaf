"""The few HTML elements of the page; every text that comes in is escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

STYLE = """
:root { color-scheme: light dark; --ink: #1d232b; --soft: #5b6673; --line: #dfe3e8; --page: #f6f7f9; --card: #fff;
  --link: #2a5fa5; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #313943; --page: #14181d;
  --card: #1c2229; --link: #8ab4f8; --bad: #f2958d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 16px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: .2em 0; } h2 { font-size: 1.15rem; margin: 0 0 .6em; }
h1, h2, td, th, p, li, figcaption { overflow-wrap: anywhere; }
a { color: var(--link); } .soft { color: var(--soft); font-size: .9rem; } .bad { color: var(--bad); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px; margin: 16px 0; }
nav { display: flex; flex-wrap: wrap; gap: 4px 14px; font-size: .9rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 10px; margin: 0 0 12px; }
.facts div { border: 1px solid var(--line); border-radius: 8px; padding: 8px 10px; }
.facts dt { color: var(--soft); font-size: .8rem; } .facts dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
.scroll { overflow-x: auto; max-height: 70vh; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: 4px 10px 4px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 4px 0; cursor: pointer; }
th[aria-sort] button { color: var(--link); } th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
th { position: sticky; top: 0; background: var(--card); white-space: nowrap; } td.text { min-width: 9em; }
td.long { min-width: 24em; } td.word { white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.plots + .plots { margin-top: 14px; }
.plots { display: grid; grid-template-columns: 1fr; gap: 14px; }
@media (min-width: 860px) { .plots.pairs { grid-template-columns: 1fr 1fr; } }
figure { margin: 0; } figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: #fff; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: 4px; }
details summary { cursor: pointer; } pre { overflow-x: auto; font-size: .8rem; }
"""


NOTHING = "-"
"""Shown for a number that is missing."""


@dataclass(frozen=True)
class Markup:
    """HTML that is safe already: made by this module, never from a file."""

    html: str


Cell = str | int | float | Markup | None


def link(text: str, target: str) -> Markup:
    """A link to a relative path or a URI."""
    return Markup(f'<a href="{address(target)}">{escape(text)}</a>')


def address(target: str) -> str:
    """A path or URI quoted for an attribute; no scheme but http, https, s3, gs and file remains one."""
    scheme, colon, rest = target.partition("://")
    if colon and scheme in ("http", "https", "s3", "gs", "file"):
        return escape(f"{scheme}://{quote(rest)}")
    return escape(quote(target))


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Markup:
    """A table that scrolls sideways on its own; a column is right-aligned where its first number stands."""
    body = [list(row) for row in rows]
    numeric = [any(isinstance(row[at], (int, float)) for row in body) for at in range(len(head))]
    kinds = ["number" if is_number else "text" for is_number in numeric]
    top = "".join(f'<th class="{kind}">{escape(name)}</th>' for kind, name in zip(kinds, head, strict=True))
    lines = [
        "<tr>" + "".join(f'<td class="{k}">{_cell(cell)}</td>' for k, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in body
    ]
    return Markup(
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def facts(pairs: Iterable[tuple[str, Cell]]) -> Markup:
    """Names with large values, side by side."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{_cell(value)}</dd></div>" for name, value in pairs)
    return Markup(f'<dl class="facts">{items}</dl>')


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph; ``kind`` is soft, bad or empty."""
    return Markup(f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>")


def bullets(items: Iterable[str]) -> Markup:
    """A list of texts."""
    return Markup("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>")


def picture(path: str, alt: str) -> Markup:
    """An image by its relative path, with a text for those who do not see it; a tap opens it alone."""
    where = address(path)
    image = f'<a href="{where}"><img src="{where}" alt="{escape(alt)}" loading="lazy"></a>'
    return Markup(f"<figure>{image}<figcaption>{escape(alt)}</figcaption></figure>")


def embedded(png: bytes, alt: str, caption: str | None = None) -> Markup:
    """A PNG inside the page; ``caption`` stands below it, by default what ``alt`` says."""
    data = base64.b64encode(png).decode("ascii")
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
    return Markup(f"<figure>{image}<figcaption>{escape(alt if caption is None else caption)}</figcaption></figure>")


def pictures(found: Sequence[Markup], *, pairs: bool = False) -> Markup:
    """Pictures below each other; two a row on a wide screen where ``pairs``."""
    kind = "plots pairs" if pairs else "plots"
    return Markup(f'<div class="{kind}">{"".join(one.html for one in found)}</div>')


def folded(summary: str, text: str) -> Markup:
    """Preformatted text behind a line that opens it."""
    return Markup(f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>")


def section(name: str, title: str, parts: Sequence[Markup]) -> Markup:
    """A section with a heading, reachable as ``#name``."""
    return Markup(
        f'<section id="{escape(name)}"><h2>{escape(title)}</h2>{"".join(one.html for one in parts)}</section>'
    )


def document(title: str, subtitle: str, sections: Sequence[tuple[str, str, Sequence[Markup]]], style: str = "") -> str:
    """The whole page of (name, title, parts) sections; sections without parts are left out.

    ``style`` is a style sheet of this page alone, below that of all.
    """
    kept = [(name, heading, parts) for name, heading, parts in sections if parts]
    menu = "".join(f'<a href="#{escape(name)}">{escape(heading)}</a>' for name, heading, _ in kept)
    body = "".join(section(name, heading, parts).html for name, heading, parts in kept)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n"
        f'<body><header><h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p><nav>{menu}</nav></header>\n'
        f"<main>{body}</main></body></html>\n"
    )


def _cell(value: Cell) -> str:
    if isinstance(value, Markup):
        return value.html
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return escape(str(value))
