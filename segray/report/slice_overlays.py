"""The slices of a case as PNG files, with the outlines of what was found in them.

A file is a picture of one byte a pixel, whose palette holds grey levels and a colour a structure: small, and an outline
has its colour exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from segray import storage
from segray.case import Volume
from segray.report.enlarging import Size
from segray.report.lettering import fitted, font, write
from segray.report.overlays import display_window
from segray.report.planes import Pixels, edge, grey, palette_of, structures_of
from segray.report.png import encode_png

SIDE = 384
"""Pixels a side, at least, of a picture: smaller slices are enlarged, larger ones keep their voxels."""

MOST_COLOURS = 128
"""Colours of a palette; beyond, structures share them in turn, so that enough grey levels are left."""

NAMES = "names.png"
"""The picture of the names, beside those of the slices."""

_ROW, _MARGIN, _NAMES_WIDTH = 22, 12, 360


def overlay_slices(
    voxels: Volume,
    labels: Volume,
    names: Sequence[str],
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    every: int = 1,
    overlapping: bool = False,
) -> Iterator[tuple[int, bytes]]:
    """(number of the slice, PNG) of every n-th axial slice with foreground, from the feet to the head.

    Numbers begin at 1. Row 0 (anterior) is on top and the patient's left on the right; pixels are square in mm.

    Args:
        voxels: (z, y, x), LPS.
        labels: (z, y, x) channel indices or bit fields; indices beyond the names count as background.
        names: structures; names[0] is the index 1, or the bit 0. They fix the colours.
        spacing: (z, y, x) in mm.
        every: of the slices with foreground, take the first and then every n-th.
        overlapping: the labels are bit fields.
    """
    palette, greys = _palette(names)
    window = display_window(voxels, labels)
    size = _size(voxels.shape[1], voxels.shape[2], spacing)
    filled = [z for z, plane in enumerate(labels) if _has_foreground(plane, len(names), overlapping=overlapping)]
    for z in filled[:: max(every, 1)]:
        pixels = _letters(f"{z + 1} / {len(voxels)}", size, greys)
        shown = Image.fromarray(grey(voxels[z], window)).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        picture = (np.asarray(shown, dtype=np.uint16) * (greys - 1) // 255).astype(np.uint8)
        for layer in structures_of(labels[z], len(names), size, overlapping=overlapping):
            lines = edge(layer)
            picture[lines] = greys + (layer[lines] - 1) % MOST_COLOURS
        np.copyto(picture, pixels, where=pixels > 0)
        yield z + 1, encode_png(picture, palette)


def write_overlay_slices(
    folder: str,
    voxels: Volume,
    labels: Volume,
    names: Sequence[str],
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    every: int = 1,
    overlapping: bool = False,
) -> list[str]:
    """Write ``0001.png``, ... of :func:`overlay_slices` and ``names.png`` into ``folder``; returns their names.

    The folder takes the place of an older one, whole on a disk; where there is no foreground nothing is written, and an
    older one stays. Does not wait for the disk after every file: a hundred waits take longer than the pictures.

    Raises SegrayError where the folder cannot be written.
    """
    found = overlay_slices(voxels, labels, names, spacing=spacing, every=every, overlapping=overlapping)
    first = next(found, None)
    if first is None:
        return []
    written = []
    with storage.whole_folder(folder) as place:
        for number, png in chain([first], found):
            written.append(f"{number:04d}.png")
            storage.write_bytes(storage.join(place, written[-1]), png, durable=False)
        written.append(NAMES)
        storage.write_bytes(storage.join(place, written[-1]), names_picture(names), durable=False)
        for older in set(storage.names(place, ".png")) - set(written):
            storage.delete(storage.join(place, older))
    return written


def names_picture(names: Sequence[str]) -> bytes:
    """A PNG with the names of the structures in the colours that their outlines have."""
    palette, greys = _palette(names)
    image = Image.new("RGB", (_NAMES_WIDTH, 2 * _MARGIN + max(len(names), 1) * _ROW), (18, 22, 28))
    draw = ImageDraw.Draw(image)
    for at, name in enumerate(names):
        middle = _MARGIN + at * _ROW + _ROW / 2
        colour = tuple(int(one) for one in palette[greys + at % MOST_COLOURS])
        draw.rounded_rectangle((_MARGIN, middle - 6, _MARGIN + 12, middle + 6), 3, colour)
        told = fitted(name, 13, _NAMES_WIDTH - 3 * _MARGIN - 20)
        write(draw, (_MARGIN + 20, middle), told, 13, (233, 237, 242))
    return encode_png(np.asarray(image))


def _palette(names: Sequence[str]) -> tuple[Pixels, int]:
    """(256, 3) at most: grey levels from black to white, then the colours; and how many grey levels there are."""
    colours = palette_of(names)[1 : MOST_COLOURS + 1]
    greys = 256 - len(colours)
    levels = np.linspace(0, 255, greys).round().astype(np.uint8)
    return np.vstack([np.repeat(levels[:, None], 3, axis=1), colours]), greys


def _size(rows: int, columns: int, spacing: tuple[float, float, float]) -> Size:
    """(rows, columns) of the picture: square pixels as small as the smaller side of a voxel, ``SIDE`` at least."""
    smaller = min(spacing[1:])
    height, width = rows * spacing[1] / smaller, columns * spacing[2] / smaller
    scale = max(1.0, SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _has_foreground(plane: NDArray[Any], structures: int, *, overlapping: bool) -> bool:
    highest = int(plane.max(initial=0))
    if overlapping or highest <= structures:
        return highest > 0
    return bool(((plane > 0) & (plane <= structures)).any())


def _letters(text: str, size: Size, greys: int) -> Pixels:
    """(rows, columns): the number of the slice, and R and L at the patient's sides, in grey levels; 0 elsewhere."""
    image = Image.new("L", (size[1], size[0]))
    draw = ImageDraw.Draw(image)
    middle = size[0] / 2
    right = size[1] - 6
    for told, at, anchor in ((text, (6, size[0] - 12), "lm"), ("R", (6, middle), "lm"), ("L", (right, middle), "rm")):
        draw.text(at, told, fill=255, font=font(13), anchor=anchor)
    return (np.asarray(image, dtype=np.uint16) * (greys - 1) // 255).astype(np.uint8)
