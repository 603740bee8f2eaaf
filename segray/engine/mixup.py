"""Mixup (Zhang et al. 2018, "mixup: beyond empirical risk minimization"): a batch blended with itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segray.config import AugmentConfig
from segray.engine.draws import stream


@dataclass(frozen=True)
class Target:
    """Labels that a batch is held to, with a weight.

    Attributes:
        weight: in the sum of the losses.
        labels: as :class:`segray.engine.trainer.Batch` has them.
        known: as :class:`segray.engine.trainer.Batch` has it.
    """

    weight: float
    labels: Tensor
    known: Tensor | None

    def part(self, rows: slice) -> Target:
        """That of some of the slices."""
        return Target(self.weight, self.labels[rows], None if self.known is None else self.known[rows])


def mix(
    images: Tensor, labels: Tensor, known: Tensor | None, config: AugmentConfig, draw: int
) -> tuple[Tensor, list[Target]]:
    """A batch and what it is held to, mixed with a probability of ``config.mixup``.

    With a share s drawn from Beta(alpha, alpha) an image becomes s of itself and 1 - s of another one, and the loss s
    of that against its own labels and 1 - s of that against the other's.

    Args:
        images: (n, c, ...); not changed.
        labels: (n, ...).
        known: (n, L) or None.
        config: ``mixup`` and ``mixup_alpha``.
        draw: of :func:`segray.engine.draws.step_seed`.
    """
    if not (config.enabled and config.mixup) or len(images) < 2:
        return images, [Target(1.0, labels, known)]
    generator = stream(draw, "mixup")
    picked = torch.rand((), generator=generator) < config.mixup
    # Beta(a, a) as a share of two Gamma draws.
    shape = torch.full((2,), config.mixup_alpha, dtype=torch.float64)
    one, other = torch._standard_gamma(shape, generator=generator).tolist()
    # Every slice with the one some places further: with another one in any case.
    places = int(torch.randint(1, len(images), (), generator=generator))
    if not picked:
        return images, [Target(1.0, labels, known)]
    share = one / max(one + other, 1e-300)
    targets = [
        Target(share, labels, known),
        Target(1.0 - share, labels.roll(places, 0), None if known is None else known.roll(places, 0)),
    ]
    return torch.lerp(images.roll(places, 0), images, share), targets
