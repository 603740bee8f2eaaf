"""Planes of a case as pixels: grey values, tints and outlines of the structures, all in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segray.report.enlarging import Size, enlarged_labels
from segray.report.overlays import Plane
from segray.report.theme import structure_colours

Pixels = NDArray[np.uint8]

_DARKEST = 85.0
"""Brightness (ITU-R BT.601) of the darkest line."""

_LEVELS = np.uint8(0xFC)
"""Of 256 grey levels every fourth is used: noise hides the difference, and a file is a third smaller."""

_TINT = 0.22
"""Share of a structure's colour within its outline."""


def palette_of(names: Sequence[str]) -> Pixels:
    """(structures + 1, 3) RGB: black for the background, then the colours of the report, dark ones made lighter.

    In a dark picture a line of less than a third of the brightness of white is hardly seen.
    """
    colours = np.array([[int(one[at : at + 2], 16) for at in (1, 3, 5)] for one in structure_colours(names).values()])
    brightness = colours @ np.array([0.299, 0.587, 0.114])
    lift = np.clip((_DARKEST - brightness) / (255.0 - brightness), 0, 1)[:, None]
    return np.vstack([np.zeros((1, 3)), colours + (255.0 - colours) * lift]).round().astype(np.uint8)


def grey(picture: NDArray[Any], window: tuple[float, float]) -> Pixels:
    """Values to 0 (the lower end of ``window`` and below, and no number) to 255."""
    low, high = window
    if picture.dtype.kind == "f":
        picture = np.nan_to_num(picture, nan=low)
    scaled = (picture.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    return scaled.clip(0, 255).astype(np.uint8)


def edge(inside: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels (rows, columns) that are not 0 and of which one of the four neighbours has another value.

    What touches the edge of the picture is closed there.
    """
    differs = np.ones(inside.shape, np.bool_)
    here = inside[1:-1, 1:-1]
    differs[1:-1, 1:-1] = (
        (here != inside[:-2, 1:-1])
        | (here != inside[2:, 1:-1])
        | (here != inside[1:-1, :-2])
        | (here != inside[1:-1, 2:])
    )
    return np.asarray(differs & (inside != 0), dtype=np.bool_)


def structures_of(labels: NDArray[Any], structures: int, size: Size, *, overlapping: bool) -> NDArray[np.uint16]:
    """(layers, rows, columns) of ``size``: indices from 1, 0 elsewhere; of bit fields a layer a structure.

    Layers lie in the order in which they are drawn, the largest structure first.
    """
    if not overlapping:
        return enlarged_labels(np.where(labels > structures, 0, labels).astype(np.uint16), size)[None]
    together = int(np.bitwise_or.reduce(labels, axis=None)) if labels.size else 0
    layers = [
        enlarged_labels((labels >> labels.dtype.type(bit) & 1).astype(np.uint16), size) * np.uint16(bit + 1)
        for bit in range(structures)
        if together >> bit & 1
    ]
    layers.sort(key=np.count_nonzero, reverse=True)
    return np.array(layers, np.uint16).reshape(-1, *size)


def paint_plane(plane: Plane, window: tuple[float, float], palette: Pixels, size: Size, *, overlapping: bool) -> Pixels:
    """(rows, columns, 3) RGB of a plane: tinted structures with outlines in their colours.

    Where structures overlap, the smaller one is seen.

    Args:
        plane: with its labels in ``predicted``; drawn head up where its rows say so.
        window: the values shown black and white.
        palette: (structures + 1, 3) RGB, background first.
        size: (rows, columns) of the picture.
        overlapping: the labels are bit fields.
    """
    turn = slice(None, None, -1 if plane.head_up else 1)
    picture = Image.fromarray(np.ascontiguousarray(grey(plane.picture[turn], window)))
    shown = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)) & _LEVELS
    owner, lines = np.zeros(size, np.uint16), np.zeros(size, np.uint16)
    for layer in structures_of(plane.predicted[turn], len(palette) - 1, size, overlapping=overlapping):
        np.copyto(owner, layer, where=layer > 0)
        np.copyto(lines, layer, where=edge(layer))
    painted = np.repeat(shown[..., None], 3, axis=2)
    inside, drawn = owner > 0, lines > 0
    tinted = painted[inside] * np.float32(1 - _TINT) + palette[owner[inside]] * np.float32(_TINT)
    painted[inside] = (tinted + 0.5).astype(np.uint8)
    painted[drawn] = palette[lines[drawn]]
    return painted
