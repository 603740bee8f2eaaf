"""Orientations and affines for the NIfTI files that the tests make."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Save = Callable[..., str]
Turn = Callable[[Any], Array]

CODES = [
    "".join(signs[axis] for axis in order)
    for order in itertools.permutations(range(3))
    for signs in itertools.product("LR", "PA", "IS")
]
"""All 48 orientations."""


def affine_of(codes: str, zooms: tuple[float, float, float] = (1.5, 2.0, 3.0)) -> Array:
    """An affine whose axes run along ``codes``, with the zooms of the file's axes and an offset."""
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, code in enumerate(codes):
        world = next(index for index, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[world, axis] = zooms[axis] * (1.0 if code in "RAS" else -1.0)
    affine[:3, 3] = (-11.0, 7.5, 100.25)
    return affine
