"""Streams of random numbers that depend on where a run stands alone, one for each kind of change."""

from __future__ import annotations

import hashlib

import torch


def step_seed(seed: int, epoch: int, rank: int, step: int) -> int:
    """63 bits that depend on all four numbers alone."""
    return _hashed(f"{seed},{epoch},{rank},{step}")


def stream(draw: int, change: str) -> torch.Generator:
    """The CPU stream of one change in one step: what another change draws, or whether it is on, moves nothing here.

    Args:
        draw: of :func:`step_seed`.
        change: its name, such as ``elastic``.
    """
    return torch.Generator().manual_seed(_hashed(f"{draw},{change}"))


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
