"""Volumes: predicted against true, their differences, and how the volumes of the cases are spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segray.report.distributions import draw_strips, present
from segray.report.theme import INK, WIDTH, listing_height, logarithmic, new_figure, plain, structure_colours, tidy

Pairs = Mapping[str, Sequence[tuple[float, float]]]
"""Structure to (true ml, predicted ml) of every case that holds it."""

_NAMED_POINTS = 12


def volume_agreement(pairs: Pairs) -> Figure:
    """Predicted against true volume in ml on logarithmic axes, a point a case and structure; the line is identity.

    A volume of 0 is drawn at the lower edge, where it stands out as a missed or invented structure.
    """
    figure = new_figure(WIDTH, WIDTH)
    axes = figure.add_subplot()
    tidy(axes, title="Volume, predicted against true", x="true volume (ml)", y="predicted volume (ml)", grid="both")
    found = np.array([pair for of_structure in pairs.values() for pair in of_structure], dtype=np.float64).reshape(
        -1, 2
    )
    positive = found[found > 0]
    low, high = (positive.min() / 2, positive.max() * 2) if positive.size else (0.1, 10.0)
    axes.plot([low, high], [low, high], color=INK, linewidth=1.0, linestyle="--", label="equal")
    _scatter(axes, {name: np.maximum(_array(of_structure), low) for name, of_structure in pairs.items()})
    logarithmic(axes, "both")
    axes.set_xlim(low / 1.2, high)
    axes.set_ylim(low / 1.2, high)
    return figure


def volume_difference(pairs: Pairs) -> Figure:
    """Difference over mean in % against the mean volume, with bias and 1.96 sd (Bland and Altman, Lancet 1986)."""
    figure = new_figure(WIDTH, WIDTH)
    axes = figure.add_subplot()
    tidy(
        axes,
        title="Volume difference (Bland-Altman)",
        x="mean of both (ml)",
        y="predicted - true (% of mean)",
        grid="both",
    )
    points = {}
    for name, of_structure in pairs.items():
        true, predicted = _array(of_structure).T
        mean = (true + predicted) / 2
        known = mean > 0
        points[name] = np.stack([mean[known], 100 * (predicted - true)[known] / mean[known]], axis=1)
    _scatter(axes, points)
    every = np.concatenate([*points.values(), np.zeros((0, 2))])[:, 1]
    if every.size > 1:
        bias, spread = float(every.mean()), 1.96 * float(every.std(ddof=1))
        for value, style in ((bias, "-"), (bias - spread, "--"), (bias + spread, "--")):
            axes.axhline(value, color=INK, linewidth=1.0, linestyle=style)
        axes.text(
            0.99,
            0.99,
            f"bias {bias:+.1f} %, limits ±{spread:.1f} %",
            fontsize=8,
            ha="right",
            va="top",
            transform=axes.transAxes,
            color=INK,
        )
    if every.size:
        logarithmic(axes, "x")
    return figure


def case_volumes(by_structure: Mapping[str, Sequence[float]]) -> Figure:
    """Predicted volume in ml of every case a structure, on a logarithmic axis; cases without the structure left out."""
    values = {name: present(volumes) for name, volumes in by_structure.items()}
    values = {name: volumes[volumes > 0] for name, volumes in values.items() if (volumes > 0).any()}
    figure = new_figure(WIDTH, listing_height(len(values)))
    axes = figure.add_subplot()
    tidy(axes, title="Predicted volumes", x="volume (ml)", grid="x")
    draw_strips(axes, values)
    if any(volumes.size for volumes in values.values()):
        logarithmic(axes, "x")
    return figure


def _array(pairs: Sequence[tuple[float, float]]) -> np.ndarray:
    return np.asarray(pairs, dtype=np.float64).reshape(-1, 2)


def _scatter(axes: Axes, points: Mapping[str, np.ndarray]) -> None:
    colours = structure_colours(list(points))
    for name, at in points.items():
        axes.scatter(
            at[:, 0], at[:, 1], s=16, color=colours[name], alpha=0.8, linewidths=0, label=plain(name), zorder=3
        )
    if 0 < len(points) <= _NAMED_POINTS:
        axes.legend(fontsize=7, frameon=False, loc="best")
