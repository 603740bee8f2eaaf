"""Masks of pictures as PNG files: an index a pixel, with colours to look at and the structures' names inside.

Exclusive labels are palette PNGs whose index is the label value (16-bit grey above 255). Overlapping labels are one
file too, so that a mask is there whole or not at all: the index is the bit field, and its colour the mean of those of
its structures (up to 8 structures; 16-bit grey up to 16; up to 32 the four bytes of red, green, blue and alpha, lowest
first). The text chunk ``segray`` says which structure is which.
"""

from __future__ import annotations

import colorsys
import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray import storage
from segray.case import Geometry, LabelMap, Volume
from segray.errors import CaseError, SegrayError
from segray.formats.picture_pixels import read_pixels
from segray.formats.pictures import picture_geometry

TEXT = "segray"
"""The keyword of the text chunk."""

GOLDEN = 0.618033988749895
"""Steps of hue by the golden ratio: however many colours there are, neighbours are far apart."""

BYTE, WORD = 8, 16
"""Structures whose bits fit into a palette index and into 16-bit grey."""


def write_picture_mask(path: str, labels: Volume, geometry: Geometry, label_map: LabelMap | None = None) -> None:
    """Write label values, or a bit field of an overlapping map, (1, H, W), as a PNG, whole or not at all.

    Raises:
        CaseError: not one slice, or another size than the picture.
        SegrayError: no label values, or it cannot be written.
    """
    if labels.shape != geometry.size or labels.shape[0] != 1:
        raise CaseError(
            f"{path}: labels of shape {labels.shape} are no picture of the size {geometry.size}.",
            mend="Volumes are written as .nii.gz (predict.output=nifti).",
        )
    overlapping = label_map is not None and label_map.overlapping
    plane = labels[0]
    lowest, highest = int(plane.min(initial=0)), int(plane.max(initial=0))
    if plane.dtype.kind not in "uib" or lowest < 0 or highest > (0xFFFFFFFF if overlapping else 0xFFFF):
        raise SegrayError(f"{path}: {plane.dtype} values from {lowest} to {highest} are no labels.")
    storage.write_bytes(path, _encoded(plane, label_map))


def read_picture_mask(path: str, geometry: Geometry | None = None) -> tuple[Volume, Geometry]:
    """Label values or a bit field (1, H, W) of :func:`write_picture_mask`, and the grid.

    Raises:
        CaseError: damaged, of another size than ``geometry``, or no mask of segray.
    """
    pixels = read_pixels(path)
    stored = pixels.values
    if pixels.header.format != "PNG" or stored.dtype not in (np.uint8, np.uint16):
        raise CaseError(f"{path} is no mask that segray wrote.")
    plane = _joined(path) if pixels.header.mode == "RGBA" else stored
    if plane.ndim != 2:
        raise CaseError(f"{path} is no mask that segray wrote: its pixels are colours.")
    own = picture_geometry(*plane.shape)
    if geometry is not None and geometry.size != own.size:
        raise CaseError(f"{path} has the size {own.size}, but its image has {geometry.size} (z, y, x).")
    return np.ascontiguousarray(plane)[None], own if geometry is None else geometry


def label_colours(count: int) -> NDArray[np.uint8]:
    """(count + 1, 3) colours of the labels 0 to ``count``; 0 is black."""
    colours = [(0, 0, 0)]
    for number in range(count):
        # Three rings of lightness, so that hues that come near each other still differ.
        red, green, blue = colorsys.hls_to_rgb(number * GOLDEN % 1.0, (0.55, 0.78, 0.35)[number // 8 % 3], 0.95)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return np.array(colours, np.uint8)


def _encoded(plane: NDArray[Any], label_map: LabelMap | None) -> bytes:
    from PIL import Image, PngImagePlugin

    structures = len(label_map.names) if label_map is not None and label_map.overlapping else 0
    largest = int(plane.max(initial=0))
    if structures:
        size = structures
    else:
        size = max(largest, *label_map.values.values()) if label_map is not None else largest
        size = BYTE if size <= 0xFF else WORD
    if size > WORD:
        image = Image.fromarray(_split(plane))
    elif size > BYTE:
        image = Image.fromarray(plane.astype(np.uint16))
    else:
        image = Image.fromarray(plane.astype(np.uint8))
        image.putpalette((_blends(structures) if structures else label_colours(255)).tobytes())
    info = PngImagePlugin.PngInfo()
    if label_map is not None:
        info.add_itxt(TEXT, json.dumps({"overlapping": label_map.overlapping, "labels": dict(label_map.values)}))
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def _blends(structures: int) -> NDArray[np.uint8]:
    """(2 ** structures, 3): the mean of the colours of the structures whose bits an index has."""
    colours = label_colours(structures)[1:].astype(np.float64)
    bits = np.arange(1 << structures)[:, None] >> np.arange(structures) & 1
    blends: NDArray[np.uint8] = np.rint(bits @ colours / np.maximum(bits.sum(axis=1, keepdims=True), 1)).astype(
        np.uint8
    )
    return blends


def _split(plane: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, 4) bytes of a bit field, the lowest first."""
    return np.ascontiguousarray(plane, dtype="<u4").view(np.uint8).reshape(*plane.shape, 4)


def _joined(path: str) -> NDArray[np.uint32]:
    """The bit field of the four bytes, alpha with them, which is no transparency here."""
    from PIL import Image

    with Image.open(io.BytesIO(storage.read_bytes(path)), formats=("PNG",)) as image:
        stored = np.ascontiguousarray(np.asarray(image))
    return stored.view("<u4").reshape(stored.shape[:2]).astype(np.uint32)
