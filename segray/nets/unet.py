"""The 2D U-Net (Ronneberger et al. 2015, with normalisation after each convolution as nnU-Net has it)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segray.config import NetConfig
from segray.errors import UsageError

Norm = Literal["batch", "instance", "group"]
Activation = Literal["relu", "leaky_relu", "silu"]
Upsampling = Literal["transposed", "bilinear"]
Down = Literal["pool", "strided"]

GROUPS = 8
"""Groups of a group normalisation, where the channels divide by it."""


class ConvUnit(nn.Module):
    """A 3x3 convolution, its norm and activation: (n, C, H, W) -> (n, K, H / stride, W / stride)."""

    conv: nn.Conv2d
    norm: nn.Module

    def __init__(self, inputs: int, outputs: int, norm: Norm, activation: Activation, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm = _norm(norm, outputs)
        self.activation = _activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, activate."""
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class Stage(nn.Sequential):
    """Two units, and spatial dropout where asked for."""

    def __init__(
        self, inputs: int, outputs: int, norm: Norm, activation: Activation, dropout: float = 0.0, stride: int = 1
    ) -> None:
        units: list[nn.Module] = [
            ConvUnit(inputs, outputs, norm, activation, stride),
            ConvUnit(outputs, outputs, norm, activation),
        ]
        super().__init__(*units, *([nn.Dropout2d(dropout)] if dropout > 0 else []))


class UNet(nn.Module):
    """A 2D U-Net: (n, C, H, W) -> logits (n, L, H, W), for H and W that are multiples of :attr:`stride`.

    Attributes:
        in_channels: C.
        out_channels: L, background included.
        features: channels a level, from full resolution down.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        features: Sequence[int],
        norm: Norm = "batch",
        activation: Activation = "leaky_relu",
        upsampling: Upsampling = "transposed",
        dropout: float = 0.0,
        down: Down = "pool",
    ) -> None:
        super().__init__()
        if len(features) < 2:
            raise UsageError(f"A U-Net needs two levels or more; net.features is {list(features)}.")
        self.in_channels, self.out_channels, self.features = in_channels, out_channels, tuple(features)
        drops = [dropout if level >= len(features) - 2 else 0.0 for level in range(len(features))]
        steps = [1 if level == 0 or down == "pool" else 2 for level in range(len(features))]
        inputs = [in_channels, *features[:-1]]
        self.encoder = nn.ModuleList(
            Stage(before, after, norm, activation, drop, step)
            for before, after, drop, step in zip(inputs, features, drops, steps, strict=True)
        )
        self.pool = nn.MaxPool2d(2) if down == "pool" else nn.Identity()
        levels = range(len(features) - 2, -1, -1)
        self.up = nn.ModuleList(_up(upsampling, features[level + 1], features[level]) for level in levels)
        self.decoder = nn.ModuleList(
            Stage(2 * features[level], features[level], norm, activation, drops[level]) for level in levels
        )
        self.head = nn.Conv2d(features[0], out_channels, 1)
        self.apply(_initialise)

    @property
    def stride(self) -> int:
        """The sides of an input must be multiples of this: 2 ** (levels - 1)."""
        return int(2 ** (len(self.features) - 1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to logits (n, L, H, W)."""
        skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            if level:
                skips.append(x)
                x = self.pool(x)
            x = stage(x)
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = stage(torch.cat((skips.pop(), up(x)), dim=1))
        logits: Tensor = self.head(x)
        return logits


def build_net(config: NetConfig, in_channels: int, out_channels: int) -> UNet:
    """The U-Net of a config: (n, in_channels, H, W) -> logits (n, out_channels, H, W)."""
    return UNet(
        in_channels,
        out_channels,
        features=config.features,
        norm=config.norm,
        activation=config.activation,
        upsampling=config.upsampling,
        dropout=config.dropout,
    )


def fold_batch_norm(net: UNet) -> UNet:
    """A copy for inference whose batch norms have become part of the convolutions; other norms stay as they are.

    The outputs equal those of ``net.eval()`` within float32 tolerance.
    """
    folded = copy.deepcopy(net).eval()
    for unit in folded.modules():
        if isinstance(unit, ConvUnit) and isinstance(unit.norm, nn.BatchNorm2d):
            unit.conv = fuse_conv_bn_eval(unit.conv, unit.norm)
            unit.norm = nn.Identity()
    return folded.requires_grad_(False)


def _norm(norm: Norm, channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.GroupNorm(GROUPS if channels % GROUPS == 0 else 1, channels)


def _activation(activation: Activation) -> nn.Module:
    if activation == "relu":
        return nn.ReLU(inplace=True)
    if activation == "leaky_relu":
        return nn.LeakyReLU(0.01, inplace=True)
    return nn.SiLU(inplace=True)


def _up(upsampling: Upsampling, inputs: int, outputs: int) -> nn.Module:
    if upsampling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    # The 1x1 convolution first: it and the upsampling commute, and so it runs on a quarter of the pixels.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
