"""The page of a sweep: its answer, its plots and all its trials in one HTML file, the plots beside it as PNG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from segray import storage
from segray.report import html
from segray.report.html import Cell, Markup
from segray.report.sortable import Column, Figured, SortableCell, sortable_table
from segray.report.sweep_axes import shown_parameters
from segray.report.sweep_plots import importances_are_known, write_plots
from segray.tuning.answer import FEWEST_TRIALS
from segray.tuning.ranking import (
    OUTCOMES,
    best_of,
    outcome,
    reached,
    trained_epochs,
    trial_seconds,
    value_of,
)
from segray.tuning.records import Objective, TrialRecord
from segray.tuning.words import number_text, objective_words, setting_text, shortened, value_text

MOST_ROWS = 1000
"""Rows of the table of trials, best first."""

_TALL = ("parallel", "slices")
"""Plots that stand side by side, since beside a lower one half of the page would be empty."""

_FEW = f"Importances are not shown: fewer than {FEWEST_TRIALS} trials have finished, so that they would be chance."
_LETTERS = 48
_REASON_LETTERS, _REST_LETTERS = 300, 2000


def write_sweep_page(
    folder: Path,
    title: str,
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    importances: Mapping[str, float],
    answer: str,
) -> Path:
    """Draw the plots of a sweep into ``folder/plots`` and write ``folder/index.html``; returns the path of the page.

    Args:
        folder: of the page; made where it is not there. The page holds its pictures and can be moved alone.
        title: of the page, any text.
        records: all trials, in any state; there may be none.
        objectives: at least one; the plots show the first.
        importances: parameter to its share (0..1) of the variation of the first objective; may be empty.
        answer: the paragraph on top, any text.

    Raises:
        SegrayError: a file cannot be written.
    """
    records = sorted(records, key=lambda record: record.number)
    drawn = write_plots(folder / "plots", records, objectives, importances)
    low = [html.embedded(png, plot.alt, plot.reading) for plot, png in drawn if plot.name not in _TALL]
    tall = [html.embedded(png, plot.alt, plot.reading) for plot, png in drawn if plot.name in _TALL]
    few = [] if importances_are_known(records, objectives) else [html.paragraph(_FEW, "soft")]
    sections = [
        ("answer", "Answer", _answer(records, objectives, answer)),
        ("plots", "Plots", [*(html.pictures(some, pairs=True) for some in (low, tall) if some), *few]),
        ("trials", "Trials", _trials(records, objectives, importances)),
    ]
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    path = folder / "index.html"
    page = html.document(title, f"Written {written}", sections)
    # half a surrogate pair, as names of files may hold, cannot be written as UTF-8
    storage.write_bytes(str(path), page.encode("utf-8", "replace"))
    return path


def _answer(records: Sequence[TrialRecord], objectives: Sequence[Objective], answer: str) -> list[Markup]:
    counts = Counter(outcome(record) for record in records)
    pairs: list[tuple[str, Cell]] = [("trials", len(records))]
    pairs += [(name, counts[name]) for name in OUTCOMES if counts[name]]
    for at, objective in enumerate(objectives):
        best = best_of(records, objectives, at)
        if best is not None:
            told = value_text(value_of(best, at), objective)
            pairs.append((f"best {objective_words(objective)}, trial {best.number}", told))
    return [html.paragraph(answer), html.facts(pairs)]


def _trials(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], importances: Mapping[str, float]
) -> list[Markup]:
    if not records:
        return []
    names, known = shown_parameters(records, importances)
    columns = [Column("trial"), Column("state")]
    columns += [Column(one.name, "descending" if one.maximise else "ascending") for one in objectives]
    columns += [Column(shortened(name, _LETTERS)) for name in names]
    columns += [Column("other parameters")] if known > len(names) else []
    columns += [Column("epochs"), Column("minutes"), Column("host"), Column("reason")]
    ordered = _best_first(records, objectives[0])[:MOST_ROWS]
    rows = [_row(record, objectives, names, known > len(names)) for record in ordered]
    hint = "Best first; a click on a head sorts by it. A pruned trial shows the value at which it was ended."
    parts = [html.paragraph(hint, "soft"), sortable_table(columns, rows)]
    if len(records) > MOST_ROWS:
        parts.append(html.paragraph(f"And {len(records) - MOST_ROWS} more, which did worse.", "soft"))
    return parts


def _best_first(records: Sequence[TrialRecord], objective: Objective) -> list[TrialRecord]:
    """Finished trials by value, then pruned ones by where they stopped, then the others by number."""
    sign = -1.0 if objective.maximise else 1.0

    def place(record: TrialRecord) -> tuple[int, float, int]:
        value = value_of(record) if record.state == "finished" else reached(record)
        if not math.isfinite(value) or record.infeasible:
            return 2, 0.0, record.number
        return {"finished": 0, "pruned": 1}.get(record.state, 2), sign * value, record.number

    return sorted(records, key=place)


def _row(
    record: TrialRecord, objectives: Sequence[Objective], names: Sequence[str], has_more: bool
) -> list[SortableCell]:
    minutes, epochs = trial_seconds(record) / 60, trained_epochs(record)
    row: list[SortableCell] = [record.number, outcome(record)]
    row += [_value(record, at, objective) for at, objective in enumerate(objectives)]
    row += [_setting(record.params[name]) if name in record.params else None for name in names]
    if has_more:
        rest = [f"{name}={setting_text(value)}" for name, value in record.params.items() if name not in names]
        row.append(shortened(", ".join(rest), _REST_LETTERS))
    row += [epochs or None, Figured(minutes, f"{minutes:.1f}") if math.isfinite(minutes) else None]
    reason = shortened(record.reason, _REASON_LETTERS)
    return [*row, shortened(record.host, _LETTERS), reason]


def _value(record: TrialRecord, at: int, objective: Objective) -> SortableCell:
    """Of a pruned trial the last of its curve, for it has no other."""
    value = value_of(record, at)
    if at == 0 and not math.isfinite(value) and record.state == "pruned":
        value = reached(record)
    if math.isfinite(value):
        return Figured(value, value_text(value, objective))
    return Figured(value, number_text(value)) if record.values is not None and len(record.values) > at else None


def _setting(value: object) -> SortableCell:
    text = shortened(setting_text(value), _LETTERS)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Figured(float(value), text)
    return text
