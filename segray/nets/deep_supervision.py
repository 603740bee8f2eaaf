"""The loss of a net with heads at several resolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from segray.nets.losses import LossParts

Loss = Callable[[Tensor, Tensor], LossParts]


def level_weights(levels: int) -> list[float]:
    """1, 1/2, 1/4 ... from full resolution down, divided by their sum (nnU-Net, Isensee et al. 2021, methods)."""
    raw = [0.5**level for level in range(levels)]
    return [weight / sum(raw) for weight in raw]


def supervised_loss(loss: Loss, outputs: Sequence[Tensor], labels: Tensor) -> LossParts:
    """Weighted sum of the losses of all levels.

    Args:
        loss: the loss of one level.
        outputs: logits (n, L, H / 2^k, W / 2^k) for k = 0, 1, 2 ...
        labels: (n, H, W) channel indices or bit fields; a lower level sees every 2^k-th pixel, which is their nearest
            neighbour and keeps both kinds what they are.
    """
    weights = level_weights(len(outputs))
    parts = [loss(logits, labels[:, :: 2**level, :: 2**level].contiguous()) for level, logits in enumerate(outputs)]

    def weighted(terms: Sequence[Tensor]) -> Tensor:
        first, *rest = [weight * term for weight, term in zip(weights, terms, strict=True)]
        return sum(rest, start=first)

    return LossParts(
        weighted([part.total for part in parts]),
        weighted([part.dice for part in parts]),
        weighted([part.cross_entropy for part in parts]),
        {name: weighted([part.more[name] for part in parts]) for name in parts[0].more},
    )
