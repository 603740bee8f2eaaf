"""Train step and predict rates on a GPU: python benchmarks/gpu_check.py

Starts no Ray and reads no file. Besides torch and numpy it needs what the rooms below the engine import: pydantic and
pyyaml (config), nibabel (case), scipy (resample), safetensors (bundle). Without CUDA, or without one of these, it says
so and ends with code 0. "forward" is the network alone on slices that lie on the GPU, normalised, as many at once as
the Predictor takes; the share of it that the Predictor reaches counts transfers, normalisation and labels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

NEEDED = ("torch", "numpy", "pydantic", "yaml", "nibabel", "scipy", "safetensors")
FEATURES = [32, 64, 128, 256, 512]


def rate(call: Callable[[], Any], units: int, rounds: int = 5) -> float:
    """Units a second, the median over rounds, after one round that warms up."""
    import torch

    times = []
    for _ in range(rounds + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return round(units / sorted(times[1:])[rounds // 2], 1)


def train_rate(side: int, channels: int, slices: int, steps: int = 10) -> dict[str, Any]:
    """Slices a second of the whole step (normalise, augment, forward, backward, update) on resident batches."""
    import numpy as np

    from segray.config import parse_config
    from segray.engine.trainer import Batch, Trainer
    from segray.nets.normalise import Normalisation
    from segray.nets.unet import build_net

    config = parse_config({"net": {"features": FEATURES}})
    trainer = Trainer(config, build_net(config.net, 1, channels), Normalisation("window"), device="cuda")
    rng, ones = np.random.default_rng(0), np.ones(slices)
    images = rng.integers(-1000, 1000, (slices, side, side)).astype(np.int16)
    labels = rng.integers(0, channels, images.shape).astype(np.uint8)
    batch = Batch.from_arrays(images, labels, ones, ones, ["case"] * slices, device="cuda")

    def run() -> None:
        for step in range(steps):
            trainer.step(batch, epoch=0, step=step, progress=0.0)

    return {"side": side, "channels": channels, "batch": slices, "slices/s": rate(run, slices * steps)}


def predict_rate(side: int, channels: int, slices: int, pixel: float) -> dict[str, Any]:
    """Slices a second of Predictor.predict on a volume in memory, and of its network alone."""
    import numpy as np
    import torch

    from segray.case import LabelMap
    from segray.config import NetConfig, PredictConfig
    from segray.engine.inference import ForwardPass
    from segray.engine.predictor import Predictor
    from segray.grid import Grid, plan_prediction
    from segray.nets.bundle import Bundle
    from segray.nets.normalise import Normalisation
    from segray.nets.unet import build_net

    net, names = NetConfig(features=FEATURES), LabelMap.of_names(f"s{n}" for n in range(1, channels))
    grid = Grid("spacing", (16, 16), (pixel, pixel), -1024.0)
    network = build_net(net, 1, channels).eval()
    bundle = Bundle(net, 1, names, grid, Normalisation("window"), network.state_dict())
    predictor = Predictor(bundle, PredictConfig(gpu="yes"))
    voxels = np.random.default_rng(0).integers(-1000, 1000, (slices, side, side)).astype(np.int16)
    canvas = plan_prediction(voxels.shape, (1.0, 1.0, 1.0), grid, network.stride).canvas
    at_once = predictor.slices_at_once(canvas)
    ready, forward = torch.randn(at_once, 1, *canvas, device="cuda"), ForwardPass(network, torch.device("cuda"), "bf16")

    @torch.inference_mode()
    def forward_alone() -> None:
        for _ in range(-(-slices // at_once)):
            forward(ready)

    whole = rate(lambda: predictor.predict(voxels, (1.0, 1.0, 1.0)), slices)
    alone = rate(forward_alone, at_once * -(-slices // at_once))
    return {"side": side, "canvas": list(canvas), "channels": channels, "slices at once": at_once, "slices/s": whole,
            "forward slices/s": alone, "share": round(whole / alone, 3), "seconds": predictor.last_seconds}  # fmt: skip


def main() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"gpu_check needs {', '.join(missing)}, which this Python does not have; nothing was measured.")
        return
    import torch

    if not torch.cuda.is_available():
        print("There is no GPU that torch can use; nothing was measured.")
        return
    report = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "train": [train_rate(256, 9, 32), train_rate(128, 105, 64)],
        "predict": [predict_rate(512, 9, 200, 1.0), predict_rate(512, 118, 100, 2.0)],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
