"""Can the input pipeline feed a GPU? A step that sleeps for as long as a GPU computes, and the cores that this takes.

    python benchmarks/gpu_feed.py [--slices 2048] [--rate 2000] [--small]

A training worker's own feed (Ray Data tasks, mixing, decoding ahead; 512x512 int16 slices with labels, all of them in
every epoch) is consumed by a step that sleeps batch / rate seconds, as a GPU of 2,000 slices/s would let the host wait.

This machine has fewer cores than a GPU's host. So the feed is asked for the share of the rate that its cores are of 8
(500 slices/s with two), where the wait for data must stay under 5 % of the time, and then as fast as it goes. The CPU
time of all processes, Ray's own included, over the slices gives the cores that the whole rate takes.

Predicted: 1,250 slices/s through Ray Data on two cores (ray_feed.py) are 1.6 ms of CPU a slice: 3.2 cores for 2,000 a
second, and a wait near 0 at a quarter of it. Measured: results/gpu_feed.json: 0.83 ms, 1.7 cores, and 3 % of waiting.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import write_result
from shard_folder import write_shards
from shard_reading import CASE_SLICES, phantom
from train_memory import family

from segray.config import Config, load_config
from segray.pipelines.feed import EpochFeed
from segray.pipelines.runtime import ray_session
from segray.shards.index import load_index
from segray.shards.manifest import load_manifest

CORES = len(os.sched_getaffinity(0))
HOST_CORES = 8
BATCH = 16
LONGEST_WAIT = 0.05
TICKS = os.sysconf("SC_CLK_TCK")
EPOCHS = 3
"""The first one, in which the pipeline starts, is left out."""


def cpu_seconds() -> dict[int, float]:
    """CPU time so far of this process and all below it."""
    found = {}
    for pid in family(os.getpid()):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        found[pid] = (int(fields[11]) + int(fields[12])) / TICKS
    return found


def consume(folder: str, config: Config, rate: float) -> dict[str, float]:
    """The feed's epochs, each batch followed by a sleep of its size over ``rate``; 0: none."""
    index = load_index(folder, load_manifest(folder))
    feed = EpochFeed(folder, index, config, 0, 1, 0)
    waited = slept = 0.0
    slices, before = 0, cpu_seconds()
    begin = time.perf_counter()
    for epoch in range(1, EPOCHS + 1):
        if epoch == 2:
            waited, slept, slices, before, begin = 0.0, 0.0, 0, cpu_seconds(), time.perf_counter()
        mark = time.perf_counter()
        for batch in feed.epoch(epoch):
            ready = time.perf_counter()
            if rate:
                time.sleep(len(batch.images) / rate)
            waited += ready - mark
            slept += time.perf_counter() - ready
            slices += len(batch.images)
            mark = time.perf_counter()
    seconds = time.perf_counter() - begin
    used = sum(now - before.get(pid, 0.0) for pid, now in cpu_seconds().items())
    feed.close()
    return {
        "slices/s": round(slices / seconds, 1),
        "data wait share": round(waited / (waited + slept), 4),
        "CPU ms a slice": round(1000 * used / slices, 3),
    }


def measure(folder: Path, slices: int, rate: float) -> dict[str, Any]:
    many = max(1, slices // CASE_SLICES)
    few = [phantom(min(CASE_SLICES, slices), seed) for seed in range(min(4, many))]
    write_shards(folder, [few[number % len(few)] for number in range(many)], 31)
    settings = [f"train.batch_size={BATCH}", f"train.epochs={EPOCHS}", "sampling.mode=all"]
    config = load_config(None, [*settings, f"train.decode_threads={CORES}"])
    asked = rate * CORES / HOST_CORES
    with ray_session(load_config(None, ["ray.object_store_mib=1024"]).ray):
        paced = consume(str(folder), config, asked)
        free = consume(str(folder), config, 0.0)
    return {
        "slices an epoch": slices,
        "cores": CORES,
        "at the pace of a GPU": {"asked slices/s": asked, **paced},
        "as fast as it goes": free,
        "cores for the rate": {f"{rate:.0f} slices/s": round(rate * paced["CPU ms a slice"] / 1000, 2)},
        f"{HOST_CORES} cores give slices/s": round(free["slices/s"] * HOST_CORES / CORES),
        "longest wait": LONGEST_WAIT,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=2048)
    parser.add_argument("--rate", type=float, default=2000.0, help="slices/s of the GPU")
    parser.add_argument("--small", action="store_true", help="64 slices, nothing written: for CI")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), 64 if arguments.small else arguments.slices, arguments.rate)
    for name, value in result.items():
        print(f"{name:28s} {value}")
    if not arguments.small:
        write_result("gpu_feed", result)


if __name__ == "__main__":
    main()
