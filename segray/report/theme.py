"""How all plots look: figures without global state, axes, and one colour a structure."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from segray import storage

FEW_COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#EE7733")
"""Paul Tol's bright scheme (SRON/EPS/TN/09-002) with orange for its grey: safe for colour-blind eyes."""

ACCENT = "#4477AA"
SECOND = "#EE6677"
INK = "#333333"
FAINT = "#BBBBBB"
DPI = 160
WIDTH = 5.2
"""Inches of every plot but the overlays: narrow enough that its texts can be read on a phone."""

ROW_INCHES = 0.22
"""Height of one structure in plots that list structures from top to bottom, so that 100 of them stay readable."""

_GOLDEN = 0.6180339887498949


def structure_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour a structure: colour-blind safe up to seven, else hues a golden angle apart in three lightnesses."""
    if len(names) <= len(FEW_COLOURS):
        return dict(zip(names, FEW_COLOURS, strict=False))
    colours = {}
    for index, name in enumerate(names):
        hue, light = (0.08 + index * _GOLDEN) % 1.0, (0.46, 0.62, 0.38)[index % 3]
        red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, light, 0.75))
        colours[name] = f"#{red:02X}{green:02X}{blue:02X}"
    return colours


def new_figure(width: float, height: float) -> Figure:
    """A white figure of that many inches that belongs to no window and no global state."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def listing_height(rows: int) -> float:
    """Inches of a plot that lists ``rows`` structures from top to bottom."""
    return 0.9 + ROW_INCHES * max(rows, 3)


def plain(text: str) -> str:
    """``text`` as matplotlib shows it literally: a dollar starts no formula."""
    return text.replace("$", r"\$")


def tidy(axes: Axes, *, title: str = "", x: str = "", y: str = "", grid: Literal["x", "y", "both"] = "y") -> None:
    """Title and axis names, light grid lines along ``grid`` (x, y, both), no box."""
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(visible=True, axis=grid, color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)


def list_structures(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows 0, 1, ... of the y axis, the first on top."""
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)


def logarithmic(axes: Axes, sides: Literal["x", "y", "both"]) -> None:
    """Make the axes logarithmic with plain numbers (1, 10, 100) instead of powers."""
    if sides != "y":
        axes.set_xscale("log")
    if sides != "x":
        axes.set_yscale("log")
    for axis in {"x": (axes.xaxis,), "y": (axes.yaxis,), "both": (axes.xaxis, axes.yaxis)}[sides]:
        axis.set_major_formatter(LogFormatter())
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.0, 0.4)))
    axes.tick_params(which="minor", labelsize=7, colors=INK)


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def save_png(figure: Figure, uri: str) -> str:
    """Write the figure to ``uri``, whole or not at all; returns ``uri``."""
    storage.write_bytes(uri, png_bytes(figure))
    return uri
