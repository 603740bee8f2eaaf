"""Nets of MONAI by name, made to look like segray's own: https://monai.io, Cardoso et al. 2022."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from segray.config import NetConfig
from segray.errors import UsageError
from segray.nets.space import Space

BLOCKS_DOWN = (1, 2, 2, 4, 4, 4, 4, 4)
"""Blocks a level of SegResNet, as far as there are levels; MONAI's default has four."""


class MonaiNet(nn.Module):
    """A net of MONAI: (n, C, [D], H, W) -> logits (n, L, [D], H, W); the sides are multiples of :attr:`stride`.

    Attributes:
        network: MONAI's module.
        in_channels: C.
        out_channels: L, background included.
        features: those of the config; the first is the width at full resolution.
        space: the axes.
        stride: the sides of an input must be multiples of this, and the depth of a patch too.
    """

    def __init__(self, network: nn.Module, config: NetConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.network = network
        self.in_channels, self.out_channels = in_channels, out_channels
        self.features = tuple(config.features)
        self.space = Space(3 if config.patch else 2)
        self.stride = self.depth_stride = 2**config.halvings
        self.checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """The logits; MONAI's MedNeXt gives them in a list of one."""
        found = self.network(x)
        logits: Tensor = found[0] if isinstance(found, list | tuple) else found
        return logits


def build_monai_net(config: NetConfig, in_channels: int, out_channels: int) -> MonaiNet:
    """The net that ``net.name`` names.

    Raises:
        UsageError: MONAI is not installed, or refuses the settings.
    """
    try:
        import monai.networks.nets as nets
    except ImportError as error:
        raise UsageError(
            f"net.name={config.name} is a net of MONAI, which is not installed here ({error}).",
            mend="pip install 'segray[monai]'",
        ) from error
    common = {"in_channels": in_channels, "out_channels": out_channels, "spatial_dims": 3 if config.patch else 2}
    try:
        network = getattr(nets, CLASSES[config.name])(**common, **_settings(config))
    except (ValueError, AssertionError, TypeError) as error:
        raise UsageError(f"MONAI refuses the settings of net.name={config.name}: {error}") from error
    return MonaiNet(network, config, in_channels, out_channels)


CLASSES = {"dynunet": "DynUNet", "segresnet": "SegResNet", "swinunetr": "SwinUNETR", "mednext": "MedNeXt"}


def _settings(config: NetConfig) -> dict[str, Any]:
    """What each net takes of the config; all else stays MONAI's default."""
    levels, width = len(config.features), config.features[0]
    if config.name == "dynunet":
        strides = [1] + [2] * (levels - 1)
        return {
            "kernel_size": [3] * levels,
            "strides": strides,
            "upsample_kernel_size": strides[1:],
            "filters": list(config.features),
            "norm_name": _norm(config),
            "dropout": config.dropout or None,
        }
    if config.name == "segresnet":
        return {
            "init_filters": width,
            "blocks_down": BLOCKS_DOWN[:levels],
            "blocks_up": (1,) * (levels - 1),
            "norm": _norm(config),
            "dropout_prob": config.dropout or None,
        }
    if config.name == "swinunetr":
        return {"feature_size": width, "norm_name": _norm(config), "drop_rate": config.dropout}
    blocks = (2,) * (levels - 1)
    # MONAI's class alone leaves out the residual connections that all published variants have, and takes 7 for 3.
    published = {"use_residual_connection": True, "kernel_size": 3}
    return {"init_filters": width, "blocks_down": blocks, "blocks_up": blocks, "blocks_bottleneck": 2, **published}


def _norm(config: NetConfig) -> Any:
    if config.norm == "group":
        return ("group", {"num_groups": 8 if config.features[0] % 8 == 0 else 1})
    return (config.norm, {"affine": True})
