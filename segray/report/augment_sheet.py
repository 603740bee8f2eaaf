"""Slices beside what augmentation makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from segray.report.overlays import areas, contour
from segray.report.theme import new_figure, plain, structure_colours

TILE_INCHES = 1.9
MOST_NAMED = 16


@dataclass(frozen=True)
class AugmentedSlice:
    """A slice of the training and its changed versions, as the net sees them.

    Attributes:
        title: case and place of the slice.
        pictures: (1 + draws, H, W) network input of the first channel; the first is unchanged.
        labels: (1 + draws, H, W) channel indices or bit fields.
    """

    title: str
    pictures: NDArray[np.float32]
    labels: NDArray[Any]


def augment_sheet(
    slices: Sequence[AugmentedSlice], names: Sequence[str], *, spacing: tuple[float, float], overlapping: bool = False
) -> Figure:
    """A row a slice: as it is, then each draw of the augmentation, with the outlines of the structures.

    All pictures of a row have the grey scale of the unchanged one (its 0.5 to 99.5 percentiles), so that a change of
    brightness or contrast is seen as such.

    Args:
        slices: the rows.
        names: structures; names[0] is the index 1.
        spacing: mm of a pixel (y, x), or of any unit where it is not known.
        overlapping: labels are bit fields.
    """
    colours = structure_colours(names)
    palette = [colours[name] for name in names]
    columns = len(slices[0].pictures)
    height = slices[0].pictures.shape[1] * spacing[0] / (slices[0].pictures.shape[2] * spacing[1]) * TILE_INCHES
    figure = new_figure(columns * TILE_INCHES, len(slices) * (height + 0.25) + 0.5)
    grid = figure.subplots(len(slices), columns, squeeze=False)
    seen = np.zeros(len(names) + 1, dtype=np.int64)
    for row, one in zip(grid, slices, strict=True):
        low, high = np.percentile(one.pictures[0], [0.5, 99.5])
        window = (float(low), float(high if high > low else low + 1))
        for number, axes in enumerate(row):
            inside = areas(one.labels[number], len(names), overlapping)
            title = one.title if number == 0 else f"draw {number}"
            _draw(axes, one.pictures[number], inside, window, spacing, palette, title)
            for index, where in inside.items():
                seen[index] += np.count_nonzero(where)
    _legend(figure, seen, names, palette)
    return figure


def _draw(
    axes: Axes,
    picture: NDArray[np.float32],
    inside: dict[int, NDArray[np.bool_]],
    window: tuple[float, float],
    spacing: tuple[float, float],
    palette: Sequence[str],
    title: str,
) -> None:
    rows, columns = picture.shape
    extent = (0.0, columns * spacing[1], rows * spacing[0], 0.0)
    axes.imshow(
        picture, cmap="gray", vmin=window[0], vmax=window[1], extent=extent, interpolation="nearest", aspect="equal"
    )
    for index, where in inside.items():
        contour(axes, where, spacing, palette[index - 1], "-", 1.0)
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
    axes.set_axis_off()
    axes.set_title(plain(title), fontsize=7)


def _legend(figure: Figure, seen: NDArray[np.int64], names: Sequence[str], palette: Sequence[str]) -> None:
    shown = [int(index) for index in np.argsort(-seen[1:], kind="stable") + 1 if seen[index] > 0]
    handles = [
        Line2D([], [], color=palette[index - 1], linewidth=2, label=plain(names[index - 1]))
        for index in shown[:MOST_NAMED]
    ]
    if len(shown) > MOST_NAMED:
        handles.append(Line2D([], [], linewidth=0, label=f"and {len(shown) - MOST_NAMED} more"))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
