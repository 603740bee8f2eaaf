"""Which arithmetic a device computes fast."""

from __future__ import annotations

from typing import Literal

import torch

from segray.config import NetConfig, Precision

Resolved = Literal["bf16", "fp16", "float32"]

DEPTHWISE = 8
"""Channels from which a net of depthwise convolutions is trained in channels_last on a CPU."""

DTYPES: dict[Resolved, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}


def autocast(device: torch.device, precision: Resolved) -> torch.autocast:
    """The context of a forward pass."""
    low = precision != "float32"
    return torch.autocast(device.type, dtype=DTYPES[precision] if low else torch.bfloat16, enabled=low)


def channels_last(axes: int) -> torch.memory_format:
    """The memory format in which convolutions over 2 or 3 axes are fast."""
    return torch.channels_last_3d if axes == 3 else torch.channels_last


def training_format(net: NetConfig, device: torch.device) -> torch.memory_format:
    """The memory format in which a net is trained: :func:`channels_last`, where the backward pass can take it."""
    if net.name == "mednext" and net.features[0] < DEPTHWISE and device.type == "cpu":
        # oneDNN's gradient of depthwise convolutions of so few channels writes beyond its memory (torch 2.13).
        return torch.contiguous_format
    return channels_last(3 if net.patch else 2)


def resolve_precision(precision: Precision, device: torch.device | str) -> Resolved:
    """What ``auto`` means on a device: bf16 where its instructions have it, else float32.

    A CPU without avx512_bf16 or AMX emulates bf16: a convolution of 32 channels took 9 times as long as in float32, a
    whole training step of a U-Net more than 10 times (AMD Zen 3, torch 2.13). What the user names is obeyed.
    """
    if precision != "auto":
        return precision
    return "bf16" if computes_bf16(torch.device(device)) else "float32"


def computes_bf16(device: torch.device) -> bool:
    """True where bf16 is no emulation."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    able = torch.cpu.get_capabilities()
    return any(bool(able.get(name)) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))
