"""What a training step shows the net: a batch, normalised and augmented."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from segray.config import Config
from segray.engine.augment import augment
from segray.engine.draws import step_seed
from segray.engine.intensity import normalise
from segray.nets.normalise import Normalisation

if TYPE_CHECKING:
    from segray.engine.trainer import Batch


def network_inputs(
    batch: Batch,
    config: Config,
    normalisation: Normalisation,
    *,
    epoch: int,
    rank: int,
    step: int,
    overlapping: bool = False,
) -> tuple[Tensor, Tensor]:
    """Images (n, c, H, W) float32 and labels (n, H, W) of a step; the same numbers give the same tensors.

    Of 3D patches images (n, c, D, H, W) and labels (n, D, H, W).

    Args:
        batch: the slices as they are read.
        config: seed and augmentation.
        normalisation: voxel values to network input.
        epoch: number of the epoch.
        rank: number of the worker.
        step: number of the step over the whole run, from 0.
        overlapping: the labels are bit fields.
    """
    draw = step_seed(config.seed, epoch, rank, step)
    images = normalise(batch.images, batch.mean, batch.sd, normalisation, config.augment, draw)
    images, labels = augment(
        images,
        batch.labels,
        config.augment,
        span=normalisation.span,
        seed=config.seed,
        epoch=epoch,
        rank=rank,
        step=step,
        overlapping=overlapping,
    )
    return (volumes_of(images, labels.shape[1]) if labels.ndim == 4 else images), labels


def volumes_of(images: Tensor, depth: int) -> Tensor:
    """(n, D * c, H, W), of each slice all channels together, to (n, c, D, H, W)."""
    return images.reshape(len(images), depth, -1, *images.shape[2:]).transpose(1, 2)
