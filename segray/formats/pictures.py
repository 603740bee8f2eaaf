"""Cases that are pictures: one slice of one channel, or of red, green and blue; masks that are pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.case import Case, Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.formats.label_bits import as_bits
from segray.formats.painting import Painting
from segray.formats.picture_labels import BACKGROUND, COLOURS, read_binary, read_coloured, read_levels
from segray.formats.picture_pixels import Pixels, read_picture_header, read_pixels
from segray.formats.source import CaseHeader, CaseSource

CHANNELS = "picture_channels"
"""The key of :attr:`CaseSource.details` that says ``grey`` or ``rgb``; without it each picture decides for itself."""

RGB = ("red", "green", "blue")

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the grey of ITU-R BT.601."""

FEW = 0.01
"""Share of pixels with a visible colour up to which a picture counts as grey: JPEG tints the edges of grey ones."""

TINT = 32
"""Difference of two channels, of 255, that can be seen."""

NARROW = np.iinfo(np.int16)


def picture_geometry(height: int, width: int) -> Geometry:
    """The grid of a picture: one slice of 1 mm pixels, turned so that LPS is the picture as it is seen."""
    return Geometry(np.diag([-1.0, -1.0, 1.0, 1.0]), (width, height, 1), stored_shape=(width, height, 1))


def read_header(source: CaseSource) -> CaseHeader:
    """Size (1, H, W) and spacing (1 mm) of the picture. Raises CaseError."""
    header = read_picture_header(source.image)
    told = source.details.get(CHANNELS)
    colours = header.colours if told is None else told == "rgb"
    if told is None and colours:
        colours = has_colour(read_pixels(source.image))
    channels = RGB if colours else ()
    geometry = picture_geometry(header.height, header.width)
    size = header.height * header.width * max(len(channels), 1) * (2 if header.depth <= 8 else 4)
    return CaseHeader(geometry.size, geometry.spacing, size, geometry, source.image, channels=channels)


def read_image(source: CaseSource) -> Case:
    """The picture: voxels (1, H, W), or (1, 3, H, W) of red, green, blue; int16 where it holds them, else float32.

    Raises:
        CaseError: it cannot be read, is cut, has several pages, or is too large.
    """
    if source.parts:
        raise CaseError(f"The case {source.case_id} has several pictures; segray reads one a case.")
    pixels = read_pixels(source.image)
    notes = list(pixels.notes)
    seen = pixels.colours()
    told = source.details.get(CHANNELS)
    colours = has_colour(pixels) if told is None else told == "rgb"
    geometry = picture_geometry(*seen.shape[:2])
    if colours:
        planes = np.repeat(seen[None], 3, axis=0) if seen.ndim == 2 else np.moveaxis(seen, 2, 0)
        return Case(source.case_id, _narrowed(planes, notes)[None], geometry, notes=notes, channels=RGB)
    return Case(source.case_id, _narrowed(_grey(seen, notes), notes)[None], geometry, notes=notes)


def read_labels(
    source: CaseSource, geometry: Geometry, label_map: LabelMap | None, overlap: str
) -> tuple[Volume, list[str]]:
    """Label values (1, H, W) on the grid of the picture, or bit fields of them, and notes. Raises CaseError."""
    if source.masks:
        return _stacked(source, geometry, label_map or LabelMap.of_names(sorted(source.masks)), overlap)
    if source.labels is None:
        raise CaseError(f"The case {source.case_id} has no labels.")
    table = source.details.get(COLOURS)
    if table and label_map is None:
        label_map = LabelMap.of_names(name for name in table if name != BACKGROUND)
    labels = read_coloured(source.labels, table, label_map) if table and label_map else read_levels(source.labels)
    volume = _on_grid(labels, geometry, source.labels)
    return as_bits(volume, source, label_map) if overlap == "keep" else volume, []


def label_values(source: CaseSource) -> list[int]:
    """The values in the label picture without background, sorted; [] without one. Raises CaseError."""
    if source.labels is None:
        return []
    return [int(value) for value in np.unique(read_levels(source.labels)) if value]


def has_colour(pixels: Pixels) -> bool:
    """True where more than a hundredth of a picture has a visible colour; equal channels have none."""
    seen = pixels.colours()
    if seen.ndim == 2:
        return False
    low, high = seen.min(axis=2), seen.max(axis=2)
    if (low == high).all():
        return False
    limit = TINT * (257 if seen.dtype == np.uint16 else 1)
    return bool(np.mean(high.astype(np.float64) - low > limit) > FEW)


def _stacked(source: CaseSource, geometry: Geometry, label_map: LabelMap, overlap: str) -> tuple[Volume, list[str]]:
    painting = Painting(label_map, geometry.size, overlap)
    notes: list[str] = []
    for name in label_map.names:
        if name in source.masks:
            inside, found = read_binary(source.masks[name])
            painting.add(name, _on_grid(inside, geometry, source.masks[name]))
            notes += [note for note in found if note not in notes]
    return painting.labels, painting.notes() + notes


def _on_grid(plane: NDArray[Any], geometry: Geometry, path: str) -> Volume:
    if (1, *plane.shape) != geometry.size:
        height, width = plane.shape
        raise CaseError(
            f"{path} has {width} x {height} pixels, but its image has {geometry.size[2]} x {geometry.size[1]}.",
            mend="A mask must have the size of its image.",
        )
    return plane[None]


def _grey(seen: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    if seen.ndim == 2:
        return seen
    if (seen[..., :1] == seen).all():
        return seen[..., 0]
    notes.append("The colours of the picture were made grey.")
    weighed = seen.astype(np.float32) @ LUMA.astype(np.float32)
    return np.rint(weighed) if seen.dtype.kind in "ui" else weighed


def _narrowed(values: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    """int16 where all values are integers that it holds, else float32; what is not finite becomes the lowest value."""
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():
            if not finite.any():
                raise CaseError("The picture holds no finite value.")
            notes.append(f"{int((~finite).sum()):,} pixels are NaN or infinite; they got the lowest finite value.")
            values = np.where(finite, values, values[finite].min())
        whole = bool((values == np.rint(values)).all())
    else:
        whole = True
    fits = whole and values.min() >= NARROW.min and values.max() <= NARROW.max
    return np.ascontiguousarray(values, dtype=np.int16 if fits else np.float32)
