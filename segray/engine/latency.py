"""What a slice costs in prediction."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from segray.config import Precision
from segray.engine.inference import ForwardPass
from segray.nets.unet import SegmentationNet

PASSES = 5


def slice_latency(
    network: SegmentationNet,
    in_channels: int,
    canvas: Sequence[int],
    device: torch.device,
    precision: Precision = "auto",
) -> float:
    """Milliseconds of a forward pass, a slice at a time, as a Predictor makes it; the median after two to warm up.

    Args:
        network: the net, which is not changed.
        in_channels: of its input.
        canvas: (H, W) of a slice, or (D, H, W) of a patch, whose time is shared out to its slices.
        device: where it lies.
        precision: as ``predict.precision``.
    """
    forward = ForwardPass(network, device, precision)
    images = torch.zeros(1, in_channels, *canvas, device=device)
    seconds = []
    with torch.inference_mode():
        for _ in range(2 + PASSES):
            begin = time.perf_counter()
            forward(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begin)
    slices = canvas[0] if len(canvas) == 3 else 1
    return 1000 * statistics.median(seconds[2:]) / slices
