"""Rotation, zoom, shift, mirror and elastic deformation of slices and patches: all of them in one resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from segray.config import AugmentConfig


@dataclass(frozen=True)
class _Draws:
    """What is drawn in-plane for each of n slices or patches; neutral where the dice did not choose it.

    Attributes:
        rotated, shifted: (n) bool.
        moved: (n) bool, any change at all.
        angle: (n) in radians.
        zoom: (n) of the input's coordinates; above 1 it shrinks the field of view.
        shift: (n, 2) along (x, y), of sides that span 2.
        mirror: (n, 2) 1 or -1.
    """

    rotated: Tensor
    shifted: Tensor
    moved: Tensor
    angle: Tensor
    zoom: Tensor
    shift: Tensor
    mirror: Tensor


def _draw(config: AugmentConfig, count: int, generator: torch.Generator) -> _Draws:
    chances = torch.tensor((config.rotate, config.scale, config.shift, config.flip_x, config.flip_y))
    picked = torch.rand(count, len(chances), generator=generator) < chances
    rotated, scaled, shifted = picked[:, :3].unbind(1)
    draws = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    low, high = (math.log(factor) for factor in config.scale_factor)
    return _Draws(
        rotated,
        shifted,
        picked.any(1),
        angle=rotated * math.radians(config.rotate_degrees) * (2 * draws[:, 0] - 1),
        zoom=torch.exp(scaled * (low + (high - low) * draws[:, 1])),
        shift=2.0 * config.shift_share * (2 * draws[:, 2:] - 1) * shifted[:, None],
        mirror=1.0 - 2.0 * picked[:, 3:],
    )


def between_sides(matrices: Tensor, size: Sequence[int]) -> Tensor:
    """(n, d, d) matrices of positions in pixels as those of grid_sample's coordinates, whose sides all span 2.

    Rows and columns are (x, y, [z]); ``size`` is ([D], H, W) in pixels.
    """
    sides = torch.tensor(size[::-1], dtype=torch.float64)
    return matrices * (sides / sides[:, None])


def _matrices(turned: Tensor, zoom: Tensor, mirror: Tensor, shift: Tensor, size: Sequence[int]) -> Tensor:
    """(n, d, d + 1) float32 from (n, d, d) rotations that are rigid in pixels of ``size``, the slowest axis first."""
    linear = between_sides(turned / zoom[:, None, None], size) * mirror[:, None, :]
    return torch.cat((linear, shift[:, :, None]), 2).float()


def draw_affines(
    config: AugmentConfig, count: int, size: tuple[int, int] | torch.Size, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a transform a slice.

    Returns:
        (count, 2, 3) float32 matrices from output to input in grid_sample's coordinates ((x, y), the sides span
        [-1, 1]), and (count) bool: which slices change at all. A rotation is rigid in pixels on oblong slices too.
    """
    drawn = _draw(config, count, generator)
    turned = rotations(drawn.angle, 2, 0, 1)
    return _matrices(turned, drawn.zoom, drawn.mirror, drawn.shift, size), drawn.moved


def draw_affines_3d(
    config: AugmentConfig, count: int, size: torch.Size, generator: torch.Generator, along_z: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a transform a patch: in-plane what :func:`draw_affines` draws, and the same about the other axes.

    Args:
        config: probabilities and strengths.
        count: patches.
        size: (D, H, W) in voxels.
        generator: as for :func:`draw_affines`.
        along_z: of what that does not draw: rotations about y and x, each up to ``rotate_degrees``, the shift along z.

    Returns:
        (count, 3, 4) float32 matrices from output to input in grid_sample's coordinates ((x, y, z), the sides span
        [-1, 1]), and (count) bool: which patches change at all. A rotation is rigid in voxels.
    """
    drawn = _draw(config, count, generator)
    more = 2 * torch.rand(count, 3, generator=along_z, dtype=torch.float64) - 1
    tilt = drawn.rotated[:, None] * math.radians(config.rotate_degrees) * more[:, :2]
    turned = rotations(tilt[:, 0], 3, 1, 2) @ rotations(tilt[:, 1], 3, 0, 2) @ rotations(drawn.angle, 3, 0, 1)
    shift = torch.cat((drawn.shift, 2.0 * config.shift_share * (more[:, 2] * drawn.shifted)[:, None]), 1)
    mirror = torch.cat((drawn.mirror, torch.ones(count, 1)), 1)
    return _matrices(turned, drawn.zoom, mirror, shift, size), drawn.moved


def rotations(angle: Tensor, axes: int, one: int, other: int) -> Tensor:
    """(n, axes, axes) float64 rotations by (n) radians in the plane of two of the axes (x, y, [z])."""
    matrices = torch.eye(axes, dtype=torch.float64).repeat(len(angle), 1, 1)
    matrices[:, one, one] = matrices[:, other, other] = torch.cos(angle)
    matrices[:, one, other], matrices[:, other, one] = -torch.sin(angle), torch.sin(angle)
    return matrices


def draw_elastic(
    config: AugmentConfig, count: int, size: tuple[int, int] | torch.Size, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a coarse field of displacements a slice (Simard et al. 2003; coarse as in Ronneberger et al. 2015).

    Returns:
        (count, 2, rows, columns) float32 displacements (x, y) in pixels at knots ``elastic_spacing`` apart, uniform in
        plus and minus ``elastic_shift``; 0 for slices that were not chosen. And (count) bool: the chosen ones.
    """
    bent = torch.rand(count, generator=generator) < config.elastic
    rows, columns = (math.ceil(side / config.elastic_spacing) + 3 for side in size)
    knots = config.elastic_shift * (2.0 * torch.rand(count, 2, rows, columns, generator=generator) - 1.0)
    return knots * bent[:, None, None, None], bent


def smooth_field(knots: Tensor, size: tuple[int, int] | torch.Size, spacing: float) -> Tensor:
    """Displacements of all pixels by uniform cubic B-splines (free-form deformation, Rueckert et al. 1999, eq. 2).

    A B-spline nowhere exceeds its knots, and the field is smooth up to its second derivative.

    Args:
        knots: (n, 2, rows, columns) displacements at the knots; the first lies one spacing before the first pixel.
        size: (H, W) of the slices.
        spacing: pixels from knot to knot.

    Returns:
        (n, 2, H, W).
    """
    down, across = (
        _spline_weights(side, count, spacing, knots) for side, count in zip(size, knots.shape[-2:], strict=True)
    )
    return down @ knots @ across.T


def _spline_weights(side: int, count: int, spacing: float, like: Tensor) -> Tensor:
    """(side, count) weight of each knot at each pixel: the four cubic basis functions B0 to B3."""
    at = torch.arange(side, device=like.device, dtype=like.dtype) / spacing
    cell = at.floor()
    u = at - cell
    basis = ((1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3)
    weights = like.new_zeros(side, count)
    return weights.scatter_(1, cell.long()[:, None] + torch.arange(4, device=like.device), torch.stack(basis, 1) / 6)


def resample(
    images: Tensor,
    labels: Tensor,
    matrices: Tensor,
    moved: Tensor,
    *,
    field: Tensor | None = None,
    overlapping: bool = False,
) -> tuple[Tensor, Tensor]:
    """Move the chosen slices or patches: images linear, labels nearest, from one grid.

    Args:
        images: (n, c, H, W) float32; not changed. Beside patches (n, D * c, H, W).
        labels: (n, H, W) integers; not changed. Or (n, D, H, W).
        matrices: (n, 2, 3) of :func:`draw_affines`; of :func:`draw_affines_3d` (n, 3, 4) for patches.
        moved: (n) bool, the chosen ones; at least one.
        field: (n, 2, H, W) displacements (x, y) in pixels of the input, added to where the matrices point.
        overlapping: labels are bit fields.
    """
    chosen = moved.nonzero()[:, 0].to(images.device)
    source, own = images[chosen], labels[chosen]
    if matrices.shape[1] == 3:
        source = source.reshape(len(source), own.shape[1], -1, *source.shape[2:]).transpose(1, 2)
        own = own[:, None]
    else:
        own = own.view(len(own), -1, *own.shape[-2:])
    grid = functional.affine_grid(matrices[moved].to(images.device), list(source.shape), align_corners=False)
    if field is not None:
        grid = _bent(grid, field[chosen])
    lowest = source.amin(dim=tuple(range(2, source.ndim)), keepdim=True)
    # grid_sample pads with 0: with the lowest value subtracted, 0 is air.
    moved_images = functional.grid_sample(source - lowest, grid, mode="bilinear", align_corners=False) + lowest
    if source.ndim == 5:
        moved_images = moved_images.transpose(1, 2).flatten(1, 2)
    # float32 holds 24 bits.
    exact = torch.float64 if overlapping and labels.dtype == torch.int32 else torch.float32
    moved_labels = functional.grid_sample(own.to(exact), grid.to(exact), mode="nearest", align_corners=False)
    moved_labels = moved_labels.view(len(own), *labels.shape[1:]).to(labels.dtype)
    return images.index_copy(0, chosen, moved_images), labels.index_copy(0, chosen, moved_labels)


def _bent(grid: Tensor, field: Tensor) -> Tensor:
    """The grid of slices (n, H, W, 2) or of patches (n, D, H, W, 3), whose slices are bent alike."""
    height, width = field.shape[-2:]
    # The sides span 2 in grid_sample's coordinates.
    by = field.permute(0, 2, 3, 1) * grid.new_tensor((2.0 / width, 2.0 / height))
    return grid + by if grid.ndim == 4 else grid + functional.pad(by, (0, 1))[:, None]
