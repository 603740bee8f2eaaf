"""Memory of the device that a training takes."""

from __future__ import annotations

import torch

MIB = 1024 * 1024


def take_peak_mib(device: torch.device) -> int:
    """The most MiB that tensors took on a CUDA device since the last call, and begin anew; 0 on other devices."""
    if device.type != "cuda":
        return 0
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return round(peak / MIB)
