"""What a net costs before it is trained: parameters, arithmetic, memory; found without arithmetic, on meta tensors."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from segray.nets.unet import UNet

GIB = 2**30

LOSS_TENSORS = 3
"""Tensors of the logits' size in float32 that the loss and its gradient hold at once."""


@dataclass(frozen=True)
class NetCost:
    """The cost of a net on slices of one size.

    Attributes:
        parameters: trained numbers.
        flops_per_slice: floating point operations of a forward pass in inference (a multiplication and its addition
            are two), convolutions and matrix products only, as torch counts them.
        training_bytes: estimated memory of a training step: weights, gradients, the optimiser's state, what the
            backward pass needs, and the loss. Buffers of the libraries and the batches on their way come on top.
        height: rows of the slice.
        width: columns of the slice.
        batch: slices, in 3D patches, a step.
        depth: slices of a patch; 0 in 2D.
    """

    parameters: int
    flops_per_slice: int
    training_bytes: int
    height: int
    width: int
    batch: int
    depth: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for a log or a terminal."""
        patch = f" in patches of {self.depth}" if self.depth else ""
        return (
            f"{self.parameters / 1e6:.2f} million parameters, {self.flops_per_slice / 1e9:.2f} GFLOPs a slice of "
            f"{self.height} x {self.width}{patch}, about {self.training_bytes / GIB:.2f} GiB to train on {self.batch} "
            "at once"
        )


def net_cost(
    net: nn.Module, in_channels: int, canvas: Sequence[int], *, batch: int, bf16: bool = False, momenta: int = 2
) -> NetCost:
    """The cost of a net; the net itself is not changed and nothing is computed.

    Args:
        net: (n, C, H, W) -> logits, or in training a tuple of them. Where it computes activations again
            (``checkpointing``), memory is what is left then.
        in_channels: C.
        canvas: (H, W) of a slice, or (D, H, W) of a patch.
        batch: slices a training step.
        bf16: activations are kept in bfloat16 (autocast), which halves them.
        momenta: tensors that the optimiser keeps for each parameter: AdamW and RMSprop with momentum 2, SGD 1, a
            moving average of the weights 1 more.
    """
    ghost = copy.deepcopy(net).to("meta")
    parameters = sum(p.numel() for p in ghost.parameters() if p.requires_grad)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        ghost.eval()(torch.empty(1, in_channels, *canvas, device="meta"))
    saved, logits = _saved_bytes(ghost.train(), torch.empty(batch, in_channels, *canvas, device="meta"))
    state = 4 * parameters * (2 + momenta)
    activations = saved // 2 if bf16 else saved
    *deep, height, width = canvas
    depth, needed = sum(deep), state + activations + LOSS_TENSORS * logits
    return NetCost(parameters, counter.get_total_flops() // max(depth, 1), needed, height, width, batch, depth)


def _saved_bytes(net: nn.Module, images: Tensor) -> tuple[int, int]:
    """(bytes that autograd keeps for the backward pass, bytes of all logits); weights are no part of it."""
    kept = _Kept(net)
    if isinstance(net, UNet) and net.checkpointing:
        net.checkpointing = False
        for stage in net.stages:
            stage.register_forward_pre_hook(kept.enter)
            stage.register_forward_hook(kept.leave)
    with saved_tensors_hooks(kept.keep, _as_it_is):
        outputs = net(images)
    levels = outputs if isinstance(outputs, tuple) else (outputs,)
    return kept.bytes, sum(4 * level.numel() for level in levels)


class _Kept:
    """What autograd keeps of a forward pass, each piece of memory once.

    Of a stage that is computed again only its input is kept; while it is, all inside it is there as well, of one stage
    at a time.
    """

    def __init__(self, net: nn.Module) -> None:
        self._own = {tensor.untyped_storage()._cdata for tensor in net.parameters()}
        self._sizes: dict[int, int] = {}
        # Held until the end: a freed storage would give its address to the next one.
        self._held: list[Tensor] = []
        self._before: set[int] = set()
        self._again = 0

    @property
    def bytes(self) -> int:
        """All of it, when it is most."""
        return sum(self._sizes.values()) + self._again

    def keep(self, tensor: Tensor) -> Tensor:
        """Note a tensor that autograd saves."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._sizes[storage._cdata] = storage.nbytes()
            self._held.append(tensor)
        return tensor

    def enter(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        """A stage begins that will be computed again."""
        self.keep(inputs[0])
        self._before = set(self._sizes)

    def leave(self, *_: object) -> None:
        """It ends: what it has saved is gone until the backward pass."""
        inside = [self._sizes.pop(key) for key in self._sizes.keys() - self._before]
        self._again = max(self._again, sum(inside))


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
