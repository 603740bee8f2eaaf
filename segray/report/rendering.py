"""The structures of a case seen from the front: lit surfaces in their colours, over a faint projection of the body.

Rays run parallel, along y from the front. A structure that encloses all others, such as a mask of the body, is drawn
as glass, since nothing else would be seen.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segray.case import Volume
from segray.report.enlarging import Floats, covers, resized
from segray.report.thinned import RIM, Thinned

LIGHT = np.array([-0.36, -0.80, 0.48], np.float32)
"""Towards the light (x, y, z), LPS: above the patient's right shoulder, which is the upper left of the picture."""

_AMBIENT, _DIFFUSE, _SHINE = 0.34, 0.74, 0.16
_FAR = 0.28
"""Share of its light that the surface farthest from the viewer loses."""

_SHADE_MM = 9.0
_SHADE = 0.45
"""What lies behind an edge nearby is darkened by up to this (depth darkening; Luft, Colditz, Deussen 2006)."""

_SMOOTH_MM = 2.6
"""Standard deviation of the Gaussian whose gradient in the mask is the normal; at least 0.8 voxels, at most 1.6."""

_REACH = 5.0
"""Squared standard deviations from which on a neighbour no longer counts."""

_HULL_SHARE = 0.75
"""A hull lies before and behind the others in at least this share of the rays that meet both."""

_BACKDROP = np.array([66.0, 72.0, 80.0], np.float32)
"""RGB of the brightest pixel of the projection behind the structures."""

_LONGEST_SUM = 64
"""Voxels of a ray, at most, that the projection adds up."""


@dataclass(frozen=True)
class _Surface:
    """What rays meet first, (rows, columns) with rows from the feet to the head.

    Attributes:
        index: of the structure, 0 where a ray meets none.
        light: 0 black, 1 the colour of the structure, 2 white.
        facing: 1 where the surface looks at the viewer, 0 where it is seen from the side.
    """

    index: NDArray[Any]
    light: Floats
    facing: Floats


def front_view(
    voxels: Volume, thinned: Thinned, palette: NDArray[np.uint8], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """(rows, columns, 3) RGB: head up, the patient's left on the right.

    Args:
        voxels: (z, y, x), LPS; the body is what is dense in them.
        thinned: the labels of the same case.
        palette: (structures + 1, 3) RGB; the first is that of background and not seen.
        size: (rows, columns) of the picture.
    """
    canvas = _backdrop(voxels, size)
    hull = enclosing_structure(thinned)
    seen = thinned.filled if hull is None else thinned.filled & (thinned.indices != hull)
    solid = _surface(thinned, seen)
    if solid is not None:
        colour, cover = _coloured(solid, palette, size)
        canvas += (colour - canvas) * cover[..., None]
    glass = None if hull is None else _surface(thinned, thinned.indices == hull)
    if glass is not None:
        cover = np.where(glass.index > 0, 0.10 + 0.6 * (1.0 - glass.facing) ** 2, 0.0)
        opacity = resized(cover[::-1].astype(np.float32), size).clip(0, 1)
        canvas += (palette[hull].astype(np.float32) - canvas) * opacity[..., None]
    return np.asarray(np.clip(canvas + 0.5, 0, 255), dtype=np.uint8)


def enclosing_structure(thinned: Thinned) -> int | None:
    """The structure in front of and behind nearly all others, or None."""
    coarse = thinned.inner[::3, ::3, ::3]
    boxes = {at: box for at, box in enumerate(ndimage.find_objects(coarse.astype(np.int32)), start=1) if box}
    whole = [max((box[axis].stop - box[axis].start for box in boxes.values()), default=0) for axis in range(3)]
    for index, box in boxes.items():
        lengths = [one.stop - one.start for one in box]
        if any(length < 0.8 * most for length, most in zip(lengths, whole, strict=True)):
            continue
        own, others = coarse == index, (coarse != index) & (coarse != 0)
        met = others.any(axis=0)
        before = own.argmax(axis=0) < others.argmax(axis=0)
        behind = own[::-1].argmax(axis=0) < others[::-1].argmax(axis=0)
        within = np.count_nonzero(met & own.any(axis=0) & before & behind)
        if within and within >= _HULL_SHARE * np.count_nonzero(met):
            return index
    return None


def _surface(thinned: Thinned, seen: NDArray[np.bool_]) -> _Surface | None:
    """The first voxel of ``seen`` (y, z, x) on every ray, lit; None without any."""
    volume, flat = thinned.indices, seen.reshape(-1)
    plane = volume.shape[1] * volume.shape[2]
    fronts = np.flatnonzero(flat[plane:] > flat[:-plane]) + plane
    if not fronts.size:
        return None
    first = np.zeros(plane, np.intp)
    # from back to front, so that of the surfaces of a ray the frontmost remains
    first[fronts[::-1] % plane] = fronts[::-1]
    at = np.flatnonzero(first)
    index, light, facing = (np.zeros(plane, kind) for kind in (volume.dtype, np.float32, np.float32))
    index[at] = volume.reshape(-1)[first[at]]
    dz, dy, dx = thinned.spacing
    normals = _normals(volume, first[at], (dy, dz, dx))
    facing[at] = np.clip(-normals[1], 0, 1)
    depth = (first // plane).astype(np.float32) * np.float32(dy)
    light[at] = _lambert(normals) * _depth_cue(depth.reshape(volume.shape[1:]), at, (dz, dx))
    inside = (slice(RIM, -RIM), slice(RIM, -RIM))
    return _Surface(*(image.reshape(volume.shape[1:])[inside] for image in (index, light, facing)))


def _normals(volume: NDArray[Any], at: NDArray[np.intp], spacing: tuple[float, float, float]) -> Floats:
    """(3, n) unit vectors (x, y, z) out of the structures at the flat positions ``at`` of a (y, z, x) volume.

    The gradient of a Gaussian over the mask of each voxel's own structure in its 5 x 5 x 5 neighbours.
    """
    flat, own = volume.reshape(-1), volume.reshape(-1)[at]
    strides = (volume.shape[1] * volume.shape[2], volume.shape[2], 1)
    widths = [min(max(_SMOOTH_MM / mm, 0.8), 1.6) for mm in spacing]
    gradient = np.zeros((3, at.size), np.float32)
    for steps in itertools.product(range(-RIM, RIM + 1), repeat=3):
        distance = sum((step / width) ** 2 for step, width in zip(steps, widths, strict=True))
        if steps <= (0, 0, 0) or distance > _REACH:
            continue
        offset = sum(step * stride for step, stride in zip(steps, strides, strict=True))
        # of two opposite neighbours only the difference pulls
        ahead, back = flat[at + offset] == own, flat[at - offset] == own
        pull = (back.view(np.int8) - ahead.view(np.int8)) * np.float32(np.exp(-distance / 2))
        for axis, step in enumerate(steps):
            if step:
                gradient[axis] += pull * np.float32(step / widths[axis] ** 2 / spacing[axis])
    y, z, x = gradient / np.maximum(np.sqrt((gradient**2).sum(axis=0)), 1e-6)
    return np.stack([x, y, z])


def _lambert(normals: Floats) -> Floats:
    """Ambient and diffuse light, and a soft shine beyond 1 (Blinn's half vector)."""
    light = LIGHT / np.linalg.norm(LIGHT)
    half = light + np.array([0, -1, 0], np.float32)
    half /= np.linalg.norm(half)
    diffuse, shine = np.clip(light @ normals, 0, 1), np.clip(half @ normals, 0, 1) ** 24
    return np.asarray(np.minimum(_AMBIENT + _DIFFUSE * diffuse, 1.0) + _SHINE * shine, dtype=np.float32)


def _depth_cue(depth: Floats, at: NDArray[np.intp], spacing: tuple[float, float]) -> Floats:
    """Factors for the pixels ``at``: darker the farther, and darker close behind a nearer edge."""
    found = depth.reshape(-1)[at]
    near, far = float(found.min()), float(found.max())
    distance = (found - near) / max(far - near, 60.0)
    behind = np.full(depth.size, far, np.float32)
    behind[at] = found
    around = ndimage.gaussian_filter(behind.reshape(depth.shape), [_SHADE_MM / mm for mm in spacing], truncate=2.0)
    shade = np.clip((found - around.reshape(-1)[at]) / 30.0, 0, 1)
    return np.asarray((1 - _FAR * distance) * (1 - _SHADE * shade), dtype=np.float32)


def _coloured(surface: _Surface, palette: NDArray[np.uint8], size: tuple[int, int]) -> tuple[Floats, Floats]:
    """RGB (rows, columns, 3) and how much of each pixel is covered (rows, columns), head up.

    A structure's share of a pixel is a power of how much it covers, so that edges are as sharp as pixels allow.
    """
    index = surface.index[::-1]
    squarings = int(np.clip(np.rint(np.log2(1.5 * size[0] / index.shape[0])), 0, 3))
    total, weights = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
    full = np.zeros(size, np.float32)
    for number, out, part in covers(index, size):
        full[out] += part
        weight = _power(part, squarings)
        weights[out] += weight
        total[out] += palette[number].astype(np.float32) * weight[..., None]
    colour = total / np.maximum(weights, 1e-6)[..., None]
    light = resized((surface.light * (surface.index > 0))[::-1], size) / np.maximum(full, 0.05)
    dark, bright = np.clip(light, 0, 1)[..., None], np.clip(light - 1.0, 0, 1)[..., None]
    background = _power(np.clip(1.0 - full, 0, 1), squarings)
    lit = colour * dark + (255.0 - colour) * bright
    cover = weights / np.maximum(weights + background, 1e-6)
    return lit.astype(np.float32, copy=False), cover.astype(np.float32, copy=False)


def _power(cover: Floats, squarings: int) -> Floats:
    for _ in range(squarings):
        cover = cover * cover
    return cover


def _backdrop(voxels: Volume, size: tuple[int, int]) -> Floats:
    """(rows, columns, 3): the faint sum of the case along y, as a radiograph has it."""
    z, y, x = (max(1, -(-length // most)) for length, most in zip(voxels.shape, (160, _LONGEST_SUM, 256), strict=True))
    sample = voxels[::z, ::y, ::x]
    if sample.dtype.kind == "f":
        sample = np.nan_to_num(sample, posinf=0.0, neginf=0.0)
    floor = sample.dtype.type(-1000) if sample.size and sample.min() < -300 else sample.min(initial=0)
    summed = np.maximum(sample, floor).sum(axis=1, dtype=np.float32)
    summed -= summed.min(initial=np.inf)
    high = np.percentile(summed, 99.5) if summed.size else 0.0
    shown = np.clip(summed / max(float(high), 1e-6), 0, 1)[::-1]
    shape = resized(shown, size).clip(0, 1)[..., None] ** np.float32(1.3)
    return np.asarray(shape * _BACKDROP, dtype=np.float32)
