"""Probabilities of labels, and their mean over several members: mirrors, or networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

NEAREST = 1e-7
"""Least distance of a structure's mean probability from 0 and 1, so that its logit is finite: what float32 can tell."""

LEAST = torch.finfo(torch.float32).tiny
"""The same for labels that exclude each other, of which only the logarithm is taken."""


class Listener(Protocol):
    """What is told of a mean while it is made."""

    def member(self, found: Tensor) -> None:
        """(n, L, ...) probabilities of the next member, which must not be kept: the sum is made in their place."""

    def mean(self, found: Tensor) -> None:
        """(n, L, ...) mean of the probabilities of all members since the last mean."""

    def forget(self) -> None:
        """The members since the last mean come to nothing: memory ran out, and all of them come again."""


def probabilities(logits: Tensor, *, overlapping: bool) -> Tensor:
    """Logits (n, L, ...) to float32 probabilities: each label's own where they overlap, else summing to 1 over L."""
    return torch.sigmoid(logits.float()) if overlapping else torch.softmax(logits.float(), 1)


def mean_probabilities(members: Iterable[Tensor], listener: Listener | None = None) -> Tensor:
    """The mean of the (n, L, ...) float32 probabilities of one member or more, made in the first one's memory."""
    total, count = torch.zeros(()), 0
    try:
        for found in members:
            if listener is not None:
                listener.member(found)
            total = total.add_(found) if count else found
            count += 1
    except Exception:
        if listener is not None:
            listener.forget()
        raise
    total.div_(count)
    if listener is not None:
        listener.mean(total)
    return total


def logits_of(mean: Tensor, *, overlapping: bool) -> Tensor:
    """Logits whose :func:`probabilities` are (n, L, ...) float32 ones, made in their memory."""
    return mean.logit_(eps=NEAREST) if overlapping else mean.clamp_(min=LEAST).log_()
