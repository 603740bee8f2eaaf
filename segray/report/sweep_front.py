"""The trade of two objectives of a sweep: what no trial beats, over what is beaten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segray.report.sweep_axes import LOG_FROM, OUTCOME_COLOURS, value_limits
from segray.report.sweep_curves import axis_name
from segray.report.theme import INK, SECOND, WIDTH, logarithmic, new_figure, tidy
from segray.tuning.pareto import pareto_front
from segray.tuning.ranking import measured, value_of
from segray.tuning.records import Objective, TrialRecord

_LABEL_SHARE = (0.07, 0.06)
"""Width and height of a number in shares of the axes."""


def front_plot(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> Figure:
    """The first two objectives of every finished trial: dominated ones pale, the front of the two joined.

    With more objectives a trial that only another one puts on the front is a ring.

    Raises:
        ValueError: there are fewer than two objectives.
    """
    if len(objectives) < 2:
        raise ValueError("a front needs two objectives")
    found, pair = measured(records, objectives), objectives[:2]
    front = sorted(pareto_front(found, pair), key=lambda record: (value_of(record, 0), value_of(record, 1)))
    figure = new_figure(WIDTH, 3.8)
    axes = figure.add_subplot()
    title = f"Pareto front{' of these two' * (len(objectives) > 2)}: {len(front)} of {len(found)} finished trials"
    tidy(axes, title=title, x=axis_name(pair[0]).replace("\n", " "), y=axis_name(pair[1]), grid="both")
    x, y = _points(found)
    _scale(axes, "x", x.tolist(), _points(front)[0].tolist(), pair[0])
    _scale(axes, "y", y.tolist(), _points(front)[1].tolist(), pair[1])
    size = 20 if len(found) <= 200 else 8
    axes.scatter(x, y, s=size, color=OUTCOME_COLOURS["pruned"], linewidths=0, zorder=2, label="beaten by another")
    _ring(axes, pareto_front(found, objectives), {record.number for record in front})
    axes.plot(*_points(front), color=SECOND, linewidth=1.4, marker="o", markersize=6, zorder=4, label="front")
    _name_trials(axes, front, pair)
    axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)
    return figure


def _ring(axes: Axes, whole: Sequence[TrialRecord], joined: set[int]) -> None:
    """Mark what stands on the front of all objectives, but not on that of the first two."""
    further = [record for record in whole if record.number not in joined]
    if further:
        colour, name = OUTCOME_COLOURS["finished"], "on the front by a further objective"
        axes.scatter(*_points(further), s=26, facecolors="white", edgecolors=colour, zorder=3, label=name)


def _points(records: Sequence[TrialRecord]) -> tuple[np.ndarray, np.ndarray]:
    found = np.array([[value_of(one, 0), value_of(one, 1)] for one in records], dtype=np.float64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _scale(
    axes: Axes, side: Literal["x", "y"], values: Sequence[float], front: Sequence[float], objective: Objective
) -> None:
    """Logarithmic where an objective is positive and spans two decades; else without what lies far off the front."""
    low, high = value_limits(values, objective)
    usual = [value for value in values if low <= value <= high] + list(front)
    if usual and min(values) > 0 and max(usual) / min(usual) >= LOG_FROM:
        logarithmic(axes, side)
        return
    pad = 0.06 * (max(usual) - min(usual)) or abs(max(usual)) * 0.05 or 0.05 if usual else 0.0
    limits = (min(usual) - pad, max(usual) + pad) if usual else (low, high)
    if side == "x":
        axes.set_xlim(limits)
    else:
        axes.set_ylim(limits)


def _name_trials(axes: Axes, front: Sequence[TrialRecord], pair: Sequence[Objective]) -> None:
    """Numbers on the good side of the points of the front, where no line runs; the ends first, and none on another."""
    right, up = (objective.maximise for objective in pair)
    to_share = axes.transScale + axes.transLimits
    taken: list[np.ndarray] = []
    for record in [*front[:1], *front[-1:], *front[1:-1]]:
        place = (value_of(record, 0), value_of(record, 1))
        share = np.asarray(to_share.transform(place))
        if any(np.all(np.abs(share - other) < _LABEL_SHARE) for other in taken):
            continue
        taken.append(share)
        axes.annotate(
            str(record.number),
            place,
            xytext=(5 if right else -5, 4 if up else -4),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if up else "top",
            fontsize=7,
            color=INK,
            zorder=5,
        )
