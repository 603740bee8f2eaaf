"""A case with its truth and its mask: three planes, contours, physical aspect, seen as radiologists see it.

The axial plane is drawn with row 0 (anterior) on top and the patient's left on the right; coronal and sagittal planes
with the head on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from segray.case import Volume
from segray.report.theme import new_figure, plain, structure_colours

BODY_WINDOW = (-160.0, 240.0)
"""HU: soft tissue."""

WIDE_WINDOW = (-1000.0, 400.0)
"""HU: for structures full of air, which the body window shows black."""

_MOST_NAMED = 24

Areas = dict[int, NDArray[np.bool_]]
"""Index of a structure, from 1, to where it is in a plane."""


@dataclass(frozen=True)
class Plane:
    """One plane of a case, ready to draw.

    Attributes:
        name: axial, coronal or sagittal.
        picture, truth, predicted: (rows, columns); truth is None where there is none.
        spacing: mm of a (row, column).
        head_up: rows run from feet to head, so row 0 is drawn at the bottom.
        sides: what lies at the left and right edge of the drawing.
    """

    name: str
    picture: NDArray[Any]
    truth: NDArray[Any] | None
    predicted: NDArray[Any]
    spacing: tuple[float, float]
    head_up: bool
    sides: tuple[str, str]


def overlay(
    voxels: Volume,
    spacing: tuple[float, float, float],
    truth: Volume | None,
    predicted: Volume,
    names: Sequence[str],
    title: str,
    *,
    overlapping: bool = False,
) -> Figure:
    """Three planes through the most foreground; the truth in the upper row, the mask below with the truth dashed.

    A lone slice has one plane; there the truth is on the left.

    Args:
        voxels: (z, y, x), LPS.
        spacing: (z, y, x) in mm.
        truth: (z, y, x) channel indices or bit fields, or None: then one row shows the mask alone.
        predicted: (z, y, x) channel indices or bit fields.
        names: structures; names[0] is the index 1.
        title: one line above the planes.
        overlapping: truth and predicted are bit fields.
    """
    planes = choose_planes(voxels, spacing, truth, predicted)
    window = display_window(voxels, predicted if truth is None else truth)
    colours = structure_colours(names)
    palette = [colours[name] for name in names]
    figure, grid = _room(planes, 1 if truth is None else 2)
    figure.suptitle(plain(title), fontsize=11)
    seen = np.zeros(len(names) + 1, dtype=np.int64)
    for column, plane in enumerate(planes):
        truth_areas: Areas = {}
        if plane.truth is not None:
            truth_areas = areas(plane.truth, len(names), overlapping)
            _draw(grid[0, column], plane, window, palette, truth_areas, {}, f"truth, {plane.name}")
        drawn = areas(plane.predicted, len(names), overlapping)
        _draw(grid[-1, column], plane, window, palette, drawn, truth_areas, f"mask, {plane.name}")
        for index, inside in (*truth_areas.items(), *drawn.items()):
            seen[index] += np.count_nonzero(inside)
    _legend(figure, seen, names, palette, with_truth=truth is not None)
    return figure


def _room(planes: Sequence[Plane], rows: int) -> tuple[Figure, NDArray[Any]]:
    """A figure with axes (rows, planes) as wide as the planes are in mm; rows of a single plane are side by side."""
    widths = [max(plane.picture.shape[1] * plane.spacing[1], 1e-6) for plane in planes]
    tallest = max(plane.picture.shape[0] * plane.spacing[0] for plane in planes)
    if len(planes) == 1:
        figure = new_figure(9.4, min(max(4.5 * tallest / widths[0], 2.0), 12.0) + 1.2)
        return figure, figure.subplots(1, rows, squeeze=False).T
    figure = new_figure(9.4, min(max(rows * tallest * 9.0 / sum(widths), 2.0 * rows), 12.0) + 1.2)
    return figure, figure.subplots(rows, len(planes), squeeze=False, width_ratios=widths)


def choose_planes(
    voxels: Volume, spacing: tuple[float, float, float], truth: Volume | None, predicted: Volume
) -> tuple[Plane, ...]:
    """The axial, coronal and sagittal plane with the most foreground of the truth (of the mask without one).

    Of a lone slice the axial one alone.
    """
    z, y, x = (_fullest(predicted if truth is None or not truth.any() else truth, axis) for axis in range(3))
    planes = cut_planes(voxels, spacing, truth, predicted, (z, y, x))
    return planes if voxels.shape[0] > 1 else planes[:1]


def cut_planes(
    voxels: Volume,
    spacing: tuple[float, float, float],
    truth: Volume | None,
    predicted: Volume,
    at: tuple[int, int, int],
) -> tuple[Plane, Plane, Plane]:
    """The axial, coronal and sagittal plane through the voxel ``at`` (z, y, x); views, nothing is copied."""
    z, y, x = at
    dz, dy, dx = spacing
    cuts: tuple[tuple[str, tuple[Any, ...], tuple[float, float], tuple[str, str]], ...] = (
        ("axial", (z,), (dy, dx), ("R", "L")),
        ("coronal", (slice(None), y), (dz, dx), ("R", "L")),
        ("sagittal", (slice(None), slice(None), x), (dz, dy), ("A", "P")),
    )
    made = [
        Plane(name, voxels[cut], None if truth is None else truth[cut], predicted[cut], mm, name != "axial", sides)
        for name, cut, mm, sides in cuts
    ]
    return made[0], made[1], made[2]


def display_window(voxels: Volume, labels: Volume) -> tuple[float, float]:
    """Lowest and highest value shown: a CT window where values fall below -300 (HU), else the 1 to 99 percentiles."""
    step = max(1, voxels.shape[0] // 32)
    sample = voxels[::step, ::2, ::2]
    if sample.dtype.kind == "f":
        sample = np.nan_to_num(np.asarray(sample, dtype=np.float32))
    if sample.size and sample.min() < -300:
        inside = sample[np.asarray(labels[::step, ::2, ::2]) > 0]
        return WIDE_WINDOW if inside.size and np.median(inside) < BODY_WINDOW[0] else BODY_WINDOW
    low, high = np.percentile(sample, [1, 99]) if sample.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1)


def _fullest(labels: Volume, axis: int) -> int:
    others = tuple(other for other in range(3) if other != axis)
    filled = np.count_nonzero(labels, axis=others)
    return int(filled.argmax()) if filled.any() else labels.shape[axis] // 2


def _draw(
    axes: Axes,
    plane: Plane,
    window: tuple[float, float],
    palette: Sequence[str],
    filled: Areas,
    dashed: Areas,
    title: str,
) -> None:
    rows, columns = plane.picture.shape
    dy, dx = plane.spacing
    extent = (0.0, columns * dx, 0.0, rows * dy) if plane.head_up else (0.0, columns * dx, rows * dy, 0.0)
    axes.imshow(
        plane.picture.astype(np.float32),
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        extent=extent,
        origin="lower" if plane.head_up else "upper",
        interpolation="nearest",
        aspect="equal",
    )
    for index, inside in filled.items():
        contour(axes, inside, plane.spacing, palette[index - 1], "-", 1.5)
    for inside in dashed.values():
        contour(axes, inside, plane.spacing, "white", "--", 0.8)
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
    axes.set_axis_off()
    axes.set_title(title, fontsize=8, loc="center")
    for side, at, align in ((plane.sides[0], 0.02, "left"), (plane.sides[1], 0.98, "right")):
        axes.text(at, 0.5, side, color="#FFD866", fontsize=8, ha=align, va="center", transform=axes.transAxes)


def contour(
    axes: Axes, inside: NDArray[np.bool_], spacing: tuple[float, float], colour: str, style: str, width: float
) -> None:
    """The outline of ``inside``, looked for in its bounding box only; closed at the edges of the plane."""
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    box = np.pad(inside[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.float32), 1)
    x = (np.arange(box.shape[1]) + left - 0.5) * spacing[1]
    y = (np.arange(box.shape[0]) + top - 0.5) * spacing[0]
    axes.contour(x, y, box, levels=[0.5], colors=[colour], linestyles=[style], linewidths=width)


def areas(labels: NDArray[Any], structures: int, overlapping: bool) -> Areas:
    """Where each structure of a plane is, by its index from 1; absent ones and ignored pixels are left out."""
    if not overlapping:
        return {int(index): labels == index for index in np.unique(labels) if 0 < index <= structures}
    found = {number + 1: (labels >> number & 1) > 0 for number in range(structures)}
    return {index: inside for index, inside in found.items() if inside.any()}


def _legend(
    figure: Figure, seen: NDArray[np.int64], names: Sequence[str], palette: Sequence[str], *, with_truth: bool
) -> None:
    """Names of the structures to be seen, the largest first; beyond 24 their number only."""
    shown = [int(index) for index in np.argsort(-seen[1:], kind="stable") + 1 if seen[index] > 0]
    handles = [
        Line2D([], [], color=palette[index - 1], linewidth=2, label=plain(names[index - 1]))
        for index in shown[:_MOST_NAMED]
    ]
    if len(shown) > _MOST_NAMED:
        handles.append(Line2D([], [], linewidth=0, label=f"and {len(shown) - _MOST_NAMED} more"))
    if with_truth:
        handles.append(
            Line2D([], [], color="#999999", linestyle="--", linewidth=1, label="truth, dashed in the lower row")
        )
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7, frameon=False)
