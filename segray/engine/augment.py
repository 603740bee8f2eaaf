"""Random changes of a batch on its device; all spatial parts in one resampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segray.config import AugmentConfig
from segray.engine.draws import step_seed, stream
from segray.engine.intensity import blur, change_values, cut_out, lower_resolution
from segray.engine.spatial import draw_affines, draw_affines_3d, draw_elastic, resample, smooth_field


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
        labels: (n, H, W) integer channel indices, or bit fields; not changed. Of 3D patches (n, D, H, W), beside images
            (n, D * c, H, W): all slices of a patch are moved alike, in-plane (as nnU-Net does where slices are thick),
            or with ``space`` as a volume; their values are changed as one volume's.
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
    if labels.ndim == 4 and config.flip_z > 0:
        images, labels = _turn_over(images, labels, config.flip_z, stream(draw, "flip_z"))
    # As light meets a scanner: the optics blur, the grid samples, then the values are read, with their noise.
    if config.blur > 0:
        images = blur(images, config, stream(draw, "blur"))
    if config.low_resolution > 0:
        images = lower_resolution(images, config, stream(draw, "low_resolution"))
    if labels.ndim == 4:
        images = _of_volumes(images, labels.shape[1], lambda values: change_values(values, config, span, generator))
    else:
        images = change_values(images, config, span, generator)
    if config.cutout > 0:
        images = cut_out(images, config, stream(draw, "cutout"))
    return images, labels


def _move(
    images: Tensor, labels: Tensor, config: AugmentConfig, generator: torch.Generator, draw: int, overlapping: bool
) -> tuple[Tensor, Tensor]:
    size = images.shape[-2:]
    if config.space and labels.ndim == 4:
        along_z = stream(draw, "along_z")
        matrices, moved = draw_affines_3d(config, len(images), labels.shape[1:], generator, along_z)
    else:
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


def _turn_over(images: Tensor, labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The chosen patches mirrored along z."""
    chosen = (torch.rand(len(images), generator=generator) < share).nonzero()[:, 0].to(images.device)
    if not chosen.numel():
        return images, labels
    own = images[chosen]
    slices = own.reshape(len(own), labels.shape[1], -1, *own.shape[2:]).flip(1).flatten(1, 2)
    return images.index_copy(0, chosen, slices), labels.index_copy(0, chosen, labels[chosen].flip(1))


def _of_volumes(images: Tensor, depth: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """``change`` of (n, c, D * H, W), so that a channel of a patch has one range and one mean."""
    count, _, height, width = images.shape
    volumes = images.reshape(count, depth, -1, height, width).transpose(1, 2)
    changed = change(volumes.reshape(count, -1, depth * height, width))
    return changed.view(count, -1, depth, height, width).transpose(1, 2).reshape(images.shape)
