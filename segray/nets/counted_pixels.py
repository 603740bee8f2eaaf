"""Which pixels and labels a loss may count: pixels that are ignored, and structures that nobody drew in a case."""

from __future__ import annotations

import torch
from torch import Tensor


def leave_out(logits: Tensor, labels: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
    """The pixels whose label is not ``ignored``, as a batch of one slice that is one pixel wide.

    Args:
        logits: (n, L, H, W).
        labels: (n, H, W).
        ignored: the label, or the bit field, of the pixels to leave out.

    Returns:
        Logits (1, L, K, 1) and labels (1, K, 1) of the K pixels that are left, in their order; K may be 0.
    """
    counted = labels.reshape(-1) != ignored
    rows = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])[counted]
    return rows.t()[None, :, :, None], labels.reshape(-1)[counted][None, :, None]


def hide_unknown(logits: Tensor, known: Tensor, *, overlapping: bool) -> Tensor:
    """Logits by which a loss neither teaches nor punishes structures that nobody drew in a slice's case.

    Exclusive labels: an unknown structure may hide in what is drawn as background, so its probability is added to
    that of the background (the marginal loss of Fang & Yan 2020 and Shi et al. 2021) and is 0 by itself.
    Overlapping labels: its probability is 0, as its truth is, which costs nothing. Either way no gradient reaches the
    net of what is hidden, but through the background's sum.

    Args:
        logits: (n, L, H, W); channel 0 is the background unless the labels overlap.
        known: (n, L) bool, on the same device; of exclusive labels the first column, the background, is True.
        overlapping: the labels may overlap.

    Returns:
        Logits of the same shape, in float32 (float64 stays).
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    lowest = torch.finfo(wide.dtype).min / 4
    hidden = ~known[:, :, None, None]
    shown = wide.masked_fill(hidden, lowest)
    if overlapping:
        return shown
    merging = hidden.clone()
    merging[:, 0] = True
    background = wide.masked_fill(~merging, lowest).logsumexp(1, keepdim=True)
    # The logsumexp of the background alone is the background, but for its last bit.
    background = torch.where(hidden.any(1, keepdim=True), background, wide[:, :1])
    return torch.cat((background, shown[:, 1:]), dim=1)


def forget_unknown(labels: Tensor, known: Tensor, *, overlapping: bool) -> Tensor:
    """Labels without what stands in them of structures that are not known in a slice's case: background instead.

    The user may say that nobody is to be believed on a structure that the files of a case show all the same.

    Args:
        labels: (n, ...) channel indices, the ignored one included, or bit fields; not changed.
        known: (n, L) bool, as for :func:`hide_unknown`.
        overlapping: the labels are bit fields.
    """
    around = (-1, *[1] * (labels.ndim - 1))
    if overlapping:
        bits = (known.long() << torch.arange(known.shape[1], device=known.device)).sum(1)
        return labels & bits.to(labels.dtype).view(around)
    told = torch.cat((known, torch.ones_like(known[:, :1])), 1)
    return labels * told.gather(1, labels.flatten(1).long()).view(labels.shape)
