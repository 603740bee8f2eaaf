"""The loss of a net with heads at several resolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from segray.nets.losses import LossParts, weighted_parts

Loss = Callable[[Tensor, Tensor], LossParts]


def level_weights(levels: int) -> list[float]:
    """1, 1/2, 1/4 ... from full resolution down, divided by their sum (nnU-Net, Isensee et al. 2021, methods)."""
    raw = [0.5**level for level in range(levels)]
    return [weight / sum(raw) for weight in raw]


def supervised_loss(loss: Loss, outputs: Sequence[Tensor], labels: Tensor) -> LossParts:
    """Weighted sum of the losses of all levels.

    Args:
        loss: the loss of one level.
        outputs: logits (n, L, H / 2^k, W / 2^k) for k = 0, 1, 2 ...; of a 3D net (n, L, D / d, H / 2^k, W / 2^k).
        labels: (n, H, W) or (n, D, H, W) channel indices or bit fields; a lower level sees every 2^k-th pixel, which is
            their nearest neighbour and keeps both kinds what they are.
    """
    if len(outputs) == 1:
        return loss(*_as_slices(outputs[0], labels))
    weights = level_weights(len(outputs))
    parts = [loss(*_as_slices(logits, _thinned(labels, logits))) for logits in outputs]

    return weighted_parts(list(zip(weights, parts, strict=True)))


def _thinned(labels: Tensor, logits: Tensor) -> Tensor:
    """The labels at the resolution of the logits."""
    for axis, (many, few) in enumerate(zip(labels.shape[1:], logits.shape[2:], strict=True), start=1):
        labels = labels[(slice(None),) * axis + (slice(None, None, many // few),)]
    return labels.contiguous()


def _as_slices(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Patches as slices of D * H rows: a loss counts voxels, wherever they lie. Nothing is copied."""
    return (logits.flatten(2, 3), labels.flatten(1, 2)) if labels.ndim == 4 else (logits, labels)
