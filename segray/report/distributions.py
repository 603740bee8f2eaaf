"""Dice per structure: how it is spread over the cases, and which structures do worst."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from segray.report.theme import INK, WIDTH, list_structures, listing_height, new_figure, structure_colours, tidy

_MOST_POINTS = 400


def dice_distribution(by_structure: Mapping[str, Sequence[float]]) -> Figure:
    """A box and the single cases a structure, in the given order; NaN and structures of nothing else are left out.

    Args:
        by_structure: structure to its Dice in every case, 0..1.
    """
    values = {name: present(dice) for name, dice in by_structure.items()}
    values = {name: found for name, found in values.items() if found.size}
    figure = new_figure(WIDTH, listing_height(len(values)))
    axes = figure.add_subplot()
    tidy(axes, title="Dice in the single cases", x="Dice", grid="x")
    draw_strips(axes, values)
    axes.set_xlim(-0.02, 1.02)
    return figure


def structure_ranking(by_structure: Mapping[str, Sequence[float]]) -> Figure:
    """Bars of the mean Dice a structure, best on top, with a line from the 10th to the 90th percentile of its cases."""
    values = {name: present(dice) for name, dice in by_structure.items()}
    ranked = sorted((name for name in values if values[name].size), key=lambda name: -float(values[name].mean()))
    colours = structure_colours(list(by_structure))
    figure = new_figure(WIDTH, listing_height(len(ranked)))
    axes = figure.add_subplot()
    tidy(axes, title="Mean Dice (line: 10th to 90th percentile of cases)", x="mean Dice", grid="x")
    for row, name in enumerate(ranked):
        mean = float(values[name].mean())
        low, high = np.percentile(values[name], [10, 90])
        axes.barh(row, mean, height=0.66, color=colours[name], alpha=0.85)
        axes.plot([low, high], [row, row], color=INK, linewidth=1.4)
        axes.text(1.01, row, f"{mean:.3f}", fontsize=7, va="center", color=INK)
    list_structures(axes, ranked)
    axes.set_xlim(0, 1.1)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    return figure


def draw_strips(axes: Axes, by_structure: Mapping[str, np.ndarray]) -> None:
    """Box and points a structure from top to bottom; at most 400 points a structure, evenly chosen by rank."""
    colours = structure_colours(list(by_structure))
    for row, (name, values) in enumerate(by_structure.items()):
        if not values.size:
            continue
        if values.size > 4:
            _box(axes, row, values)
        shown = np.sort(values)[np.linspace(0, values.size - 1, min(values.size, _MOST_POINTS)).round().astype(int)]
        # a fixed golden-ratio sequence spreads the points without a random number
        offsets = ((np.arange(shown.size) * 0.618034) % 1.0 - 0.5) * 0.5
        axes.scatter(shown, row + offsets, s=9, color=colours[name], alpha=0.75, linewidths=0, zorder=3)
    list_structures(axes, list(by_structure))


def present(values: Sequence[float]) -> np.ndarray:
    """The values that are numbers, as float64."""
    return np.array([value for value in values if not math.isnan(value)], dtype=np.float64)


def _box(axes: Axes, row: int, values: np.ndarray) -> None:
    line = {"color": "#777777", "linewidth": 1.0}
    axes.boxplot(
        [values],
        positions=[row],
        orientation="horizontal",
        widths=0.6,
        showfliers=False,
        manage_ticks=False,
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        medianprops={"color": INK, "linewidth": 1.6},
    )
