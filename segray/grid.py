"""The in-plane grid that all slices of a shard set share: a recipe that ingest applies and predict applies and undoes.

The recipe and where a case lies on it; the pixels are moved in :mod:`segray.resample`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from segray.case import Volume
from segray.config import GridConfig
from segray.errors import CaseError, UsageError

Mode = Literal["spacing", "size", "native"]
Plane = tuple[int, int]

AIR = -1024.0
"""HU below which CT padding does not go; scanners mark the outside of the field of view with less."""

SAME_SPACING = 1e-3
"""Relative difference of spacings that counts as none."""

Measured = tuple[tuple[int, int, int], tuple[float, float, float]]
"""Size and spacing of a case, both (z, y, x): what resolving a grid needs of its header."""


@dataclass(frozen=True)
class Grid:
    """The recipe; it is kept in the manifest and in the bundle.

    Attributes:
        mode: spacing, size or native, as in :class:`segray.config.GridConfig`.
        size: the canvas (H, W) in pixels.
        spacing: pixel spacing (y, x) in mm in mode spacing, else None.
        fill: the value outside of the case, in the unit of the voxels (HU).
    """

    mode: Mode
    size: Plane
    spacing: tuple[float, float] | None
    fill: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        spacing = None if self.spacing is None else list(self.spacing)
        return {"mode": self.mode, "size": list(self.size), "spacing": spacing, "fill": self.fill}

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> Grid:
        """The inverse of :meth:`to_dict`. Raises UsageError where an entry is missing or wrong."""
        try:
            mode, (height, width), spacing = table["mode"], table["size"], table["spacing"]
            pixel = None if spacing is None else (float(spacing[0]), float(spacing[1]))
            grid = cls(mode, (int(height), int(width)), pixel, float(table["fill"]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UsageError(f"The grid {table!r} is incomplete ({error}).") from error
        good_spacing = grid.mode != "spacing" if pixel is None else min(pixel) > 0
        if grid.mode not in get_args(Mode) or min(grid.size) < 1 or not good_spacing or not np.isfinite(grid.fill):
            raise UsageError(f"The grid {table!r} is wrong.")
        return grid


@dataclass(frozen=True)
class Placement:
    """How one case lies on a canvas: first resampled, then padded or cropped.

    Attributes:
        original: the case's in-plane size (Y, X).
        resampled: the size (h, w) after resampling; the field of view stays the same.
        canvas: the size (H, W) of the canvas.
        offset: where row 0 and column 0 of the resampled case lie on the canvas; negative where it is cropped.
        spacing: mm (y, x) of a pixel of the canvas; the sides are whole pixels, so it may differ a little from the
            grid's.
    """

    original: Plane
    resampled: Plane
    canvas: Plane
    offset: tuple[int, int]
    spacing: tuple[float, float] = (1.0, 1.0)

    @property
    def resamples(self) -> bool:
        """True where pixels are interpolated."""
        return self.resampled != self.original

    @property
    def refines(self) -> bool:
        """True where the case has more pixels than it has on the canvas."""
        (height, width), (old, across) = self.resampled, self.original
        return old * across > height * width

    @property
    def is_identity(self) -> bool:
        """True where the case is on the grid already."""
        return self.original == self.resampled == self.canvas and self.offset == (0, 0)

    @property
    def crops(self) -> bool:
        """True where a part of the case lies outside of the canvas."""
        sides = zip(self.offset, self.resampled, self.canvas, strict=True)
        return any(offset < 0 or offset + side > room for offset, side, room in sides)

    def windows(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Rows and columns of the canvas, and those of the resampled case that lie there."""
        sides = list(zip(self.offset, self.resampled, self.canvas, strict=True))
        y, x = (slice(max(offset, 0), min(offset + side, room)) for offset, side, room in sides)
        v, u = (slice(max(-offset, 0), min(room - offset, side)) for offset, side, room in sides)
        return (y, x), (v, u)


def fill_value(voxels: Volume) -> float:
    """The value that pads a case: its lowest voxel, but not below air, so that scanner padding does not set it."""
    return max(float(voxels.min()), AIR)


def resolve_grid(config: GridConfig, cases: Sequence[Measured], fill: float = AIR, names: Sequence[str] = ()) -> Grid:
    """Fill in what the config leaves open from the headers of the cases.

    Args:
        config: mode, and spacing or size where the user fixed them.
        cases: size and spacing of each, (z, y, x).
        fill: the value outside of a case.
        names: case ids in the order of ``cases``, for the message.

    Raises:
        UsageError: no case; or mode native, and the cases differ in size.
    """
    if not cases:
        raise UsageError("There is no case whose grid could be taken.")
    if config.mode == "native":
        return Grid("native", _common_size(config, cases, names), None, fill)
    if config.mode == "size":
        return Grid("size", config.size or _canvas(config, [size[1:] for size, _ in cases]), None, fill)
    spacing = config.spacing or _median_spacing(cases)
    sizes = [resampled_size(size[1:], old[1:], spacing) for size, old in cases]
    return Grid("spacing", config.size or _canvas(config, sizes), spacing, fill)


def _median_spacing(cases: Sequence[Measured]) -> tuple[float, float]:
    y, x = np.median([spacing[1:] for _, spacing in cases], axis=0)
    return float(y), float(x)


def _canvas(config: GridConfig, sizes: Sequence[Plane]) -> Plane:
    limit = max(config.max_size // config.multiple, 1) * config.multiple
    height, width = (min(_round_up(max(side), config.multiple), limit) for side in zip(*sizes, strict=True))
    return height, width


def _round_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _common_size(config: GridConfig, cases: Sequence[Measured], names: Sequence[str]) -> Plane:
    """The canvas of slices that agree: their size, rounded up for the net; they are padded, never resampled."""
    sizes = [size[1:] for size, _ in cases]
    common = max(set(sizes), key=sizes.count)
    odd = [number for number, size in enumerate(sizes) if size != common]
    if odd:
        shown = [f"{names[n] if names else f'case {n}'} ({sizes[n][0]}x{sizes[n][1]})" for n in odd[:5]]
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise UsageError(
            f"Mode native needs slices of one size, {common[0]}x{common[1]}; not so: {', '.join(shown)}{more}.",
            mend="Set ingest.grid.mode=spacing.",
        )
    return config.size or _canvas(config, [common])


def resampled_size(size: Plane, spacing: tuple[float, float], target: tuple[float, float]) -> Plane:
    """In-plane size of a case at another spacing (y, x); the same size where the spacings agree."""
    height, width = (
        side if abs(old - new) <= SAME_SPACING * new else max(round(side * old / new), 1)
        for side, old, new in zip(size, spacing, target, strict=True)
    )
    return height, width


def plan(size: tuple[int, int, int], spacing: tuple[float, float, float], grid: Grid) -> Placement:
    """Where a case lies on the grid's canvas, centred; a case that is larger is cropped around its middle.

    Raises:
        CaseError: mode native, and the case is larger than the canvas.
    """
    original = size[1:]
    resampled = _resampled(original, spacing, grid)
    if grid.mode == "native" and (original[0] > grid.size[0] or original[1] > grid.size[1]):
        raise CaseError(
            f"Its slices are {original[0]}x{original[1]}, the canvas of the shards {grid.size[0]}x{grid.size[1]}.",
            mend="Set ingest.grid.mode=spacing.",
        )
    return _placed(original, resampled, grid.size, spacing)


def plan_prediction(
    size: tuple[int, int, int], spacing: tuple[float, float, float], grid: Grid, multiple: int
) -> Placement:
    """As :func:`plan`, but nothing is cropped: the canvas grows, to a multiple of ``multiple`` pixels (the net's)."""
    original = size[1:]
    resampled = _resampled(original, spacing, grid)
    height, width = (_round_up(max(sides), multiple) for sides in zip(resampled, grid.size, strict=True))
    return _placed(original, resampled, (height, width), spacing)


def _resampled(original: Plane, spacing: tuple[float, float, float], grid: Grid) -> Plane:
    if grid.mode == "size":
        return grid.size
    return original if grid.spacing is None else resampled_size(original, spacing[1:], grid.spacing)


def _placed(original: Plane, resampled: Plane, canvas: Plane, spacing: tuple[float, float, float]) -> Placement:
    offset = ((canvas[0] - resampled[0]) // 2, (canvas[1] - resampled[1]) // 2)
    pixel = (spacing[1] * original[0] / resampled[0], spacing[2] * original[1] / resampled[1])
    return Placement(original, resampled, canvas, offset, pixel)
