"""One PNG that shows what was found in a case: three planes, the structures from the front, their names and volumes.

Drawn by numpy and Pillow, since matplotlib takes longer for a figure than a net for a case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from segray.case import Volume
from segray.report.enlarging import Size
from segray.report.lettering import fitted, write, write_over
from segray.report.overlays import Plane, cut_planes, display_window
from segray.report.planes import Pixels, paint_plane, palette_of
from segray.report.png import encode_png
from segray.report.rendering import front_view
from segray.report.thinned import count_voxels, thin

WIDTH = 1280
"""Pixels of every preview."""

MOST_NAMED = 24
"""Structures in the legend, the largest first."""

_TALLEST = 480
_MARGIN, _GAP = 16, 12
_HEADER, _CAPTION, _LINE = 44, 22, 21
_COLUMNS = 4
_LETTERS = 150
"""That fit into a line below the legend."""

_PAGE, _INK, _SOFT, _SIDES = (18, 22, 28), (233, 237, 242), (150, 160, 172), (255, 216, 102)


@dataclass(frozen=True)
class _Panel:
    """A picture with its caption, and what lies at its left and right edge."""

    pixels: Pixels
    caption: str
    sides: tuple[str, str]


def preview(
    voxels: Volume,
    spacing: tuple[float, float, float],
    labels: Volume,
    names: Sequence[str],
    title: str,
    *,
    overlapping: bool = False,
    volumes_ml: Sequence[float] | None = None,
) -> bytes:
    """A PNG, ``WIDTH`` pixels wide: axial, coronal and sagittal plane through the most foreground, and the front.

    The patient's left is on the right, the head is up, and millimetres are as long along all axes.

    Args:
        voxels: (z, y, x), LPS.
        spacing: (z, y, x) in mm.
        labels: (z, y, x) channel indices or bit fields; indices beyond the names count as background.
        names: structures; names[0] is the index 1, or the bit 0.
        title: one line on top.
        overlapping: the labels are bit fields.
        volumes_ml: of the structures, in the order of the names, where they are known already; else they are counted.
    """
    palette = palette_of(names)
    found = thin(labels, spacing, len(names), overlapping=overlapping)
    planes = cut_planes(voxels, spacing, None, labels, found.fullest)
    window = display_window(voxels, labels)
    sizes = _sizes(planes)
    panels = [
        _Panel(
            paint_plane(plane, window, palette, size, overlapping=overlapping),
            f"{plane.name}, {at + 1} of {length}",
            plane.sides,
        )
        for plane, size, at, length in zip(planes, sizes, found.fullest, voxels.shape, strict=False)
    ]
    if len(sizes) > len(planes):
        panels.append(_Panel(front_view(voxels, found, palette, sizes[-1]), "from the front", ("R", "L")))
    if volumes_ml is None:
        voxel_ml = math.prod(spacing) / 1000.0
        volumes_ml = [voxel_ml * int(count) for count in count_voxels(labels, len(names), overlapping=overlapping)]
    size_text = " \N{MULTIPLICATION SIGN} ".join(str(length) for length in voxels.shape[::-1])
    mm = " \N{MULTIPLICATION SIGN} ".join(f"{one:.3g}" for one in spacing[::-1])
    return encode_png(_composed(panels, names, palette, volumes_ml, (title, f"{size_text} voxels, {mm} mm")))


def _sizes(planes: Sequence[Plane]) -> list[Size]:
    """(rows, columns) of the panels; all but the axial one share a scale, which has room to be larger beside tall ones.

    A lone slice has no other planes.
    """
    mm = [[length * step for length, step in zip(one.picture.shape, one.spacing, strict=True)] for one in planes]
    (axial, coronal, sagittal), room = mm, WIDTH - 2 * _MARGIN - 3 * _GAP
    if planes[1].picture.shape[0] < 2:
        scale = min(room / axial[1], _TALLEST / axial[0])
        return [_pixels(axial, scale)]
    scale = min(room / (axial[1] + 2 * coronal[1] + sagittal[1]), _TALLEST / coronal[0])
    left = room - scale * (2 * coronal[1] + sagittal[1])
    return [
        _pixels(axial, min(left / axial[1], _TALLEST / axial[0])),
        *(_pixels(one, scale) for one in (coronal, sagittal, coronal)),
    ]


def _pixels(mm: Sequence[float], scale: float) -> Size:
    return max(1, round(mm[0] * scale)), max(1, round(mm[1] * scale))


def _composed(
    panels: Sequence[_Panel],
    names: Sequence[str],
    palette: Pixels,
    volumes_ml: Sequence[float],
    head: tuple[str, str],
) -> Pixels:
    """(rows, ``WIDTH``, 3): title, panels, legend."""
    tallest = max(panel.pixels.shape[0] for panel in panels)
    shown = sorted((at for at, ml in enumerate(volumes_ml) if ml > 0), key=lambda at: -volumes_ml[at])
    absent = [name for name, ml in zip(names, volumes_ml, strict=True) if not ml > 0]
    lines = max(1, math.ceil(min(len(shown), MOST_NAMED) / _COLUMNS)) + (len(shown) > MOST_NAMED) + bool(absent)
    legend_top = _HEADER + tallest + _CAPTION + 8
    image = Image.new("RGB", (WIDTH, legend_top + lines * _LINE + _MARGIN - 6), _PAGE)
    draw = ImageDraw.Draw(image)
    write(draw, (WIDTH - _MARGIN, _HEADER / 2), head[1], 13, _SOFT, "rm")
    write(draw, (_MARGIN, _HEADER / 2), fitted(head[0], 17, WIDTH - 2 * _MARGIN - 320), 17, _INK)
    used = sum(panel.pixels.shape[1] for panel in panels) + _GAP * (len(panels) - 1)
    left = (WIDTH - used) // 2
    for panel in panels:
        _place(image, draw, panel, left, _HEADER + (tallest - panel.pixels.shape[0]) // 2, _HEADER + tallest)
        left += panel.pixels.shape[1] + _GAP
    _legend(draw, [(names[at], palette[at + 1], volumes_ml[at]) for at in shown], absent, legend_top)
    return np.asarray(image)


def _place(image: Image.Image, draw: ImageDraw.ImageDraw, panel: _Panel, left: int, top: int, bottom: int) -> None:
    rows, columns = panel.pixels.shape[:2]
    image.paste(Image.fromarray(panel.pixels), (left, top))
    write(draw, (left + columns / 2, bottom + _CAPTION / 2 + 1), panel.caption, 12, _SOFT, "mm")
    for text, at, anchor in ((panel.sides[0], left + 5, "lm"), (panel.sides[1], left + columns - 5, "rm")):
        write_over(draw, (at, top + rows / 2), text, 13, _SIDES, anchor)


def _legend(
    draw: ImageDraw.ImageDraw, shown: Sequence[tuple[str, Pixels, float]], absent: Sequence[str], top: int
) -> None:
    """Names and volumes in columns, the largest first, then how many more there are and what was not found."""
    width = (WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * 2 * _GAP) / _COLUMNS
    named = shown[:MOST_NAMED]
    rows = max(1, math.ceil(len(named) / _COLUMNS))
    for number, (name, colour, ml) in enumerate(named):
        left = _MARGIN + (number // rows) * (width + 2 * _GAP)
        middle = top + (number % rows) * _LINE + _LINE / 2
        draw.rounded_rectangle((left, middle - 6, left + 12, middle + 6), 3, tuple(int(one) for one in colour))
        volume = volume_text(ml)
        write(draw, (left + width, middle), volume, 12, _SOFT, "rm")
        write(draw, (left + 20, middle), fitted(name, 13, width - 110), 13, _INK)
    below = top + rows * _LINE + _LINE / 2
    if len(shown) > MOST_NAMED:
        write(draw, (_MARGIN, below), f"and {len(shown) - MOST_NAMED} more", 12, _SOFT)
        below += _LINE
    if absent:
        write(draw, (_MARGIN, below), fitted(_listed("not found", absent), 12, WIDTH - 2 * _MARGIN), 12, _SOFT)


def _listed(what: str, names: Sequence[str]) -> str:
    """The names that fit into a line, and how many more there are."""
    told, letters = 0, len(what)
    while told < len(names) and letters + len(names[told]) < _LETTERS:
        letters += len(names[told]) + 2
        told += 1
    more = f" and {len(names) - told} more" if told < len(names) else ""
    return f"{what}: {', '.join(names[:told])}{more}"


def volume_text(ml: float) -> str:
    """Millilitres with two digits or all before the point: 0.034, 4.2, 1,204."""
    if ml >= 10:
        return f"{ml:,.0f} ml"
    return f"{ml:.1f} ml" if ml >= 0.1 else f"{ml:.2g} ml"
