"""What the net of a config costs on the slices of a shard set."""

from __future__ import annotations

from segray.config import Config
from segray.engine.precision import resolve_precision
from segray.nets.cost import NetCost, net_cost
from segray.nets.unet import build_net
from segray.shards.manifest import Manifest


def training_cost(config: Config, manifest: Manifest, *, on_gpu: bool, batch: int = 0) -> NetCost:
    """What the net of a config costs on slices of these shards, a worker; no arithmetic is done.

    Counted with ``batch`` slices a step, or, where it is 0, with ``train.batch_size``. ``train.precision`` auto is
    taken as bf16 on GPUs, which the driver may not see, and as what this machine's CPU has.
    """
    precision = "bf16" if on_gpu else resolve_precision("auto", "cpu")
    if config.train.precision != "auto":
        precision = config.train.precision
    net = build_net(config.net, manifest.in_channels, manifest.label_map.channels)
    net.checkpointing = config.train.checkpointing
    return net_cost(
        net,
        net.in_channels,
        patch_of(config, manifest) if config.net.patch else manifest.grid.size,
        batch=batch or config.train.slices_a_step,
        bf16=precision != "float32",
        momenta=(1 if config.optim.name == "sgd" else 2) + (config.optim.average > 0),
    )


def patch_of(config: Config, manifest: Manifest) -> tuple[int, ...]:
    """(D, h, w) of the patches that a training cuts; in-plane they are no larger than the slices."""
    deep, *plane = config.net.patch or (1, 0, 0)
    return (deep, *(min(size or side, side) for size, side in zip(plane, manifest.grid.size, strict=True)))
