"""The axes that a net convolves over: slices or volumes."""

from __future__ import annotations

from dataclasses import dataclass

Sides = tuple[int, ...]
"""A number an axis: (y, x) or (z, y, x)."""


@dataclass(frozen=True)
class Space:
    """The axes that a net convolves over.

    Attributes:
        axes: 2: (y, x), or 3: (z, y, x).
        flat_levels: levels, from full resolution down, that look in-plane only and are not halved along z, as nnU-Net
            does where slices are thicker than pixels are wide (Isensee et al. 2021, supplementary note 2).
    """

    axes: int = 2
    flat_levels: int = 0

    def kernel(self, side: int, level: int) -> Sides:
        """The kernel of a level's convolutions."""
        return self._deep(1 if level < self.flat_levels else side, side)

    def stride(self, level: int) -> Sides:
        """The step from the level above to this one."""
        if level == 0:
            return self._deep(1, 1)
        return self._deep(1 if level <= self.flat_levels else 2, 2)

    def _deep(self, z: int, yx: int) -> Sides:
        return (z, yx, yx) if self.axes == 3 else (yx, yx)


PLANE = Space()
"""Slices."""
