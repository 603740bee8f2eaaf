"""Whether labels lie on the grid of their image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segray.case import Geometry
from segray.errors import CaseError
from segray.formats.nifti_header import grid_distance

EQUAL = 1e-3
"""Voxels by which the corners of two equal grids may differ."""

NEAR = 0.1
"""Voxels up to which grids of the same shape count as one, with a note."""


@dataclass(frozen=True)
class Match:
    """Two grids that are one.

    Attributes:
        same_order: the files store the axes in the same order and direction.
        notes: how they differ a little.
    """

    same_order: bool
    notes: tuple[str, ...] = ()


def match_grids(image: Geometry, labels: Geometry, name: str) -> Match:
    """Compare the grid of labels with that of their image.

    Raises:
        CaseError: another shape, or corners that lie more than 0.1 voxels apart.
    """
    if image.shape == labels.shape:
        if np.array_equal(image.affine, labels.affine):
            return Match(same_order=True)
        distance = grid_distance(image.affine, labels.affine, image.shape)
        if distance <= NEAR:
            return Match(same_order=True, notes=_note(distance))
    elif image.size != labels.size:
        raise CaseError(
            f"{name} has {_shown(labels.size)} voxels (z, y, x), but its image has {_shown(image.size)}.",
            mend="Labels must lie on the grid of their image.",
        )
    if image.size == labels.size:
        distance = grid_distance(image.lps_affine, labels.lps_affine, image.size)
        if distance <= NEAR:
            return Match(same_order=False, notes=_note(distance))
    raise CaseError(
        f"{name} has the shape of its image, but lies elsewhere: corners are up to {distance:.1f} voxels apart.",
        mend="Bring the labels to the grid of their image, or mend the affine.",
    )


def _shown(size: tuple[int, int, int]) -> str:
    return "x".join(str(side) for side in size)


def _note(distance: float) -> tuple[str, ...]:
    if distance <= EQUAL:
        return ()
    return (f"The affines of labels and image differ by {distance:.3f} voxels; the image's is used.",)
