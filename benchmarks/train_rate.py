"""Steps a second through TorchTrainer and Ray Data, against a bare PyTorch loop on tensors in memory.

    python benchmarks/train_rate.py [--steps 40] [--rounds 3] [--small]

Same network (32..512 features), loss, optimiser, precision (bf16 autocast where the CPU has it), batch of 4 slices of
256x256 and threads. The bare loop holds its batches in memory, normalised, and augments nothing; segray reads
compressed shards, mixes, decodes, normalises and augments. In turn in each round; the bare loop runs in a process of
its own. segray's figure is that of its steps.csv (step time and data wait), the first three steps of each left out.

Predicted: the data wait vanishes behind the step; augmentation costs 4 slices / 250 slices/s = 16 ms of a step of
about a second: 0.97 to 0.98. Measured: 0.93 on an Intel Xeon with avx512_bf16
(results/train_rate.json, 3 rounds), 0.94 on an AMD EPYC with it (2 rounds), 0.81 on one with AVX2 only (3 rounds,
before glibc was told to keep freed memory).

The profile on the first: the training worker gets 1.91 of 2 cores, Ray's 18 other processes 0.09 between them. On the
last: the data wait is nothing (0.02 %). The same Trainer.step without Ray takes 1.03 to 1.10 of
the bare loop's step. The rest is Ray's idle processes: a dozen of them wake 100 times a second each to look for
signals (10 ms, fixed in Ray's core) and take 0.7 to 1 % of a core each, 14 % of one core together, while the two
threads of a step wait for each other after every operation. The niceness of the workers changed nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import write_result
from shard_folder import write_shards
from shard_reading import phantom

from segray.config import Config, load_config
from segray.engine.precision import resolve_precision
from segray.nets.losses import segmentation_loss
from segray.nets.unet import build_net
from segray.pipelines.runtime import ray_session
from segray.pipelines.train import train

TARGET = 0.95
SIDE = 256
BATCH = 4
CHANNELS = 31
WARM = 3
THREADS = len(os.sched_getaffinity(0))


def settings(features: list[int], shards: Path, run: Path, epochs: int) -> Config:
    return load_config(
        None,
        [
            f"net.features={features}",
            f"train.shards={shards}",
            f"train.run={run}",
            f"train.epochs={epochs}",
            f"train.batch_size={BATCH}",
            "sampling.mode=all",
        ],
    )


def bare_loop(features: list[int], steps: int) -> float:
    """Steps a second of a plain loop."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    config = load_config(None, [f"net.features={features}"])
    net = build_net(config.net, 1, CHANNELS).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    images, labels = phantom(BATCH * 4, 0)
    inputs = torch.from_numpy(images[:, ::2, ::2].astype(np.float32) / 1000.0)[:, None]
    inputs = inputs.to(memory_format=torch.channels_last)
    truth = torch.from_numpy(np.ascontiguousarray(labels[:, ::2, ::2]))
    seconds = []
    for step in range(steps + WARM):
        part = slice(step % 4 * BATCH, (step % 4 + 1) * BATCH)
        begin = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=resolve_precision("auto", "cpu") == "bf16"):
            logits = net(inputs[part])
        segmentation_loss(logits, truth[part], config.loss).total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 12.0)
        optimiser.step()
        seconds.append(time.perf_counter() - begin)
    return steps / sum(seconds[WARM:])


def segray_run(features: list[int], shards: Path, run: Path) -> tuple[float, float]:
    """(steps a second, share of the time spent waiting for data) of a training."""
    with ray_session(load_config().ray):
        train(settings(features, shards, run, 1))
    rows = list(csv.DictReader((run / "steps.csv").open()))[WARM:]
    waited = sum(float(row["data_wait_s"]) for row in rows)
    total = sum(float(row["step_s"]) for row in rows) + waited
    return len(rows) / total, waited / total


def measure(folder: Path, features: list[int], steps: int, rounds: int) -> dict[str, Any]:
    slices = (steps + WARM) * BATCH
    images, labels = phantom(slices, 0)
    half = np.ascontiguousarray(images[:, ::2, ::2]), np.ascontiguousarray(labels[:, ::2, ::2])
    write_shards(folder / "shards", [half], CHANNELS)
    rows = []
    for number in range(rounds):
        command = [sys.executable, __file__, "--bare", json.dumps(features), "--steps", str(steps)]
        bare = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        own, wait = segray_run(features, folder / "shards", folder / f"run{number}")
        rows.append({"bare steps/s": bare, "segray steps/s": own, "segray / bare": own / bare, "data wait share": wait})
    medians = {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]}
    return {"steps": steps, "rounds": rounds, "threads": THREADS, "medians": medians, "target": TARGET}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help="few steps of a small net, nothing written: for CI")
    arguments = parser.parse_args()
    if arguments.bare:
        print(bare_loop(json.loads(arguments.bare), arguments.steps))
        return
    features, steps, rounds = [32, 64, 128, 256, 512], arguments.steps, arguments.rounds
    if arguments.small:
        features, steps, rounds = [8, 16], 5, 1
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), features, steps, rounds)
    for name, value in result["medians"].items():
        print(f"{name:20s} {value:10.4f}" + (f"   (target {TARGET})" if name == "segray / bare" else ""))
    if not arguments.small:
        write_result("train_rate", result)


if __name__ == "__main__":
    main()
