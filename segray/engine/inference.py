"""A network made fast for inference: norms folded, weights in the right type, activations inside convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segray.config import Precision
from segray.engine.precision import DTYPES, Resolved, autocast, channels_last, resolve_precision
from segray.nets.unet import ConvUnit, SegmentationNet, fold_batch_norm

_FUSED = {nn.ReLU: ("relu", []), nn.LeakyReLU: ("leaky_relu", [0.01]), nn.Identity: ("none", [])}
"""Activations that oneDNN applies while a convolution's output is still in the cache, with their parameters."""


class ForwardPass:
    """(n, C, [D], H, W) float32 to logits (n, L, [D], H, W) in channels_last, in the precision asked for.

    With all norms folded, weights of low precision give what autocast gives, bit for bit: autocast rounds the same
    weights at every call. Networks that keep a norm run under autocast, where the norm stays in float32.

    Attributes:
        network: the network that is called.
        fused: True where activations are part of the convolutions (CPU only).
    """

    def __init__(
        self, network: SegmentationNet, device: torch.device, precision: Precision, *, fuse: bool = True
    ) -> None:
        """Fold, cast and move a copy of the network; ``fuse=False`` leaves activations to a compiler."""
        folded = fold_batch_norm(network).to(device)
        units = [unit for unit in folded.modules() if isinstance(unit, ConvUnit)]
        is_folded = bool(units) and all(isinstance(unit.norm, nn.Identity) for unit in units)
        resolved = resolve_precision(precision, device)
        if is_folded:
            folded = folded.to(DTYPES[resolved])
        self._format = channels_last(network.space.axes)
        self.network: nn.Module = folded.to(memory_format=self._format)  # type: ignore[call-overload]
        fusible = all(type(unit.activation) in _FUSED for unit in units)
        self.fused = fuse and is_folded and fusible and _fuses(device, resolved)
        if self.fused:
            _fuse(self.network)
        self._device = device
        self._autocast: Resolved = "float32" if is_folded else resolved
        self._dtype = DTYPES[resolved] if is_folded else torch.float32

    def __call__(self, images: Tensor) -> Tensor:
        """The logits of a batch of normalised slices or patches."""
        images = images.to(self._dtype).contiguous(memory_format=self._format)
        with autocast(self._device, self._autocast):
            logits: Tensor = self.network(images)
        return logits


class FusedUnit(nn.Module):
    """A folded :class:`ConvUnit` as one oneDNN call; the operator is the one that torch.compile emits on CPUs."""

    def __init__(self, unit: ConvUnit) -> None:
        super().__init__()
        self.conv = unit.conv
        self._name, self._scalars = _FUSED[type(unit.activation)]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and activate."""
        conv = self.conv
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, conv.weight, conv.bias, conv.padding, conv.stride, conv.dilation, 1, self._name, self._scalars, ""
        )
        return out


def _fuses(device: torch.device, precision: Resolved) -> bool:
    operators: Any = torch.ops.mkldnn
    if device.type != "cpu" or not hasattr(operators, "_convolution_pointwise"):
        return False
    return precision == "float32" or (precision == "bf16" and bool(operators._is_mkldnn_bf16_supported()))


def _fuse(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvUnit):
                setattr(parent, name, FusedUnit(child))
