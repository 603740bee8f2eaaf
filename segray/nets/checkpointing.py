"""Activations that are computed again in the backward pass, not kept (Chen et al. 2016, "Sublinear memory cost")."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def computed_again(stage: nn.Module, x: Tensor) -> Tensor:
    """``stage(x)``, of which only x and the output are kept; dropout draws the same again."""

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _statistics_kept(stage)

    out: Tensor = checkpoint(stage, x, use_reentrant=False, context_fn=contexts)
    return out


@contextmanager
def _statistics_kept(stage: nn.Module) -> Iterator[None]:
    """Running statistics have seen the batch already: the second time it moves nothing."""
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
