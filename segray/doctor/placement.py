"""Whether labels lie on their image: by the grids of the two files, and by what lies below the labels.

Two measures tell how well labels fit at a place. The share of labelled voxels inside the body sees gross errors. The
correlation ratio (the share of the image's variance that the labels explain) falls wherever structures are moved off
their own intensities, a mirrored body included.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segray.case import Geometry, Volume
from segray.doctor.intensity import DARK

THUMBNAIL = 64
"""Voxels a side, at most, of the thinned volume on which placements are compared."""

CROP = 300_000
"""Voxels, at most, that a sub-voxel shift is measured on."""

AXES = ("z", "y", "x")
REACH = 2
"""Voxels by which labels are moved to find the shift that fits best."""

NEAR = 1
"""Voxels around the labels that are compared with them."""

HALF = (0.35, 0.65)
"""Voxels that count as half a voxel."""

SHIFTS = (1 / 16, 1 / 8, 1 / 4)
"""Shares of a side by which labels are moved on the thumbnail."""

GAIN = 0.15
"""Correlation ratio that another placement must explain beyond the given one: anatomy elsewhere, which labels of low
contrast meet by chance, explained 0.05 to 0.08 in some of 198 real cases."""

LOCAL_FIT = 0.3
"""Correlation ratio, in the voxels around the labels, below which their contrast is too low to measure a shift by."""

LEAST_FIT = 0.05
"""Correlation ratio below which the fit says nothing: a small structure in a large image."""


@dataclass(frozen=True)
class Fit:
    """How well labels fit where they lie, and where they would fit best.

    Attributes:
        inside: share of the labelled voxels inside the body.
        fit: correlation ratio of image and labels in the body, 0..1.
        better: a placement that fits clearly better in words (``mirrored along x``), or empty.
        better_inside, better_fit: the measures there.
        offset: voxels (z, y, x) by which the labels would have to move to fit best, to a fraction of a voxel; NaN
            along an axis where that cannot be told, None where along none.
    """

    inside: float
    fit: float
    better: str = ""
    better_inside: float = 0.0
    better_fit: float = 0.0
    offset: tuple[float, float, float] | None = None


def thin(volume: Volume) -> Volume:
    """(z, y, x) thinned to at most :data:`THUMBNAIL` voxels a side; a view."""
    z, y, x = (slice(None, None, max(1, -(-side // THUMBNAIL))) for side in volume.shape)
    return volume[z, y, x]


def body(image: NDArray[np.float32], *, is_hu: bool) -> NDArray[np.bool_]:
    """The body in a thumbnail: above -300 HU, or above Otsu's threshold, holes (lungs) filled slice by slice."""
    solid = image > (DARK if is_hu else otsu(image))
    return np.stack([ndimage.binary_fill_holes(plane) for plane in solid])


def otsu(image: NDArray[Any]) -> float:
    """The threshold that separates the values best into two classes (Otsu 1979)."""
    counts, edges = np.histogram(image, bins=256)
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    best = np.nan_to_num(between)
    ties = np.flatnonzero(best == best.max())
    return float(edges[ties[len(ties) // 2] + 1])


def fit_of(voxels: Volume, labels: Volume, *, is_hu: bool) -> Fit | None:
    """How the labels (z, y, x; values or bit fields) fit the image of the same shape; None without any label."""
    image = _clipped(thin(voxels))
    marks = _codes(thin(labels))
    if not marks.any() or image.max() == image.min():
        return None
    inner = body(image, is_hu=is_hu)
    body_tells = 0.02 < float(inner.mean()) < 0.95
    # The contrast of body and air would drown that of the structures, so only the body is looked at.
    region = inner if body_tells else np.ones_like(inner)
    here = _inside(inner, marks), correlation_ratio(image[region], marks[region])
    best: tuple[str, float, float] = ("", 0.0, 0.0)
    for words, moved in _placements(marks):
        there = _inside(inner, moved), correlation_ratio(image[region], moved[region])
        if _clearly_better(here, there, body_tells=body_tells) and there[1] > best[2]:
            best = (words, *there)
    words, inside, fit = best
    return Fit(*here, words, inside, fit, offset=_offset(voxels, labels))


def _clearly_better(here: tuple[float, float], there: tuple[float, float], *, body_tells: bool) -> bool:
    inside = body_tells and here[0] < 0.9 and there[0] > max(0.95, here[0] + 0.1) and there[1] > here[1]
    fit = there[1] > 1.3 * here[1] + GAIN and (not body_tells or there[0] >= here[0] - 0.02)
    return inside or fit


def _placements(marks: NDArray[np.int64]) -> list[tuple[str, NDArray[np.int64]]]:
    """The labels mirrored along one axis or several, and moved along one, with words for it."""
    found = []
    long_axes = [axis for axis in range(3) if marks.shape[axis] > 3]
    for count in range(1, len(long_axes) + 1):
        for axes in itertools.combinations(long_axes, count):
            found.append((f"mirrored along {' and '.join(AXES[axis] for axis in axes)}", np.flip(marks, axes)))
    for axis, share, sign in itertools.product(long_axes, SHIFTS, (-1, 1)):
        by = sign * round(marks.shape[axis] * share)
        if by:
            words = f"moved along {AXES[axis]} by {100 * sign * share:+.0f} % of the side"
            found.append((words, _moved(marks, axis, by)))
    return found


def _moved(marks: NDArray[np.int64], axis: int, by: int) -> NDArray[np.int64]:
    """What leaves on one side is lost; what comes in on the other is background."""
    moved = np.roll(marks, by, axis)
    gone = [slice(None)] * 3
    gone[axis] = slice(None, by) if by > 0 else slice(by, None)
    moved[tuple(gone)] = 0
    return moved


def _inside(inner: NDArray[np.bool_], marks: NDArray[np.int64]) -> float:
    count = int(np.count_nonzero(marks))
    return float(np.count_nonzero(marks[inner])) / count if count else 0.0


def correlation_ratio(image: NDArray[np.float32], marks: NDArray[np.int64]) -> float:
    """The share of the image's variance that lies between the classes of ``marks`` (small integers), 0..1.

    0 where there are no voxels at all.
    """
    flat = image.reshape(-1).astype(np.float64)
    if not flat.size:
        return 0.0
    codes = marks.reshape(-1)
    counts = np.bincount(codes)
    sums = np.bincount(codes, weights=flat)
    some = counts > 0
    mean, variance = flat.mean(), flat.var()
    between = float((counts[some] * (sums[some] / counts[some] - mean) ** 2).sum()) / len(flat)
    return between / float(variance) if variance > 0 else 0.0


def _clipped(image: Volume) -> NDArray[np.float32]:
    """Without the few extreme values (metal, noise) that would outweigh all others."""
    low, high = np.percentile(image, (0.5, 99.5))
    return np.clip(image, low, high).astype(np.float32)


def _codes(labels: Volume) -> NDArray[np.int64]:
    """Label values or bit fields as small integers, 0 where there is nothing."""
    if labels.max(initial=0) < 4096:
        return labels.astype(np.int64)
    values, where = np.unique(labels, return_inverse=True)
    return where.reshape(labels.shape) + int(values[0] != 0)


def _offset(voxels: Volume, labels: Volume) -> tuple[float, float, float] | None:
    """The shift (z, y, x) in voxels at which the labels fit best, by a parabola through the measured fits."""
    box = _box(labels)
    found = [_offset_along(axis, voxels[box], labels[box]) for axis in range(3)]
    z, y, x = (math.nan if one is None else one for one in found)
    return None if all(math.isnan(one) for one in (z, y, x)) else (z, y, x)


def _box(labels: Volume) -> tuple[slice, slice, slice]:
    """Where labels lie, with some voxels around them."""
    filled = [np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    margin = 3 * REACH
    z, y, x = (slice(max(int(one[0]) - margin, 0), int(one[-1]) + 1 + margin) for one in filled)
    return z, y, x


def _offset_along(axis: int, voxels: Volume, labels: Volume) -> float | None:
    side = voxels.shape[axis]
    if side < 4 * REACH:
        return None
    step = max(1, int(np.ceil(np.sqrt(voxels.size / CROP))))
    cut = tuple(slice(None) if at == axis else slice(None, None, step) for at in range(3))
    image = np.moveaxis(_clipped(voxels[cut]), axis, 0)
    marks = np.moveaxis(_codes(labels[cut]), axis, 0)
    core = marks[REACH : side - REACH]
    # Far from the labels lie the large contrasts (air, table) that have nothing to do with them.
    near = ndimage.binary_dilation(core > 0, iterations=NEAR)
    if not near.any():
        return None
    fits = [
        correlation_ratio(image[REACH + by : side - REACH + by][near], core[near]) for by in range(-REACH, REACH + 1)
    ]
    best = int(np.argmax(fits))
    # A fit that still grows at the end of the reach follows the anatomy, not the labels' edges.
    if max(fits) < LOCAL_FIT or best in (0, 2 * REACH):
        return None
    left, here, right = fits[best - 1 : best + 2]
    bend = left - 2 * here + right
    return best - REACH + (0.5 * (left - right) / bend if bend < 0 else 0.0)


def grid_words(image: Geometry, labels: Geometry) -> str:
    """How the grid of labels differs from that of their image, empty where it is the same.

    Shape first, then axes in another order, mirrored axes, another spacing, a shift (half a voxel is named as such).
    """
    if labels.size != image.size:
        if labels.size == image.size[::-1] and labels.axis_codes == image.axis_codes:
            return "its axes are stored in the reverse order"
        if sorted(labels.size) == sorted(image.size):
            return "its axes are in another order"
        return "it has another shape"
    step = np.linalg.solve(image.lps_affine, labels.lps_affine)
    turned = step[:3, :3]
    if not np.allclose(np.abs(turned), np.eye(3), atol=1e-2):
        return "its spacing or its axes differ"
    far = turned @ (np.array(image.size) - 1) / 2 + step[:3, 3] - (np.array(image.size) - 1) / 2
    return _shift_words([float(one) for one in far])


def _shift_words(shift: list[float]) -> str:
    parts = [f"{by:+.2f} along {name}" for name, by in zip(AXES, shift, strict=True) if abs(by) > 0.05]
    if not parts:
        return ""
    off = [abs(by) for by in shift if abs(by) > 0.05]
    words = f"it is shifted by {', '.join(parts)} voxels"
    if all(HALF[0] <= by <= HALF[1] for by in off):
        words += ": half a voxel, as of a tool that counts from the corner of a voxel instead of its middle"
    return words
