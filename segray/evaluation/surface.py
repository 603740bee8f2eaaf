"""The surface of every structure by Crofton's formula, from the 2x2x2 neighbourhoods of its voxels.

A random line meets a surface the more often, the larger it is. The lattice has lines of its own in thirteen directions,
along which the passes into a structure and out of it are counted (Legland, Kiêu and Devaux, "Computation of Minkowski
measures on 2D and 3D binary images", Image Analysis & Stereology 26, 2007). All thirteen are seen in a neighbourhood of
2x2x2 voxels, so a table of its 256 configurations says what each adds.

Measured on solids of known surface: balls of eight voxels across and more come out right within 1 % on a grid of equal
spacing, ellipsoids and tubes within 2 %. Where slices are four times as thick as pixels, large balls are right within
1 %, ellipsoids within 4 %, and a tube upright to the slices is 10 % too small: the lattice has few directions between
its planes and its axis. Planes along the grid are 7 % too small for equal spacing, there 13 % (upright) and 20 %
(within a slice); slanted ones make up for it.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import SphericalVoronoi

FLATTEST = 1e4
"""Ratio of a voxel's longest to its shortest side beyond which there is no surface to tell."""

CONFIGURATIONS = 256
_STEPS = tuple(itertools.product((0, 1), repeat=3))


def lattice_directions() -> NDArray[np.int64]:
    """(13, 3) steps from a voxel to one half of its 26 neighbours."""
    return np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)])


def direction_weights(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) share of the sphere that lies nearer to a line than to any other, after (n, 3) directions in mm; sum 1."""
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    areas = SphericalVoronoi(np.concatenate([units, -units])).calculate_areas()
    return np.asarray(areas[: len(units)] / (2 * np.pi), dtype=np.float64)


def configuration_areas(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(256,) mm2 that a structure gains by a neighbourhood in which it has the corners that are set as bits.

    A pass along a direction d stands for 2 v w / |d|, with v the volume of a voxel and w the weight of the direction.
    A pass lies in 4, 2 or 1 neighbourhoods where it runs along 1, 2 or 3 axes, and is shared among them. NaN for voxels
    without a volume.

    Args:
        axes: (3, 3), in mm, a column an axis: the step from a voxel to the next.
    """
    if np.linalg.cond(axes) > FLATTEST:
        return np.full(CONFIGURATIONS, np.nan)
    lattice = lattice_directions()
    directions = lattice @ axes.T
    passes = 2 * abs(np.linalg.det(axes)) * direction_weights(directions) / np.linalg.norm(directions, axis=1)
    of_step = {tuple(step): float(area) for step, area in zip(lattice.tolist(), passes, strict=True)}
    areas = np.zeros(CONFIGURATIONS)
    bits = np.arange(CONFIGURATIONS)
    for (one, start), (other, end) in itertools.combinations(enumerate(_STEPS), 2):
        step = tuple(b - a for a, b in zip(start, end, strict=True))
        shared = {1: 4, 2: 2, 3: 1}[sum(map(abs, step))]
        areas += (bits >> one & 1 != bits >> other & 1) * of_step[step] / shared
    return areas


class Surfaces:
    """Counts of the configurations of every structure, neighbourhoods after neighbourhoods."""

    def __init__(self, structures: int) -> None:
        self._counts = np.zeros((structures + 1) * CONFIGURATIONS, dtype=np.int64)

    def add(self, corners: NDArray[Any]) -> None:
        """Count neighbourhoods by their (8, n) corners, as :meth:`LabelSlab.mixed_corners` gives them."""
        left = np.full(corners.shape[1], CONFIGURATIONS - 1, dtype=np.uint8)
        # Nearly all neighbourhoods hold two structures, or one and background: the lowest number and the highest.
        for numbers in (corners.min(axis=0), corners.max(axis=0)):
            left ^= self._count(corners, numbers)
        rest = np.flatnonzero(left != 0)
        corners, left = corners[:, rest], left[rest]
        while left.size:
            first = (left & -left).astype(np.uint8)
            numbers = corners[np.log2(first).astype(np.intp), np.arange(left.size)]
            left ^= self._count(corners, numbers)
            rest = np.flatnonzero(left != 0)
            corners, left = corners[:, rest], left[rest]

    def _count(self, corners: NDArray[Any], numbers: NDArray[Any]) -> NDArray[np.uint8]:
        """Count the configuration of one structure in each neighbourhood, and return it."""
        configurations = _packed(corners == numbers)
        keys = numbers.astype(np.int64) * CONFIGURATIONS + configurations
        np.add.at(self._counts, keys, 1)
        return configurations

    def mm2(self, axes: NDArray[np.float64]) -> NDArray[np.float64]:
        """(structures,) mm2, with ``axes`` as :func:`configuration_areas` takes them."""
        areas: NDArray[np.float64] = self._counts.reshape(-1, CONFIGURATIONS)[1:] @ configuration_areas(axes)
        return areas


def _packed(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(n,) bytes of (8, n) flags, the first in the lowest bit."""
    packed: NDArray[np.uint8] = flags[7].astype(np.uint8)
    for flag in flags[6::-1]:
        packed += packed
        packed |= flag
    return packed
