"""The 2D U-Net (Ronneberger et al. 2015, with normalisation after each convolution as nnU-Net has it).

By config its encoder is residual (ResEnc of Isensee et al. 2024, "nnU-Net Revisited"), its skips pass attention gates
(Oktay et al. 2018, "Attention U-Net") and its lower decoder levels have heads of their own (deep supervision).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segray.config import NetConfig
from segray.errors import UsageError

Norm = Literal["batch", "instance", "group", "none"]
Activation = Literal["relu", "leaky_relu", "silu"]
Upsampling = Literal["transposed", "bilinear", "interpolated"]
Down = Literal["pool", "strided"]
Blocks = Literal["plain", "residual"]

GROUPS = 8
"""Groups of a group normalisation, where the channels divide by it."""


RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6)
"""Residual blocks a level, from full resolution down: the ResEnc presets of nnU-Net."""


class ConvUnit(nn.Module):
    """A convolution, its norm and activation (None: none): (n, C, H, W) -> (n, K, H / stride, W / stride)."""

    conv: nn.Conv2d
    norm: nn.Module

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norm: Norm,
        activation: Activation | None,
        stride: int = 1,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=norm == "none")
        self.norm = _norm(norm, outputs)
        self.activation = _activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, activate."""
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out


class Stage(nn.Sequential):
    """Two units, ``between`` channels (by default the outputs') between them, and spatial dropout where asked for."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norm: Norm,
        activation: Activation,
        dropout: float = 0.0,
        stride: int = 1,
        between: int = 0,
    ) -> None:
        units: list[nn.Module] = [
            ConvUnit(inputs, between or outputs, norm, activation, stride),
            ConvUnit(between or outputs, outputs, norm, activation),
        ]
        super().__init__(*units, *([nn.Dropout2d(dropout)] if dropout > 0 else []))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (n, C, H, W) -> (n, K, H / stride, W / stride).

    The shortcut halves by averaging and changes channels by a 1x1 convolution with norm (ResNet-D, He et al. 2019),
    as in nnU-Net's residual encoder.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, activation: Activation, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvUnit(inputs, outputs, norm, activation, stride)
        self.second = ConvUnit(outputs, outputs, norm, None)
        self.average = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.project = ConvUnit(inputs, outputs, norm, None, kernel=1) if inputs != outputs else nn.Identity()
        self.activation = _activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways, activated."""
        out: Tensor = self.activation(self.second(self.first(x)) + self.project(self.average(x)))
        return out


class ResidualStage(nn.Sequential):
    """``count`` residual blocks, the first of which changes channels and resolution, and spatial dropout."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        norm: Norm,
        activation: Activation,
        count: int,
        dropout: float = 0.0,
        stride: int = 1,
    ) -> None:
        blocks: list[nn.Module] = [ResidualBlock(inputs, outputs, norm, activation, stride)]
        blocks += [ResidualBlock(outputs, outputs, norm, activation) for _ in range(count - 1)]
        super().__init__(*blocks, *([nn.Dropout2d(dropout)] if dropout > 0 else []))


class AttentionGate(nn.Module):
    """A skip weighted by what the decoder knows: skip (n, C, H, W) and gate (n, K, H, W) -> (n, C, H, W).

    Additive attention, Oktay et al. 2018, equation 1: skip * sigmoid(psi(relu(W_x skip + W_g gate))). The gate is
    the decoder's upsampled signal, so that both have one resolution.
    """

    def __init__(self, channels: int, gate: int, norm: Norm) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.of_skip = ConvUnit(channels, inner, norm, None, kernel=1)
        self.of_gate = ConvUnit(gate, inner, norm, None, kernel=1)
        self.psi = nn.Conv2d(inner, 1, 1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """The skip, each pixel times its weight in (0, 1)."""
        weight = torch.sigmoid(self.psi(functional.relu(self.of_skip(skip) + self.of_gate(gate))))
        return skip * weight


class UNet(nn.Module):
    """A 2D U-Net: (n, C, H, W) -> logits (n, L, H, W), for H and W that are multiples of :attr:`stride`.

    With deep supervision the output in training mode is a tuple: the logits at full resolution, at half of it and so
    on, for all decoder levels but the lowest (which nnU-Net weighs with 0). In inference mode it is the first alone.

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
        blocks: Blocks = "plain",
        attention: bool = False,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if len(features) < 2:
            raise UsageError(f"A U-Net needs two levels or more; net.features is {list(features)}.")
        self.in_channels, self.out_channels, self.features = in_channels, out_channels, tuple(features)
        drops = [dropout if level >= len(features) - 2 else 0.0 for level in range(len(features))]
        levels = range(len(features) - 2, -1, -1)
        bare = upsampling == "interpolated"
        # Where nothing follows the interpolation that could narrow, what is interpolated is half as wide.
        encoded = [*features[:-1], _half(features[-1])] if bare else list(features)
        decoded = [features[0], *map(_half, features[1:-1])] if bare else list(features[:-1])
        below = [*decoded[1:], encoded[-1]]
        raised = below if bare else list(features[:-1])
        if blocks == "residual":
            self.encoder = _residual_encoder(in_channels, encoded, norm, activation, drops)
        else:
            self.encoder = _plain_encoder(in_channels, encoded, norm, activation, drops, down)
        self.pool = nn.MaxPool2d(2) if down == "pool" and blocks == "plain" else nn.Identity()
        self.up = nn.ModuleList(_up(upsampling, below[level], raised[level]) for level in levels)
        self.gates = nn.ModuleList(AttentionGate(features[level], raised[level], norm) for level in levels if attention)
        self.decoder = nn.ModuleList(
            _decoder_stage(features[level] + raised[level], decoded[level], norm, activation, drops[level], bare)
            for level in levels
        )
        self.head = nn.Conv2d(decoded[0], out_channels, 1)
        supervised = range(1, len(features) - 2) if deep_supervision else range(0)
        if deep_supervision and not supervised:
            raise UsageError(f"net.deep_supervision needs four levels or more; net.features is {list(features)}.")
        self.lower_heads = nn.ModuleList(nn.Conv2d(decoded[level], out_channels, 1) for level in supervised)
        self.apply(_initialise)

    @property
    def stride(self) -> int:
        """The sides of an input must be multiples of this: 2 ** (levels - 1)."""
        return int(2 ** (len(self.features) - 1))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(n, C, H, W) to logits (n, L, H, W), or in training with deep supervision to a tuple, finest first."""
        skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            if level:
                skips.append(x)
                x = self.pool(x)
            x = stage(x)
        decoded: list[Tensor] = []
        for number, (up, stage) in enumerate(zip(self.up, self.decoder, strict=True)):
            skip, x = skips.pop(), up(x)
            if self.gates:
                skip = self.gates[number](skip, x)
            x = stage(torch.cat((skip, x), dim=1))
            decoded.append(x)
        logits: Tensor = self.head(x)
        if not self.training or not self.lower_heads:
            return logits
        lower = zip(self.lower_heads, reversed(decoded[:-1]), strict=False)
        return (logits, *(head(features) for head, features in lower))


def build_net(config: NetConfig, in_channels: int, out_channels: int) -> UNet:
    """The U-Net of a config: (n, in_channels, H, W) -> logits (n, out_channels, H, W).

    With neighbours the input is (n, (2 * neighbours + 1) * in_channels, H, W), the slices from the lowest z up.
    """
    return UNet(
        (2 * config.neighbours + 1) * in_channels,
        out_channels,
        features=config.features,
        norm=config.norm,
        activation=config.activation,
        upsampling=config.upsampling,
        dropout=config.dropout,
        blocks=config.blocks,
        attention=config.attention,
        deep_supervision=config.deep_supervision,
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


def _plain_encoder(
    in_channels: int, features: Sequence[int], norm: Norm, activation: Activation, drops: Sequence[float], down: Down
) -> nn.ModuleList:
    steps = [1 if level == 0 or down == "pool" else 2 for level in range(len(features))]
    inputs = [in_channels, *features[:-1]]
    return nn.ModuleList(
        Stage(before, after, norm, activation, drop, step)
        for before, after, drop, step in zip(inputs, features, drops, steps, strict=True)
    )


def _residual_encoder(
    in_channels: int, features: Sequence[int], norm: Norm, activation: Activation, drops: Sequence[float]
) -> nn.ModuleList:
    """nnU-Net's: a stem, then stages of :data:`RESIDUAL_BLOCKS` blocks, each but the first halving by its stride."""
    stages: list[nn.Module] = []
    for level, (after, drop) in enumerate(zip(features, drops, strict=True)):
        before = features[max(level - 1, 0)]
        stage = ResidualStage(before, after, norm, activation, RESIDUAL_BLOCKS[level], drop, stride=2 if level else 1)
        stages.append(stage if level else nn.Sequential(ConvUnit(in_channels, after, norm, activation), stage))
    return nn.ModuleList(stages)


def _half(channels: int) -> int:
    return max(channels // 2, 1)


def _decoder_stage(
    inputs: int, outputs: int, norm: Norm, activation: Activation, dropout: float, bare: bool
) -> nn.Module:
    return Stage(inputs, outputs, norm, activation, dropout, between=_half(inputs) if bare else 0)


def _norm(norm: Norm, channels: int) -> nn.Module:
    if norm == "none":
        return nn.Identity()
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.GroupNorm(GROUPS if channels % GROUPS == 0 else 1, channels)


def _activation(activation: Activation | None) -> nn.Module:
    if activation is None:
        return nn.Identity()
    if activation == "relu":
        return nn.ReLU(inplace=True)
    if activation == "leaky_relu":
        return nn.LeakyReLU(0.01, inplace=True)
    return nn.SiLU(inplace=True)


def _up(upsampling: Upsampling, inputs: int, outputs: int) -> nn.Module:
    if upsampling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    if upsampling == "interpolated":
        return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    # The 1x1 convolution first: it and the upsampling commute, and so it runs on a quarter of the pixels.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
