"""Random changes of a batch on its device; all spatial parts in one resampling."""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from segray.config import AugmentConfig


def step_seed(seed: int, epoch: int, rank: int, step: int) -> int:
    """63 bits that depend on all four numbers alone."""
    digest = hashlib.sha256(f"{seed},{epoch},{rank},{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def augment(
    images: Tensor,
    labels: Tensor,
    config: AugmentConfig,
    *,
    span: float,
    seed: int,
    epoch: int,
    rank: int,
    step: int,
    overlapping: bool = False,
) -> tuple[Tensor, Tensor]:
    """A changed batch; the same numbers give the same batch, whatever ran before.

    A slice that the dice do not choose stays bit-equal. What comes from outside the field of view is the slice's
    lowest value (air in CT) and background.

    Args:
        images: (n, c, H, W) float32, normalised; not changed. All channels of a slice are changed alike.
        labels: (n, H, W) integer channel indices, or bit fields; not changed.
        config: probabilities and strengths.
        span: width of the input range, which brightness and noise are shares of (``Normalisation.span``).
        seed: seed of the run.
        epoch: number of the epoch.
        rank: number of the worker.
        step: number of the step.
        overlapping: the labels are bit fields.

    Returns:
        Images and labels of the same shapes and types.
    """
    if not config.enabled:
        return images, labels
    generator = torch.Generator().manual_seed(step_seed(seed, epoch, rank, step))
    matrices, moved = draw_affines(config, len(images), images.shape[-2:], generator)
    if moved.any():
        images, labels = _resample(images, labels, matrices, moved, overlapping)
    return _change_intensity(images, config, span, generator), labels


def draw_affines(
    config: AugmentConfig, count: int, size: tuple[int, int] | torch.Size, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw a transform a slice.

    Returns:
        (count, 2, 3) float32 matrices from output to input in grid_sample's coordinates ((x, y), the sides span
        [-1, 1]), and (count) bool: which slices change at all. A rotation is rigid in pixels on oblong slices too.
    """
    draws = torch.rand(count, 7, generator=generator, dtype=torch.float64)
    spatial = draws[:, 0] < config.spatial
    flip_x, flip_y = draws[:, 1] < config.flip_x, draws[:, 2] < config.flip_y
    angle = spatial * math.radians(config.rotate) * (2 * draws[:, 3] - 1)
    low, high = (math.log(factor) for factor in config.scale)
    zoom = torch.exp(spatial * (low + (high - low) * draws[:, 4]))
    shift = 2.0 * config.shift * (2 * draws[:, 5:7] - 1) * spatial[:, None]
    aspect = size[0] / size[1]
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    mirror_x, mirror_y = 1.0 - 2.0 * flip_x, 1.0 - 2.0 * flip_y
    rows = (
        torch.stack((cosine * mirror_x, -sine * aspect * mirror_y, shift[:, 0]), dim=1),
        torch.stack((sine / aspect * mirror_x, cosine * mirror_y, shift[:, 1]), dim=1),
    )
    return torch.stack(rows, dim=1).float(), spatial | flip_x | flip_y


def _resample(
    images: Tensor, labels: Tensor, matrices: Tensor, moved: Tensor, overlapping: bool
) -> tuple[Tensor, Tensor]:
    """Apply the affines to the chosen slices: images bilinear, labels nearest, from one grid."""
    chosen = moved.nonzero()[:, 0].to(images.device)
    source = images[chosen]
    grid = functional.affine_grid(matrices[moved].to(images.device), list(source.shape), align_corners=False)
    lowest = source.amin(dim=(2, 3), keepdim=True)
    # grid_sample pads with 0: with the lowest value subtracted, 0 is air.
    moved_images = functional.grid_sample(source - lowest, grid, mode="bilinear", align_corners=False) + lowest
    # float32 holds 24 bits.
    exact = torch.float64 if overlapping and labels.dtype == torch.int32 else torch.float32
    indices = labels[chosen][:, None].to(exact)
    moved_labels = functional.grid_sample(indices, grid.to(exact), mode="nearest", align_corners=False)[:, 0]
    return images.index_copy(0, chosen, moved_images), labels.index_copy(0, chosen, moved_labels.to(labels.dtype))


def _change_intensity(images: Tensor, config: AugmentConfig, span: float, generator: torch.Generator) -> Tensor:
    """Contrast about the mean, brightness, gamma over the channel's own range, and noise, on the chosen slices."""
    draws = torch.rand(len(images), 5, generator=generator)
    noise_seed = int(torch.randint(2**62, (1,), generator=generator))
    picked = draws[:, 0] < config.intensity
    if not picked.any():
        return images
    chosen = picked.nonzero()[:, 0].to(images.device)
    contrast, brightness, gamma, noise = draws[picked, 1:].to(images.device)[:, :, None, None, None].unbind(1)
    values = images[chosen]
    if config.gamma > 0:
        lowest, highest = values.amin(dim=(2, 3), keepdim=True), values.amax(dim=(2, 3), keepdim=True)
        width = (highest - lowest).clamp(min=1e-6)
        exponent = 1.0 + config.gamma * (2.0 * gamma - 1.0)
        values = values.sub_(lowest).div_(width).clamp_(min=0.0).pow_(exponent).mul_(width).add_(lowest)
    if config.contrast > 0:
        mean = values.mean(dim=(2, 3), keepdim=True)
        values = values.sub_(mean).mul_(1.0 + config.contrast * (2.0 * contrast - 1.0)).add_(mean)
    values = values.add_(config.brightness * span * (2.0 * brightness - 1.0))
    if config.noise > 0:
        dice = torch.Generator(device=images.device).manual_seed(noise_seed)
        grain = torch.randn(values.shape, generator=dice, device=values.device, dtype=values.dtype)
        values = values.add_(grain.mul_(config.noise * span * noise))
    return images.index_copy(0, chosen, values)
