"""Optimisers of a config, and the moving average of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from segray.config import OptimConfig


def build_optimiser(network: nn.Module, config: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW, SGD with Nesterov momentum, or RMSprop; norms and biases are not decayed."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda")
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    if config.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.lr, momentum=config.momentum, foreach=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused)


class WeightAverage:
    """The exponential moving average of a network's weights (Polyak & Juditsky 1992, as most recipes keep it).

    Attributes:
        network: a copy that holds the averaged weights; its running statistics are those of the network itself.
        updates: updates seen.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.updates = 0
        self._decay = decay
        self._ours, self._theirs = _floats(self.network), _floats(network)
        self._buffers = list(zip(self.network.buffers(), network.buffers(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are; the first ones count more, so that a short run is no mean of its start."""
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._ours, self._theirs, 1.0 - decay)
        for ours, theirs in self._buffers:
            ours.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        """Averaged weights and the number of updates."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        self.network.load_state_dict(state["network"])
        self.updates = int(state["updates"])


def _floats(network: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in network.parameters()]
