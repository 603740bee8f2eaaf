"""What the parameters of a sweep did: importances, parallel axes, and a slice each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segray.report.sweep_axes import (
    MOST_PARAMETERS,
    QUALITY,
    ParamAxis,
    param_axis,
    qualities,
    shown_note,
    shown_parameters,
    value_limits,
)
from segray.report.sweep_curves import axis_name
from segray.report.theme import (
    ACCENT,
    FAINT,
    INK,
    SECOND,
    WIDTH,
    list_structures,
    listing_height,
    new_figure,
    plain,
    tidy,
)
from segray.tuning.ranking import best_of, measured, value_of
from segray.tuning.records import Objective, TrialRecord
from segray.tuning.words import counted, objective_words, shortened, value_text

_ABSENT = 1.13
"""Where a line passes an axis of a parameter that was not drawn: right of the axis, which ends at 1."""

_STEPS = 12
_AXIS_INCHES, _PANEL_INCHES = 0.66, 1.5
_LETTERS = 46
_HALO: list[patheffects.AbstractPathEffect] = [patheffects.withStroke(linewidth=2.4, foreground="white")]


def importance_bars(importances: Mapping[str, float], objectives: Sequence[Objective]) -> Figure:
    """Bars of the share that each parameter has in the variation of the first objective, largest on top."""
    ranked = sorted(
        ((name, share) for name, share in importances.items() if math.isfinite(share)), key=lambda pair: -pair[1]
    )
    shown = ranked[:MOST_PARAMETERS]
    figure = new_figure(WIDTH, listing_height(len(shown)))
    axes = figure.add_subplot()
    title = f"What the {objective_words(objectives[0])} depends on{shown_note(len(shown), len(ranked))}"
    tidy(axes, title=plain(shortened(title, 66)), x="share of the variation (%)", grid="x")
    shares = [100 * share for _, share in shown]
    axes.barh(range(len(shown)), shares, height=0.66, color=ACCENT, alpha=0.9)
    for row, share in enumerate(shares):
        axes.text(share, row, f" {share:.0f} %", fontsize=7, va="center", color=INK)
    list_structures(axes, [shortened(name, 32) for name, _ in shown])
    axes.set_xlim(0, max(1.18 * max(shares, default=0.0), 1.0))
    return figure


def parallel_axes(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], importances: Mapping[str, float]
) -> Figure:
    """A line a finished trial through an axis a parameter, from top to bottom, where it ends at the objective.

    Dark lines are good trials, the thick one is the best. Lines pass right of an axis where the parameter was not
    drawn. The axes lie, instead of standing, so that long names can be read on a phone.
    """
    objective, found = objectives[0], measured(records, objectives)
    names, known = shown_parameters(records, importances)
    lying = [param_axis(name, records) for name in names]
    figure = new_figure(WIDTH, 0.9 + _AXIS_INCHES * (len(lying) + 1))
    axes = figure.add_subplot()
    title = f"Parameters of {counted(len(found), 'finished trial')}{shown_note(len(names), known)}"
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_axis_off()
    axes.set_xlim(-0.03, 1.28)
    axes.set_ylim(len(lying) + 0.55, -0.45)
    limits = value_limits([value_of(record) for record in found], objective)
    for row, axis in enumerate(lying):
        some_absent = any(math.isnan(axis.place(record.params)) for record in found)
        _lying_axis(axes, row, axis, some_absent)
    _objective_axis(axes, len(lying), objective, limits)
    if found:
        _trial_lines(axes, found, lying, objective, best_of(records, objectives))
    return figure


def _lying_axis(axes: Axes, row: int, axis: ParamAxis, some_absent: bool) -> None:
    axes.plot([0, 1], [row, row], color=FAINT, linewidth=1.2, zorder=3, solid_capstyle="butt")
    _name_row(axes, row, plain(shortened(axis.name, _LETTERS)))
    letters = max(4, round(62 / max(len(axis.categories), 1)))
    ticks = axis.ticks(6, min(letters, 26))
    if some_absent:
        ticks = [*ticks, (_ABSENT, "not drawn")]
    for place, text in ticks:
        axes.plot([place, place], [row - 0.05, row + 0.05], color=INK, linewidth=0.8, zorder=3)
        _tick_text(axes, place, row, text)


def _name_row(axes: Axes, row: int, text: str) -> None:
    label = axes.text(-0.02, row - 0.1, text, fontsize=8, fontweight="bold", color=INK, va="bottom", zorder=6)
    label.set_path_effects(_HALO)


def _tick_text(axes: Axes, place: float, row: float, text: str) -> None:
    side = "left" if place < 0.02 else "right" if 0.98 < place <= 1 else "center"
    label = axes.text(place, row + 0.1, text, fontsize=7, color=INK, ha=side, va="top", zorder=6)
    label.set_path_effects(_HALO)


def _objective_axis(axes: Axes, row: int, objective: Objective, limits: tuple[float, float]) -> None:
    """The last axis, in the colours of the lines, which needs no colour bar beside it."""
    axis = ParamAxis(objective.name, "linear", *limits)
    edges = np.linspace(0, 1, 65)
    # each piece reaches below the next, or the page would shine through between them
    pieces = [[(start, row), (min(end + 0.01, 1.0), row)] for start, end in pairwise(edges)]
    shades = np.linspace(0, 1, 64) if objective.maximise else np.linspace(1, 0, 64)
    strip = LineCollection(pieces, colors=QUALITY(shades), linewidths=5, zorder=3, capstyle="butt")
    axes.add_collection(strip)
    _name_row(axes, row, axis_name(objective).replace("\n", " "))
    for place, text in axis.ticks(6, 12):
        _tick_text(axes, place, row + 0.03, text)


def _trial_lines(
    axes: Axes,
    found: Sequence[TrialRecord],
    lying: Sequence[ParamAxis],
    objective: Objective,
    best: TrialRecord | None,
) -> None:
    values = [value_of(record) for record in found]
    low, high = value_limits(values, objective)
    stops = [np.nan_to_num(axis.places(found), nan=_ABSENT) for axis in lying]
    stops.append(np.clip((np.array(values) - low) / (high - low), 0.0, 1.0))
    quality = qualities(values, objective)
    order = np.argsort(quality, kind="stable")
    paths = bent_lines(np.stack(stops, axis=1))
    alpha = float(np.clip(40 / len(found), 0.1, 0.9))
    axes.add_collection(
        LineCollection(list(paths[order]), colors=QUALITY(quality[order]), alpha=alpha, linewidths=1.0, zorder=2)
    )
    for record, path in zip(found, paths, strict=True):
        if record is best:
            told = f"best: trial {record.number}, {value_text(value_of(record), objective)}"
            axes.plot(*path.T, color=SECOND, linewidth=2.6, zorder=4, label=told)
            axes.legend(fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1.0, -0.03))


def bent_lines(stops: np.ndarray) -> np.ndarray:
    """Lines through ``stops`` (trials, rows) that pass each row straight down: (trials, points, 2) of (x, row)."""
    trials, rows = stops.shape
    if rows == 1:
        return np.stack([stops, np.zeros_like(stops)], axis=2)
    share = np.linspace(0, 1, _STEPS, endpoint=False)
    bend = share * share * (3 - 2 * share)
    across = stops[:, :-1, None] + (stops[:, 1:] - stops[:, :-1])[:, :, None] * bend
    down = np.broadcast_to(np.arange(rows - 1)[:, None] + share, across.shape)
    points = np.stack([across.reshape(trials, -1), down.reshape(trials, -1)], axis=2)
    last = np.stack([stops[:, -1:], np.full((trials, 1), rows - 1.0)], axis=2)
    return np.concatenate([points, last], axis=1)


def slices(records: Sequence[TrialRecord], objectives: Sequence[Objective], importances: Mapping[str, float]) -> Figure:
    """A panel a parameter: its value against the first objective, a dot a finished trial, later ones darker."""
    objective, found = objectives[0], measured(records, objectives)
    names, known = shown_parameters(records, importances)
    rows = max(1, math.ceil(len(names) / 2))
    figure = new_figure(WIDTH, 0.9 + _PANEL_INCHES * rows)
    words = objective_words(objective)
    title = f"{words[:1].upper()}{words[1:]} by each parameter{shown_note(len(names), known)}"
    figure.suptitle(plain(shortened(title, 66)), fontsize=10, color=INK, x=0.01, ha="left")
    panels = figure.subplots(rows, 2, sharey=True, squeeze=False).ravel()
    limits = value_limits([value_of(record) for record in found], objective)
    last = max((record.number for record in records), default=1)
    shades = ScalarMappable(Normalize(0, max(last, 1)), QUALITY)
    best = best_of(records, objectives)
    for panel, name in zip(panels, names, strict=False):
        _slice(panel, param_axis(name, records), found, limits, shades, best)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    panels[0].set_ylim(*limits)
    bar = figure.colorbar(
        shades, ax=list(panels), location="bottom", shrink=0.5, aspect=36, pad=0.01, ticks=MaxNLocator(integer=True)
    )
    bar.set_label("trial", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)
    return figure


def _slice(
    panel: Axes,
    axis: ParamAxis,
    found: Sequence[TrialRecord],
    limits: tuple[float, float],
    shades: ScalarMappable,
    best: TrialRecord | None,
) -> None:
    drawn = [record for record in found if math.isfinite(axis.place(record.params))]
    tidy(panel, grid="both")
    panel.set_title(plain(shortened(axis.name, 32)), fontsize=8, color=INK, loc="left")
    at = axis.places(drawn)
    values = np.clip([value_of(record) for record in drawn], *limits)
    size = 20 if len(found) <= 200 else 8
    colours = shades.to_rgba(np.array([record.number for record in drawn], dtype=np.float64))
    panel.scatter(at, values, s=size, c=colours, linewidths=0, zorder=3, clip_on=False)
    for place, value, record in zip(at, values, drawn, strict=True):
        if record is best:
            panel.scatter(
                [place], [value], s=44, facecolors="none", edgecolors=SECOND, linewidths=1.8, zorder=4, clip_on=False
            )
    ticks = axis.ticks(4, max(10, round(36 / max(len(axis.categories), 1))))
    long = axis.kind == "category" and max(len(text) for _, text in ticks) * len(ticks) > 40
    panel.set_xticks([place for place, _ in ticks], [text for _, text in ticks])
    if long:
        for label in panel.get_xticklabels():
            label.set(rotation=24, ha="right", rotation_mode="anchor")
    panel.set_xlim(-0.04, 1.04)
    panel.tick_params(labelsize=7)
    if len(drawn) < len(found):
        absent = f"not drawn in {len(found) - len(drawn)}"
        panel.text(1.0, 1.0, absent, transform=panel.transAxes, fontsize=6.5, color="#777777", ha="right", va="bottom")
