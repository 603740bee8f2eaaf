"""Label images enlarged with smooth edges: no stairs where a voxel is larger than a pixel of the picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Floats = NDArray[np.float32]
Box = tuple[slice, slice]
Size = tuple[int, int]
Part = tuple[float, float, float, float]

_SMOOTH_FROM = 1.25
"""Pixels a voxel from which edges are smoothed."""

_RIM = 3
"""Pixels around a structure whose values Pillow's bicubic filter looks at, and one more."""


def resized(image: Floats, size: Size, part: Part | None = None) -> Floats:
    """``part`` (left, top, right, bottom; the whole by default) of an image, resized to (rows, columns)."""
    picture = Image.fromarray(np.ascontiguousarray(image, np.float32))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC, part), dtype=np.float32)


def covers(labels: NDArray[Any], size: Size) -> Iterator[tuple[int, Box, Floats]]:
    """Of every structure in ``labels`` (rows, columns; 0 is background): its index, a box, how much it covers there.

    The box lies in a picture of ``size`` (rows, columns); covers are 0 to 1, and with the background's add up to 1.
    """
    for index, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is None:
            continue
        crop, out, part = _enlarged_box(box, labels.shape, size)
        shape = (out[0].stop - out[0].start, out[1].stop - out[1].start)
        if min(shape) > 0:
            inside = (labels[crop] == index).astype(np.float32)
            yield index, out, resized(inside, shape, part).clip(0, 1)


def enlarged_labels(labels: NDArray[Any], size: Size) -> NDArray[Any]:
    """``labels`` (rows, columns; 0 is background) with the structure that covers most of each pixel of ``size``.

    Labels that are made smaller, or hardly larger, are those of the nearest voxel.
    """
    if min(wanted / have for wanted, have in zip(size, labels.shape, strict=True)) < _SMOOTH_FROM:
        return nearest(labels, size)
    found, best, empty = np.zeros(size, labels.dtype), np.zeros(size, np.float32), np.ones(size, np.float32)
    for index, out, cover in covers(labels, size):
        stronger = cover > best[out]
        found[out][stronger] = index
        best[out][stronger] = cover[stronger]
        empty[out] -= cover
    found[empty > best] = 0
    return found


def nearest(labels: NDArray[Any], size: Size) -> NDArray[Any]:
    """``labels`` (rows, columns) of the nearest voxel at every pixel of ``size``."""
    rows, columns = (
        ((np.arange(wanted) + 0.5) * (have / wanted)).astype(np.intp)
        for wanted, have in zip(size, labels.shape, strict=True)
    )
    return np.asarray(labels[rows[:, None], columns])


def _enlarged_box(box: Box, shape: tuple[int, ...], size: Size) -> tuple[Box, Box, Part]:
    """A box of voxels with a rim, the pixels of the enlarged picture in it, and where those lie in the crop."""
    crops, outs, edges = [], [], []
    for one, length, wanted in zip(box, shape, size, strict=True):
        scale = wanted / length
        start, stop = max(one.start - _RIM, 0), min(one.stop + _RIM, length)
        first = int(np.ceil(start * scale - 1e-6))
        last = wanted if stop == length else int(np.floor(stop * scale + 1e-6))
        crops.append(slice(start, stop))
        outs.append(slice(first, max(first, last)))
        edges.append((max(first / scale - start, 0.0), min(last / scale - start, float(stop - start))))
    (top, bottom), (left, right) = edges
    return (crops[0], crops[1]), (outs[0], outs[1]), (left, top, right, bottom)
