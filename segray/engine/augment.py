"""Random changes of a batch on its device; all spatial parts in one resampling."""

from __future__ import annotations

import torch
from torch import Tensor

from segray.config import AugmentConfig
from segray.engine.draws import step_seed, stream
from segray.engine.intensity import blur, change_values, cut_out, lower_resolution
from segray.engine.spatial import draw_affines, draw_elastic, resample, smooth_field


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
    lowest value (air in CT) and background. The jitter of the window comes before, in
    :func:`segray.engine.intensity.normalise`.

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
    draw = step_seed(seed, epoch, rank, step)
    generator = torch.Generator().manual_seed(draw)
    images, labels = _move(images, labels, config, generator, draw, overlapping)
    # As light meets a scanner: the optics blur, the grid samples, then the values are read, with their noise.
    if config.blur > 0:
        images = blur(images, config, stream(draw, "blur"))
    if config.low_resolution > 0:
        images = lower_resolution(images, config, stream(draw, "low_resolution"))
    images = change_values(images, config, span, generator)
    if config.cutout > 0:
        images = cut_out(images, config, stream(draw, "cutout"))
    return images, labels


def _move(
    images: Tensor, labels: Tensor, config: AugmentConfig, generator: torch.Generator, draw: int, overlapping: bool
) -> tuple[Tensor, Tensor]:
    size = images.shape[-2:]
    matrices, moved = draw_affines(config, len(images), size, generator)
    field = None
    if config.elastic > 0:
        knots, bent = draw_elastic(config, len(images), size, stream(draw, "elastic"))
        if bent.any():
            field = smooth_field(knots.to(images.device), size, config.elastic_spacing)
            moved = moved | bent
    if not moved.any():
        return images, labels
    return resample(images, labels, matrices, moved, field=field, overlapping=overlapping)
