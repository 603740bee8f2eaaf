"""The U-Net (Ronneberger et al. 2015, with normalisation after each convolution as nnU-Net has it), in 2D and 3D.

By config its encoder is residual (ResEnc of Isensee et al. 2024, "nnU-Net Revisited"), its skips pass attention gates
(Oktay et al. 2018, "Attention U-Net") and its lower decoder levels have heads of their own (deep supervision).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segray.config import NetConfig
from segray.errors import UsageError
from segray.nets.checkpointing import computed_again
from segray.nets.monai_nets import MonaiNet, build_monai_net
from segray.nets.space import PLANE, Sides, Space

Norm = Literal["batch", "instance", "group", "none"]
Activation = Literal["relu", "leaky_relu", "silu"]
Upsampling = Literal["transposed", "bilinear", "interpolated"]
Down = Literal["pool", "strided"]
Blocks = Literal["plain", "residual"]

GROUPS = 8
"""Groups of a group normalisation, where the channels divide by it."""


RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6)
"""Residual blocks a level, from full resolution down: the ResEnc presets of nnU-Net."""

CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_UP: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
AVERAGE: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
DROPOUT: dict[int, Any] = {2: nn.Dropout2d, 3: nn.Dropout3d}
BATCH_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORM: dict[int, Any] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
LINEAR = {2: "bilinear", 3: "trilinear"}


class ConvUnit(nn.Module):
    """A convolution, its norm and activation (None: none): (n, C, [D], H, W) -> (n, K, ...), each side over its stride.

    ``kernel`` and ``stride`` have a number an axis, and so say whether it is 2D or 3D.
    """

    conv: nn.Conv2d | nn.Conv3d
    norm: nn.Module

    def __init__(
        self, inputs: int, outputs: int, norm: Norm, activation: Activation | None, kernel: Sides, stride: Sides = ()
    ) -> None:
        super().__init__()
        around = tuple(side // 2 for side in kernel)
        steps = stride or (1,) * len(kernel)
        self.conv = CONV[len(kernel)](inputs, outputs, kernel, stride=steps, padding=around, bias=norm == "none")
        self.norm = _norm(norm, outputs, len(kernel))
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
        kernel: Sides,
        *,
        dropout: float = 0.0,
        stride: Sides = (),
        between: int = 0,
    ) -> None:
        units: list[nn.Module] = [
            ConvUnit(inputs, between or outputs, norm, activation, kernel, stride),
            ConvUnit(between or outputs, outputs, norm, activation, kernel),
        ]
        super().__init__(*units, *_dropped(dropout, kernel))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut: (n, C, [D], H, W) -> (n, K, ...), each side over its stride.

    The shortcut halves by averaging and changes channels by a convolution of one voxel with norm (ResNet-D, He et al.
    2019), as in nnU-Net's residual encoder.
    """

    def __init__(
        self, inputs: int, outputs: int, norm: Norm, activation: Activation, kernel: Sides, stride: Sides = ()
    ) -> None:
        super().__init__()
        single = (1,) * len(kernel)
        self.first = ConvUnit(inputs, outputs, norm, activation, kernel, stride)
        self.second = ConvUnit(outputs, outputs, norm, None, kernel)
        self.average = AVERAGE[len(kernel)](stride) if math.prod(stride) > 1 else nn.Identity()
        self.project = ConvUnit(inputs, outputs, norm, None, single) if inputs != outputs else nn.Identity()
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
        kernel: Sides,
        count: int,
        *,
        dropout: float = 0.0,
        stride: Sides = (),
    ) -> None:
        blocks: list[nn.Module] = [ResidualBlock(inputs, outputs, norm, activation, kernel, stride)]
        blocks += [ResidualBlock(outputs, outputs, norm, activation, kernel) for _ in range(count - 1)]
        super().__init__(*blocks, *_dropped(dropout, kernel))


class AttentionGate(nn.Module):
    """A skip weighted by what the decoder knows: skip (n, C, ...) and gate (n, K, ...) -> (n, C, ...).

    Additive attention, Oktay et al. 2018, equation 1: skip * sigmoid(psi(relu(W_x skip + W_g gate))). The gate is
    the decoder's upsampled signal, so that both have one resolution.
    """

    def __init__(self, channels: int, gate: int, norm: Norm, axes: int = 2) -> None:
        super().__init__()
        inner, single = max(channels // 2, 1), (1,) * axes
        self.of_skip = ConvUnit(channels, inner, norm, None, single)
        self.of_gate = ConvUnit(gate, inner, norm, None, single)
        self.psi = CONV[axes](inner, 1, 1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        """The skip, each pixel times its weight in (0, 1)."""
        weight = torch.sigmoid(self.psi(functional.relu(self.of_skip(skip) + self.of_gate(gate))))
        return skip * weight


class UNet(nn.Module):
    """A U-Net: (n, C, H, W) -> logits (n, L, H, W), for H and W that are multiples of :attr:`stride`.

    In 3D (n, C, D, H, W) -> (n, L, D, H, W), for D that is a multiple of :attr:`depth_stride`.

    With deep supervision the output in training mode is a tuple: the logits at full resolution, at half of it and so
    on, for all decoder levels but the lowest (which nnU-Net weighs with 0). In inference mode it is the first alone.

    Attributes:
        in_channels: C.
        out_channels: L, background included.
        features: channels a level, from full resolution down.
        space: the axes.
        checkpointing: in training activations inside a stage are computed again for the backward pass, not kept.
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
        space: Space = PLANE,
    ) -> None:
        super().__init__()
        if len(features) < 2:
            raise UsageError(f"A U-Net needs two levels or more; net.features is {list(features)}.")
        self.in_channels, self.out_channels, self.features = in_channels, out_channels, tuple(features)
        self.space, conv = space, CONV[space.axes]
        drops = [dropout if level >= len(features) - 2 else 0.0 for level in range(len(features))]
        levels = range(len(features) - 2, -1, -1)
        bare = upsampling == "interpolated"
        # Where nothing follows the interpolation that could narrow, what is interpolated is half as wide.
        encoded = [*features[:-1], _half(features[-1])] if bare else list(features)
        decoded = [features[0], *map(_half, features[1:-1])] if bare else list(features[:-1])
        below = [*decoded[1:], encoded[-1]]
        raised = below if bare else list(features[:-1])
        if blocks == "residual":
            self.encoder = _residual_encoder(in_channels, encoded, norm, activation, drops, space)
        else:
            self.encoder = _plain_encoder(in_channels, encoded, norm, activation, drops, down, space)
        self.checkpointing = False
        self._pools = down == "pool" and blocks == "plain"
        self.up = nn.ModuleList(
            _up(upsampling, below[level], raised[level], space.stride(level + 1)) for level in levels
        )
        self.gates = nn.ModuleList(
            AttentionGate(features[level], raised[level], norm, space.axes) for level in levels if attention
        )
        self.decoder = nn.ModuleList(
            Stage(
                features[level] + raised[level],
                decoded[level],
                norm,
                activation,
                space.kernel(3, level),
                dropout=drops[level],
                between=_half(features[level] + raised[level]) if bare else 0,
            )
            for level in levels
        )
        self.head = conv(decoded[0], out_channels, 1)
        supervised = range(1, len(features) - 2) if deep_supervision else range(0)
        if deep_supervision and not supervised:
            raise UsageError(f"net.deep_supervision needs four levels or more; net.features is {list(features)}.")
        self.lower_heads = nn.ModuleList(conv(decoded[level], out_channels, 1) for level in supervised)
        self.apply(_initialise)

    @property
    def stages(self) -> list[nn.Module]:
        """What is computed again as a whole where activations are not kept."""
        return [*self.encoder, *self.decoder]

    @property
    def stride(self) -> int:
        """The sides of an input must be multiples of this: 2 ** (levels - 1)."""
        return int(2 ** (len(self.features) - 1))

    @property
    def depth_stride(self) -> int:
        """Of a 3D net the depth of an input must be a multiple of this: 2 ** (levels - 1 - flat levels)."""
        return int(2 ** max(len(self.features) - 1 - self.space.flat_levels, 0))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(n, C, [D], H, W) to logits (n, L, [D], H, W); in training with deep supervision to a tuple, finest first."""
        skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            if level:
                skips.append(x)
                x = self._pooled(x, level)
            x = self._through(stage, x)
        decoded: list[Tensor] = []
        for number, (up, stage) in enumerate(zip(self.up, self.decoder, strict=True)):
            skip, x = skips.pop(), up(x)
            if self.gates:
                skip = self.gates[number](skip, x)
            x = self._through(stage, torch.cat((skip, x), dim=1))
            decoded.append(x)
        logits: Tensor = self.head(x)
        if not self.training or not self.lower_heads:
            return logits
        lower = zip(self.lower_heads, reversed(decoded[:-1]), strict=False)
        return (logits, *(head(features) for head, features in lower))

    def _through(self, stage: nn.Module, x: Tensor) -> Tensor:
        if self.checkpointing and self.training:
            return computed_again(stage, x)
        out: Tensor = stage(x)
        return out

    def _pooled(self, x: Tensor, level: int) -> Tensor:
        if not self._pools:
            return x
        pool = functional.max_pool3d if self.space.axes == 3 else functional.max_pool2d
        return pool(x, self.space.stride(level))


SegmentationNet = UNet | MonaiNet


def build_net(config: NetConfig, in_channels: int, out_channels: int) -> SegmentationNet:
    """The net of a config: (n, in_channels, H, W) -> logits (n, out_channels, H, W).

    With neighbours the input is (n, (2 * neighbours + 1) * in_channels, H, W), the slices from the lowest z up. With
    a patch the net is 3D: (n, in_channels, D, H, W) -> (n, out_channels, D, H, W).
    """
    if config.name != "unet":
        return build_monai_net(config, (2 * config.neighbours + 1) * in_channels, out_channels)
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
        space=Space(3, config.flat_levels) if config.patch else PLANE,
    )


def build_shapes(config: NetConfig, in_channels: int, out_channels: int) -> SegmentationNet:
    """The same net to look at: its tensors have shapes, and as a rule no memory. Raises UsageError as the net does."""
    # MONAI's SwinUNETR reads numbers from tensors while it is built.
    with torch.device("cpu" if config.name == "swinunetr" else "meta"):
        return build_net(config, in_channels, out_channels)


def fold_batch_norm(net: SegmentationNet) -> SegmentationNet:
    """A copy for inference whose batch norms have become part of the convolutions; other norms stay as they are.

    The outputs equal those of ``net.eval()`` within float32 tolerance.
    """
    folded = copy.deepcopy(net).eval()
    for unit in folded.modules():
        if isinstance(unit, ConvUnit) and isinstance(unit.norm, nn.BatchNorm2d | nn.BatchNorm3d):
            unit.conv = fuse_conv_bn_eval(unit.conv, unit.norm)
            unit.norm = nn.Identity()
    return folded.requires_grad_(False)


def _plain_encoder(
    in_channels: int,
    features: Sequence[int],
    norm: Norm,
    activation: Activation,
    drops: Sequence[float],
    down: Down,
    space: Space,
) -> nn.ModuleList:
    inputs = [in_channels, *features[:-1]]
    return nn.ModuleList(
        Stage(
            before,
            after,
            norm,
            activation,
            space.kernel(3, level),
            dropout=drop,
            stride=space.stride(level if down == "strided" else 0),
        )
        for level, (before, after, drop) in enumerate(zip(inputs, features, drops, strict=True))
    )


def _residual_encoder(
    in_channels: int,
    features: Sequence[int],
    norm: Norm,
    activation: Activation,
    drops: Sequence[float],
    space: Space,
) -> nn.ModuleList:
    """nnU-Net's: a stem, then stages of :data:`RESIDUAL_BLOCKS` blocks, each but the first halving by its stride."""
    stages: list[nn.Module] = []
    for level, (after, drop) in enumerate(zip(features, drops, strict=True)):
        before, kernel = features[max(level - 1, 0)], space.kernel(3, level)
        stage = ResidualStage(
            before, after, norm, activation, kernel, RESIDUAL_BLOCKS[level], dropout=drop, stride=space.stride(level)
        )
        stem = [] if level else [ConvUnit(in_channels, after, norm, activation, kernel)]
        stages.append(nn.Sequential(*stem, stage) if stem else stage)
    return nn.ModuleList(stages)


def _half(channels: int) -> int:
    return max(channels // 2, 1)


def _dropped(dropout: float, kernel: Sides) -> list[nn.Module]:
    return [DROPOUT[len(kernel)](dropout)] if dropout > 0 else []


def _norm(norm: Norm, channels: int, axes: int) -> nn.Module:
    if norm == "none":
        return nn.Identity()
    if norm in ("batch", "instance"):
        made: nn.Module = BATCH_NORM[axes](channels) if norm == "batch" else INSTANCE_NORM[axes](channels, affine=True)
        return made
    return nn.GroupNorm(GROUPS if channels % GROUPS == 0 else 1, channels)


def _activation(activation: Activation | None) -> nn.Module:
    if activation is None:
        return nn.Identity()
    if activation == "relu":
        return nn.ReLU(inplace=True)
    if activation == "leaky_relu":
        return nn.LeakyReLU(0.01, inplace=True)
    return nn.SiLU(inplace=True)


def _up(upsampling: Upsampling, inputs: int, outputs: int, steps: Sides) -> nn.Module:
    axes = len(steps)
    if upsampling == "transposed":
        raised: nn.Module = CONV_UP[axes](inputs, outputs, steps, stride=steps)
        return raised
    factors = tuple(float(step) for step in steps)
    if upsampling == "interpolated":
        return nn.Upsample(scale_factor=factors, mode=LINEAR[axes], align_corners=True)
    # The convolution first: it and the upsampling commute, and so it runs on a fraction of the pixels.
    return nn.Sequential(
        CONV[axes](inputs, outputs, 1), nn.Upsample(scale_factor=factors, mode=LINEAR[axes], align_corners=False)
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
