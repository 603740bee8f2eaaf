"""The batch size at which a device trains at full speed, found by steps on made slices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from segray.engine.trainer import Batch, Trainer

SECONDS = 60.0
"""About what the search may take in all."""
SECONDS_A_SIZE = 1.5
FULL_SPEED = 0.95
SHARE_OF_GPU = 0.9
"""Of the GPU's memory, for what a batch takes: the libraries choose other buffers as a training goes on."""


@dataclass(frozen=True)
class BatchRate:
    """A batch size and the slices (in 3D patches) that were learnt a second by steps of it."""

    batch: int
    rate: float


@dataclass(frozen=True)
class MadeSlices:
    """Random slices or patches of the shape that a training sees.

    Attributes:
        channels: of the images as the shards hold them, neighbours included.
        statistics: means and standard deviations of a case: channels of the shards without neighbours.
        size: (H, W) of a slice or (D, H, W) of a patch.
        values: label values, or bit fields, from 0 to this are drawn, this not included.
    """

    channels: int
    statistics: int
    size: tuple[int, ...]
    values: int

    def batch(self, count: int, device: torch.device) -> Batch:
        """So many of them, always the same."""
        rng = np.random.default_rng(0)
        *deep, height, width = self.size
        planes = self.channels * (deep[0] if deep else 1)
        images = rng.integers(-1000, 1000, (count, planes, height, width), dtype=np.int16)
        labels = rng.integers(0, self.values, (count, *self.size)).astype(np.uint8 if self.values <= 256 else np.int32)
        ones = np.ones((count, self.statistics) if self.statistics > 1 else count, np.float32)
        one_plane = planes == 1 and not deep
        return Batch.from_arrays(
            images[:, 0] if one_plane else images, labels, ones, ones, ["made"] * count, device=device
        )


def measure_rates(trainer: Trainer, slices: MadeSlices, most: int, clock: Callable[[], float]) -> list[BatchRate]:
    """The rates of 1, 2, 4 and so on up to ``most``, as far as memory and :data:`SECONDS` go.

    Args:
        trainer: of the config; its weights are of no use afterwards.
        slices: what it learns from.
        most: the largest batch to try.
        clock: seconds, such as ``time.monotonic``.
    """
    rates: list[BatchRate] = []
    begin, size = clock(), 1
    while size <= most:
        started = clock()
        try:
            rates.append(BatchRate(size, _rate(trainer, slices, size, clock)))
        except torch.OutOfMemoryError:
            break
        took = clock() - started
        if not _has_room(trainer.device) or clock() - begin + 2 * took > SECONDS:
            break
        size *= 2
    return rates


def best_batch(rates: Sequence[BatchRate]) -> int:
    """The largest batch that is learnt at :data:`FULL_SPEED` of the best rate: its gradient has the least noise."""
    best = max(rate.rate for rate in rates)
    return max(rate.batch for rate in rates if rate.rate >= FULL_SPEED * best)


def _rate(trainer: Trainer, slices: MadeSlices, size: int, clock: Callable[[], float]) -> float:
    batch = slices.batch(size, trainer.device)
    # The first step of a size chooses algorithms and takes memory.
    trainer.step(batch, epoch=1, step=0, progress=0.0)
    begin, steps = clock(), 0
    while steps < 2 or clock() - begin < SECONDS_A_SIZE:
        steps += 1
        trainer.step(batch, epoch=1, step=steps, progress=0.0)
    return steps * size / max(clock() - begin, 1e-9)


def _has_room(device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.max_memory_allocated(device) < SHARE_OF_GPU * total / 2


def now() -> float:
    """Seconds of a clock that never goes back."""
    return time.monotonic()
