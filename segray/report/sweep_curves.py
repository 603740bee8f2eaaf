"""A sweep over time: the value of each trial, and the learning curves of all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segray.report.sweep_axes import OUTCOME_COLOURS, value_limits
from segray.report.theme import ACCENT, FAINT, INK, SECOND, WIDTH, new_figure, plain, tidy
from segray.tuning.ranking import Outcome, best_of, better, measured, outcome, reached, value_of
from segray.tuning.records import Objective, TrialRecord
from segray.tuning.words import objective_words, shortened, value_text

_HEIGHT = 3.4
_FEW = 5
_BELOW = 0.12
"""Share of the value axis below the values that is kept for trials without any."""


def optimisation_history(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> Figure:
    """The first objective of each trial by its number, the best so far as a step line.

    Finished trials are dots, pruned ones pale dots where they stopped, those without a value crosses at the bottom.
    Values far off on the bad side are triangles at the edge.
    """
    objective, found = objectives[0], measured(records, objectives)
    figure = new_figure(WIDTH, _HEIGHT)
    axes = figure.add_subplot()
    best = best_of(records, objectives)
    told = "" if best is None else f": best {value_text(value_of(best), objective)} (trial {best.number})"
    tidy(axes, title=f"Value of each trial{told}", x="trial", y=axis_name(objective))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    pruned = [one for one in records if outcome(one) == "pruned" and math.isfinite(reached(one))]
    finished = [value_of(one) for one in found]
    low, high = value_limits(finished if len(finished) >= _FEW else [*finished, *map(reached, pruned)], objective)
    _dots(axes, pruned, (low, high), "pruned")
    _dots(axes, found, (low, high), "finished")
    _best_so_far(axes, found, objective)
    without = _crosses(axes, records, {one.number for one in [*found, *pruned]})
    last = max((record.number for record in records), default=0)
    axes.set_xlim(-0.5 - 0.02 * last, last + 0.5 + 0.02 * last)
    axes.set_ylim(low - (_BELOW * (high - low) if without else 0.0), high)
    _legend(axes)
    return figure


def axis_name(objective: Objective) -> str:
    """What stands at an axis of the objective: what it measures, and which way is better."""
    way = "higher is better" if objective.maximise else "lower is better"
    return plain(f"{shortened(objective_words(objective), 40)}\n({way})")


def _dots(axes: Axes, records: Sequence[TrialRecord], limits: tuple[float, float], kind: Outcome) -> None:
    """Dots within the limits, triangles at the edge beyond them."""
    numbers = np.array([record.number for record in records])
    values = np.array([reached(record) for record in records])
    size = 22 if len(records) <= 200 else 9
    colour, layer = OUTCOME_COLOURS[kind], 3 if kind == "finished" else 2
    inside = (values >= limits[0]) & (values <= limits[1])
    if len(records):
        axes.scatter(numbers[inside], values[inside], s=size, color=colour, linewidths=0, zorder=layer, label=kind)
    for beyond, edge, marker in ((values < limits[0], limits[0], "v"), (values > limits[1], limits[1], "^")):
        if beyond.any():
            at = np.full(int(beyond.sum()), edge)
            axes.scatter(
                numbers[beyond],
                at,
                s=size,
                color=colour,
                marker=marker,
                clip_on=False,
                zorder=layer,
                label="beyond the axis",
            )


def _best_so_far(axes: Axes, found: Sequence[TrialRecord], objective: Objective) -> None:
    ordered = sorted(found, key=lambda record: record.number)
    if not ordered:
        return
    so_far = best_so_far([value_of(record) for record in ordered], objective)
    numbers = [record.number for record in ordered]
    axes.plot(numbers, so_far, drawstyle="steps-post", color=INK, linewidth=1.4, zorder=4, label="best so far")
    at = max(index for index in range(len(so_far)) if index == 0 or better(so_far[index], so_far[index - 1], objective))
    axes.scatter([numbers[at]], [so_far[at]], s=46, facecolors="white", edgecolors=SECOND, linewidths=2.0, zorder=5)


def best_so_far(values: Sequence[float], objective: Objective) -> list[float]:
    """The best of the values up to each."""
    accumulate = np.maximum.accumulate if objective.maximise else np.minimum.accumulate
    return [float(value) for value in accumulate(np.asarray(values, dtype=np.float64))]


def _crosses(axes: Axes, records: Sequence[TrialRecord], valued: set[int]) -> bool:
    """Mark the ended trials without a value at the bottom; True where there are any."""
    without = [one for one in records if one.number not in valued and outcome(one) not in ("running", "waiting")]
    for memory, colour, label in ((False, SECOND, "failed, or no value"), (True, "#A08F1E", "out of memory")):
        numbers = [one.number for one in without if (outcome(one) == "out of memory") == memory]
        if numbers:
            low = [0.05] * len(numbers)
            axes.scatter(
                numbers, low, s=20, marker="x", color=colour, transform=axes.get_xaxis_transform(), label=label
            )
    return bool(without)


def learning_curves(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> Figure:
    """The first objective after each validation, a line a trial: pruned ones pale, the best bold."""
    objective, best = objectives[0], best_of(records, objectives)
    figure = new_figure(WIDTH, _HEIGHT)
    axes = figure.add_subplot()
    tidy(axes, title="Learning curves of all trials", x="epoch", y=axis_name(objective))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    ended = [one for one in records if outcome(one) == "finished"]
    others = [one for one in records if outcome(one) != "finished"]
    _lines(axes, others, OUTCOME_COLOURS["pruned"], "pruned, failed or running", layer=2)
    _lines(axes, ended, ACCENT, "finished", layer=3)
    if best is not None and best.curve:
        points = np.array(best.curve, dtype=np.float64)
        axes.plot(*points.T, color=SECOND, linewidth=2.4, zorder=4, marker="o", markersize=3, label="best")
    values = [value for one in records for _, value in one.curve]
    if any(math.isfinite(value) for value in values):
        axes.set_ylim(_curve_limits(values, objective))
    _legend(axes)
    return figure


def _lines(axes: Axes, records: Sequence[TrialRecord], colour: str, label: str, layer: int) -> None:
    curves = [_finite(np.array(one.curve, dtype=np.float64)) for one in records if one.curve]
    if not curves:
        return
    alpha = float(np.clip(40 / len(curves), 0.12, 0.7))
    axes.add_collection(LineCollection(curves, colors=colour, alpha=alpha, linewidths=0.9, zorder=layer, label=label))
    # of one point no line can be drawn
    single = np.concatenate([curve for curve in curves if len(curve) == 1] or [np.empty((0, 2))])
    axes.scatter(single[:, 0], single[:, 1], s=8, color=colour, alpha=alpha, linewidths=0, zorder=layer)
    axes.autoscale_view()


def _finite(points: np.ndarray) -> np.ndarray:
    """Points (n, 2) with NaN for what is infinite, which breaks the line instead of the plot."""
    return np.where(np.isfinite(points), points, np.nan)


def _curve_limits(values: Sequence[float], objective: Objective) -> tuple[float, float]:
    """A Dice is shown whole, since it cannot run away; of a loss what lies far off is cut."""
    if not objective.maximise:
        return value_limits(values, objective)
    finite = [value for value in values if math.isfinite(value)]
    pad = 0.04 * (max(finite) - min(finite)) or 0.05
    return min(finite) - pad, max(finite) + pad


def _legend(axes: Axes) -> None:
    by_label = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if by_label:
        columns = len(by_label) if len(by_label) <= 4 else 3
        legend = axes.legend(
            by_label.values(),
            by_label.keys(),
            fontsize=7,
            frameon=False,
            ncols=columns,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.2),
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1.0)
        for text in legend.get_texts():
            text.set_color(INK)
    elif not axes.has_data():
        axes.text(0.5, 0.5, "nothing to show yet", transform=axes.transAxes, ha="center", color=FAINT, fontsize=9)
