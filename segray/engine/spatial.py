"""Rotation, zoom, shift, mirror and elastic deformation of slices: all of them in one resampling."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from segray.config import AugmentConfig


def draw_affines(
    config: AugmentConfig, count: int, size: tuple[int, int] | torch.Size, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a transform a slice.

    Returns:
        (count, 2, 3) float32 matrices from output to input in grid_sample's coordinates ((x, y), the sides span
        [-1, 1]), and (count) bool: which slices change at all. A rotation is rigid in pixels on oblong slices too.
    """
    chances = torch.tensor((config.rotate, config.scale, config.shift, config.flip_x, config.flip_y))
    picked = torch.rand(count, len(chances), generator=generator) < chances
    rotated, scaled, shifted, flip_x, flip_y = picked.unbind(1)
    draws = torch.rand(count, 4, generator=generator, dtype=torch.float64)
    angle = rotated * math.radians(config.rotate_degrees) * (2 * draws[:, 0] - 1)
    low, high = (math.log(factor) for factor in config.scale_factor)
    zoom = torch.exp(scaled * (low + (high - low) * draws[:, 1]))
    shift = 2.0 * config.shift_share * (2 * draws[:, 2:] - 1) * shifted[:, None]
    aspect = size[0] / size[1]
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    mirror_x, mirror_y = 1.0 - 2.0 * flip_x, 1.0 - 2.0 * flip_y
    rows = (
        torch.stack((cosine * mirror_x, -sine * aspect * mirror_y, shift[:, 0]), dim=1),
        torch.stack((sine / aspect * mirror_x, cosine * mirror_y, shift[:, 1]), dim=1),
    )
    return torch.stack(rows, dim=1).float(), picked.any(1)


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
    """Move the chosen slices: images bilinear, labels nearest, from one grid.

    Args:
        images: (n, c, H, W) float32; not changed.
        labels: (n, H, W) integers; not changed. Or (n, D, H, W).
        matrices: (n, 2, 3) of :func:`draw_affines`.
        moved: (n) bool, the chosen slices; at least one.
        field: (n, 2, H, W) displacements (x, y) in pixels of the input, added to where the matrices point.
        overlapping: labels are bit fields.
    """
    chosen = moved.nonzero()[:, 0].to(images.device)
    source = images[chosen]
    grid = functional.affine_grid(matrices[moved].to(images.device), list(source.shape), align_corners=False)
    if field is not None:
        height, width = source.shape[-2:]
        # The sides span 2 in grid_sample's coordinates.
        grid = grid + field[chosen].permute(0, 2, 3, 1) * grid.new_tensor((2.0 / width, 2.0 / height))
    lowest = source.amin(dim=(2, 3), keepdim=True)
    # grid_sample pads with 0: with the lowest value subtracted, 0 is air.
    moved_images = functional.grid_sample(source - lowest, grid, mode="bilinear", align_corners=False) + lowest
    # float32 holds 24 bits.
    exact = torch.float64 if overlapping and labels.dtype == torch.int32 else torch.float32
    own = labels[chosen]
    indices = own.view(len(own), -1, *own.shape[-2:]).to(exact)
    moved_labels = functional.grid_sample(indices, grid.to(exact), mode="nearest", align_corners=False).view_as(own)
    return images.index_copy(0, chosen, moved_images), labels.index_copy(0, chosen, moved_labels.to(labels.dtype))
