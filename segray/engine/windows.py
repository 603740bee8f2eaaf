"""Logits of a whole case from a 3D net, by overlapping patches, a few slices in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

OVERLAP = 0.5
"""Share of a patch's side that neighbouring patches have in common, as in nnU-Net."""

SPREAD = 1 / 8
"""Standard deviation of a patch's weights, as a share of its side."""

Forward = Callable[[Tensor], Tensor]
"""(1, c, D, h, w) to logits (1, L, D, h, w)."""

ReadSlices = Callable[[int, int], Tensor]
"""The normalised slices from one place to another, exclusive: (c, k, H, W)."""


def patch_starts(side: int, patch: int) -> list[int]:
    """Where patches begin along a side: evenly, with at least :data:`OVERLAP`, from one end to the other."""
    if side <= patch:
        return [0]
    steps = math.ceil((side - patch) / (patch * (1 - OVERLAP)))
    return [round(number * (side - patch) / steps) for number in range(steps + 1)]


@lru_cache(maxsize=8)
def patch_weights(patch: tuple[int, int, int]) -> Tensor:
    """(D, h, w) weights of a patch's voxels: a Gaussian, so that its edges, where the net sees least, count least.

    Isensee et al. 2021 ("nnU-Net"), methods, inference. At the corners, where it would vanish, it has its lowest value
    that is not below 1e-3.
    """
    sides = []
    for size in patch:
        at = (torch.arange(size) - (size - 1) / 2) / max(size * SPREAD, 1e-6)
        sides.append(torch.exp(-0.5 * at**2))
    z, y, x = sides
    return (z[:, None, None] * y[:, None] * x).clamp(min=1e-3)


def volume_logits(
    forward: Forward, read: ReadSlices, shape: tuple[int, int, int], patch: tuple[int, int, int]
) -> Iterator[Tensor]:
    """Logits of all slices of a case, in their order.

    Patches that overlap are averaged with :func:`patch_weights`. Slices are given as soon as no further patch touches
    them: memory is that of one patch's depth. Where the case has fewer slices than a patch, its first and last slice
    stand in around it, as in training.

    Args:
        forward: the net.
        read: the slices.
        shape: (Z, H, W) of the case on the canvas.
        patch: (D, h, w); in-plane 0, or more than there is, is the whole canvas.

    Yields:
        (k, L, H, W) float32, in all Z slices.
    """
    count, height, width = shape
    deep, rows, columns = patch[0], min(patch[1] or height, height), min(patch[2] or width, width)
    tiles = list(product(patch_starts(height, rows), patch_starts(width, columns)))
    starts = patch_starts(count, deep)
    if len(starts) == len(tiles) == 1:
        below = max(deep - count, 0) // 2
        yield _by_slices(forward(_around(read(0, count), deep, below)[None])[0, :, below : below + count])
        return
    weights: Tensor | None = None
    total = seen = torch.zeros(())
    for start, after in zip(starts, [*starts[1:], None], strict=True):
        below = max(deep - count, 0) // 2
        images = _around(read(start, min(start + deep, count)), deep, below)
        for y, x in tiles:
            logits = forward(images[None, :, :, y : y + rows, x : x + columns])[0].float()
            if weights is None:
                weights = patch_weights((deep, rows, columns)).to(logits.device)
                total = logits.new_zeros(len(logits), deep, height, width)
                seen = logits.new_zeros(deep, height, width)
            total[:, :, y : y + rows, x : x + columns] += logits * weights
            seen[:, y : y + rows, x : x + columns] += weights
        done = min(deep, count) if after is None else after - start
        yield _by_slices(total[:, below : below + done] / seen[below : below + done])
        total, seen = _moved_up(total, done), _moved_up(seen, done)


def _moved_up(sums: Tensor, done: int) -> Tensor:
    """Sums (..., D, H, W) without their first slices, and as many empty ones at the end."""
    return torch.cat((sums[..., done:, :, :], torch.zeros_like(sums[..., :done, :, :])), -3)


def _around(images: Tensor, deep: int, below: int) -> Tensor:
    """(c, k, H, W) to (c, deep, H, W), the first and last slice repeated."""
    places = torch.arange(deep, device=images.device).sub(below).clamp(0, images.shape[1] - 1)
    return images if images.shape[1] == deep else images[:, places]


def _by_slices(logits: Tensor) -> Tensor:
    """(L, k, H, W) to (k, L, H, W), the scores of a pixel beside each other in memory."""
    return logits.float().transpose(0, 1).contiguous(memory_format=torch.channels_last)
