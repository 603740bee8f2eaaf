"""The networks of a Predictor, each as what gives the logits of a slab."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segray.engine.mirrors import Forward
from segray.engine.placed_case import PlacedCase, Slab
from segray.engine.stage_clock import StageClock
from segray.engine.windows import volume_logits
from segray.nets.bundle import Bundle

Member = Callable[[Slab], Tensor]
"""A slab to logits (n, L, H, W) of the slices of all its pieces."""


def slice_member(bundle: Bundle, forward: Forward, clock: StageClock) -> Member:
    """A network that sees slices, alone or with their neighbours."""

    def logits(slab: Slab) -> Tensor:
        with clock.stage("place"):
            images = slab.images(bundle)
        with clock.stage("forward"):
            return forward(images)

    return logits


def patch_member(
    bundle: Bundle,
    forward: Forward,
    case: PlacedCase,
    patch: tuple[int, int, int],
    *,
    overlap: float,
    at_once: int,
    clock: StageClock,
) -> Member:
    """A 3D network: slabs are of this one case, and asked for in the order of its slices.

    ``patch``, ``overlap`` and ``at_once`` are those of :func:`segray.engine.windows.volume_logits`.
    """

    def read(start: int, stop: int) -> Tensor:
        return case.normalised(case.placed(start, stop), bundle).transpose(0, 1)

    found = volume_logits(forward, read, (case.depth, *case.placement.canvas), patch, overlap, at_once)
    waiting: list[Tensor] = []

    def logits(slab: Slab) -> Tensor:
        (piece,) = slab.pieces
        count = len(piece.slices)
        with clock.stage("forward"):
            while sum(map(len, waiting)) < count:
                waiting.append(next(found))
        joined = waiting[0] if len(waiting) == 1 else torch.cat(waiting)
        waiting[:] = [joined[count:]]
        return joined[:count]

    return logits
