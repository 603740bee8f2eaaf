"""A slice with its truth and its mask as one small picture, drawn by arithmetic on pixels: a few milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.report.overlays import Areas, areas
from segray.report.theme import structure_colours

LEAST_SIDE = 256
"""Smaller slices are drawn with larger pixels."""

Pixels = NDArray[np.uint8]


def slice_picture(
    picture: NDArray[Any],
    truth: NDArray[Any],
    predicted: NDArray[Any],
    names: Sequence[str],
    window: tuple[float, float],
    *,
    overlapping: bool = False,
) -> Pixels:
    """Left the outlines of the truth, right those of the mask with the truth dashed in white.

    Args:
        picture: (H, W) voxel values.
        truth: (H, W) channel indices or bit fields.
        predicted: as ``truth``.
        names: structures; names[0] is the index 1.
        window: lowest and highest value shown.
        overlapping: truth and predicted are bit fields.

    Returns:
        (k * H, 2 * k * W, 3) with the smallest whole k that makes H at least :data:`LEAST_SIDE`.
    """
    scale = max(1, -(-LEAST_SIDE // picture.shape[0]))
    low, high = window
    grey = np.clip((np.nan_to_num(picture.astype(np.float32)) - low) / max(high - low, 1e-6), 0, 1)
    canvas = np.repeat(_enlarged((255 * grey).astype(np.uint8), scale)[..., None], 3, axis=2)
    colours = [_rgb(colour) for colour in structure_colours(names).values()]
    true_areas, found = (areas(_enlarged(each, scale), len(names), overlapping) for each in (truth, predicted))
    left, right = canvas.copy(), canvas
    _draw(left, true_areas, colours)
    _draw(right, found, colours)
    rows, columns = np.indices(right.shape[:2])
    for inside in true_areas.values():
        right[outline(inside) & ((rows + columns) // 3 % 2 == 0)] = 255
    return np.concatenate([left, right], axis=1)


def outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(H, W): the pixels of ``inside`` with one of their four neighbours outside, or at the edge of the picture."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def _draw(canvas: Pixels, drawn: Areas, colours: Sequence[tuple[int, int, int]]) -> None:
    for index, inside in drawn.items():
        canvas[outline(inside)] = colours[index - 1]


def _enlarged(plane: NDArray[Any], scale: int) -> NDArray[Any]:
    return plane.repeat(scale, axis=0).repeat(scale, axis=1)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
