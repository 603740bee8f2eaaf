"""Many cases on one picture: a slice each, with the outlines of its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from segray.doctor.tile import Tile
from segray.report.overlays import display_window
from segray.report.theme import new_figure, plain, structure_colours

COLUMNS = 4
TILE_INCHES = 2.3
MOST_NAMED = 16
"""Names in the legend; the largest structures first."""


def contact_sheet(tiles: Sequence[Tile]) -> Figure:
    """The slices of ``tiles`` in rows of four, seen as radiologists see them, with contours and a legend."""
    names = list(dict.fromkeys(name for tile in tiles for name in tile.names))
    colours = structure_colours(names)
    areas = {name: sum(int(tile.inside(name).sum()) for tile in tiles if name in tile.names) for name in names}
    shown = sorted((name for name in names if areas[name]), key=lambda name: -areas[name])
    columns = min(COLUMNS, max(len(tiles), 1))
    rows = max(1, math.ceil(len(tiles) / columns))
    figure = new_figure(columns * TILE_INCHES, rows * (TILE_INCHES + 0.35) + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.ravel()):
        axes.set_axis_off()
        if number < len(tiles):
            _draw(axes, tiles[number], colours)
    _legend(figure, shown, colours, columns)
    return figure


def _draw(axes: Axes, tile: Tile, colours: dict[str, str]) -> None:
    rows, columns = tile.picture.shape
    dy, dx = tile.spacing
    low, high = display_window(tile.picture[None], tile.labels[None])
    extent = (0.0, columns * dx, rows * dy, 0.0)
    axes.imshow(tile.picture, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest", aspect="equal")
    x, y = (np.arange(columns) + 0.5) * dx, (np.arange(rows) + 0.5) * dy
    for name in tile.names:
        inside = tile.inside(name)
        if inside.any() and min(inside.shape) > 1:
            # A border of zeros closes outlines at the edge of the picture.
            framed = np.pad(inside.astype(np.float32), 1)
            around_x, around_y = (np.array([one[0] - step, *one, one[-1] + step]) for one, step in ((x, dx), (y, dy)))
            axes.contour(around_x, around_y, framed, levels=[0.5], colors=[colours[name]], linewidths=1.1)
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
    axes.set_title(plain(_short(tile.case_id)) + f"\n{plain(tile.text)}", fontsize=7)


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:20]}...{name[-11:]}"


def _legend(figure: Figure, shown: Sequence[str], colours: dict[str, str], columns: int) -> None:
    handles = [Line2D([], [], color=colours[name], linewidth=2, label=plain(name)) for name in shown[:MOST_NAMED]]
    if len(shown) > MOST_NAMED:
        handles.append(Line2D([], [], linewidth=0, label=f"and {len(shown) - MOST_NAMED} more"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=7, frameon=False)
