"""Training and prediction on a GPU, beside the ceiling of the net alone; writes results/gpu_check.json.

    python benchmarks/gpu_check.py [--side 256 512] [--seconds 420] [--small]

Needs no Ray and reads no file: besides torch and numpy what the rooms below the engine import (``NEEDED``). Where a
machine with a GPU has no network, carry them there: `pip install --no-deps --target gpu_packages pydantic ...` in the
checkout, and PYTHONPATH=gpu_packages. Without CUDA it says so and ends with code 0; ``--small`` runs all of it on the
CPU with tiny nets, to see that it works.

For the nets [32..512] and [64..1024] at each side, bf16 and channels_last, compiled and not:

* train: slices/s of Trainer.step on batches that lie on the device; the ceiling is forward and backward of the same net
  with a cross entropy on random tensors, nothing else; ``share`` is the step's part of that, 0.90 wanted;
  ``augmentation`` is what a step takes longer for it, 0.05 of the step at most wanted; peak memory in MiB.
* predict: slices/s of Predictor.predict on a volume in host memory; the ceiling is the net alone, on slices that lie
  there, normalised, as many at once as the Predictor takes. The rest is transfers, normalisation and labels.

Rows that no longer fit into ``--seconds`` are left out and named.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

NEEDED = ("torch", "numpy", "pydantic", "yaml", "nibabel", "scipy", "safetensors")
NETS = ([32, 64, 128, 256, 512], [64, 128, 256, 512, 1024])
TINY = ([4, 8], [8, 16])
CHANNELS = 9
BATCH_PIXELS = 2**21
"""Of a training batch: 32 slices of 256 x 256, 8 of 512 x 512."""

WANTED = {"share of the ceiling": 0.90, "augmentation": 0.05}


def seconds_of(call: Callable[[], Any], device: str, rounds: int = 5) -> float:
    """Seconds of a call, the median over rounds, after one that warms up."""
    import torch

    times = []
    for _ in range(rounds + 1):
        _wait(torch, device)
        begin = time.perf_counter()
        call()
        _wait(torch, device)
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[rounds // 2]


def _wait(torch: Any, device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def train_row(features: list[int], side: int, device: str, *, compiled: bool) -> dict[str, Any]:
    """The step with and without augmentation, and the ceiling; see the module."""
    import torch

    slices = max(2, min(64, BATCH_PIXELS // side**2))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step = seconds_of(_step(features, side, slices, device, compiled=compiled, augmented=True), device)
    plain = seconds_of(_step(features, side, slices, device, compiled=compiled, augmented=False), device)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None
    ceiling = seconds_of(_ceiling(features, side, slices, device, compiled=compiled), device)
    return {
        "net": f"{features[0]}..{features[-1]}", "side": side, "batch": slices, "compiled": compiled,
        "slices/s": round(slices / step, 1), "ceiling slices/s": round(slices / ceiling, 1),
        "share of the ceiling": round(ceiling / step, 3), "augmentation": round(1 - plain / step, 3),
        "peak MiB": None if peak is None else round(peak),
    }  # fmt: skip


def _step(
    features: list[int], side: int, slices: int, device: str, *, compiled: bool, augmented: bool
) -> Callable[[], Any]:
    import numpy as np

    from segray.config import parse_config
    from segray.engine.trainer import Batch, Trainer
    from segray.nets.normalise import Normalisation
    from segray.nets.unet import build_net

    settings = {"net": {"features": features}, "augment": {"enabled": augmented}, "train": {"compile": compiled}}
    config = parse_config(settings)
    trainer = Trainer(config, build_net(config.net, 1, CHANNELS), Normalisation("window"), device=device)
    rng, ones = np.random.default_rng(0), np.ones(slices)
    images = rng.integers(-1000, 1000, (slices, side, side)).astype(np.int16)
    labels = rng.integers(0, CHANNELS, images.shape).astype(np.uint8)
    batch = Batch.from_arrays(images, labels, ones, ones, ["case"] * slices, device=device)
    numbers = itertools.count()
    return lambda: trainer.step(batch, epoch=0, step=next(numbers), progress=0.0)


def _ceiling(features: list[int], side: int, slices: int, device: str, *, compiled: bool) -> Callable[[], Any]:
    import torch

    from segray.config import NetConfig
    from segray.engine.precision import autocast, channels_last, resolve_precision
    from segray.nets.unet import build_net

    layout = channels_last(2)
    network = build_net(NetConfig(features=features), 1, CHANNELS).to(device).to(memory_format=layout).train()  # type: ignore[call-overload]
    if compiled:
        network.compile()
    images = torch.randn(slices, 1, side, side, device=device).to(memory_format=layout)
    labels = torch.randint(0, CHANNELS, (slices, side, side), device=device)
    precision = resolve_precision("auto", torch.device(device))

    def call() -> None:
        network.zero_grad(set_to_none=True)
        with autocast(torch.device(device), precision):
            logits = network(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]

    return call


def predict_row(
    features: list[int], side: int, channels: int, slices: int, pixel: float, device: str
) -> dict[str, Any]:
    """Predictor.predict on a volume, and its network alone; see the module."""
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

    net, names = NetConfig(features=features), LabelMap.of_names(f"s{n}" for n in range(1, channels))
    grid = Grid("spacing", (16, 16), (pixel, pixel), -1024.0)
    network = build_net(net, 1, channels).eval()
    bundle = Bundle(net, 1, names, grid, Normalisation("window"), network.state_dict())
    predictor = Predictor(bundle, PredictConfig(gpu="yes" if device == "cuda" else "no", backend="torch"))
    voxels = np.random.default_rng(0).integers(-1000, 1000, (slices, side, side)).astype(np.int16)
    canvas = plan_prediction(voxels.shape, (1.0, 1.0, 1.0), grid, network.stride).canvas
    at_once = predictor.slices_at_once(canvas)
    ready = torch.randn(at_once, 1, *canvas, device=device)
    forward = ForwardPass(network, torch.device(device), "bf16" if device == "cuda" else "float32")
    passes = -(-slices // at_once)

    @torch.inference_mode()
    def alone() -> None:
        for _ in range(passes):
            forward(ready)

    whole = seconds_of(lambda: predictor.predict(voxels, (1.0, 1.0, 1.0)), device)
    ceiling = seconds_of(alone, device)
    return {
        "net": f"{features[0]}..{features[-1]}", "side": side, "canvas": list(canvas), "channels": channels,
        "slices at once": at_once, "slices/s": round(slices / whole, 1),
        "ceiling slices/s": round(at_once * passes / ceiling, 1),
        "share of the ceiling": round(slices / whole / (at_once * passes / ceiling), 3),
        "seconds": predictor.last_seconds,
    }  # fmt: skip


def rows(told: argparse.Namespace, device: str) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What is to be measured, the plain nets before the compiled, and how."""
    nets = TINY if told.small else NETS
    # A compiler takes half a minute on a CPU, whatever it compiles.
    kinds = [(compiled, net) for compiled in (False, True) for net in (nets[:1] if told.small and compiled else nets)]
    for (compiled, features), side in itertools.product(kinds, told.side):
        yield "train", partial(train_row, features, side, device, compiled=compiled)
    for (channels, pixel, slices), features in itertools.product(((9, 1.0, 200), (118, 2.0, 100)), nets):
        side, count = (64, 8) if told.small else (512, slices)
        yield "predict", partial(predict_row, features, side, channels, count, pixel, device)


def measure(told: argparse.Namespace, device: str) -> dict[str, Any]:
    """All rows that fit into the time."""
    began = time.monotonic()
    report: dict[str, Any] = {"wanted": WANTED, "train": [], "predict": [], "left out": 0}
    for kind, call in rows(told, device):
        if time.monotonic() - began > told.seconds:
            report["left out"] += 1
            continue
        report[kind].append(call())
        print(json.dumps(report[kind][-1]), flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--small", action="store_true")
    told = parser.parse_args()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"gpu_check needs {', '.join(missing)}, which this Python does not have; nothing was measured.")
        return
    import torch

    if not torch.cuda.is_available() and not told.small:
        print("There is no GPU that torch can use; nothing was measured.")
        return
    device = "cpu" if told.small else "cuda"
    told.side = [32] if told.small else told.side
    report = measure(told, device)
    if told.small:
        return
    from machine import write_result

    write_result("gpu_check", {"device": torch.cuda.get_device_name(), **report})


if __name__ == "__main__":
    main()
