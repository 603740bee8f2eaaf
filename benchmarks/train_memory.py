"""Peak memory of a training's feed while the shards grow: 1 GiB against 8 GiB, object store capped at 500 MiB.

    python benchmarks/train_memory.py [--gib 1 8] [--small]

An epoch over all shards (512x512 slices) through the very feed of a training worker: Ray Data stream, mixing buffer,
decoding ahead. The training step is left out: its memory does not depend on the shards, and a CPU would take hours.
Memory is the proportional set size (PSS, shared pages counted once) of all processes of the run, object store included,
sampled twice a second.

Predicted: flat but for the slice index, 60 bytes a slice: 2 MB more at 8 GiB. Measured: results/train_memory.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import write_result
from shard_folder import write_shards
from shard_reading import phantom

from segray.config import load_config
from segray.pipelines.feed import EpochFeed
from segray.pipelines.runtime import ray_session
from segray.shards.index import load_index
from segray.shards.manifest import load_manifest

GIB = 2**30
CASE_SLICES = 128
SETTINGS = (
    "train.epochs=1",
    "train.batch_size=16",
    "sampling.mode=all",
    "ray.object_store_mib=500",
)


def write_gib(folder: Path, gib: float) -> tuple[int, int]:
    """Shards of about ``gib`` GiB; (bytes, slices)."""
    few = [(images, (labels > 0).astype("uint8")) for images, labels in (phantom(CASE_SLICES, n) for n in range(3))]
    first = write_shards(folder / "probe", few[:1], 2)
    cases = max(1, round(gib * GIB / first.bytes))
    manifest = write_shards(folder / "shards", (few[number % 3] for number in range(cases)), 2)
    return manifest.bytes, manifest.slices


def family(root: int) -> set[int]:
    """``root`` and all processes below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
    found = {root}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def pss_mib(pids: set[int]) -> float:
    """Proportional set size of the processes, in MiB."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
    return total / 1024


def run_feed(folder: str) -> None:
    """All batches of an epoch, as a training worker takes them."""
    config = load_config(None, list(SETTINGS))
    with ray_session(config.ray):
        manifest = load_manifest(folder)
        feed = EpochFeed(folder, load_index(folder, manifest), config, 0, 1, 0)
        seen = sum(len(batch.images) for batch in feed.epoch(1))
        feed.close()
    if seen != manifest.slices:
        raise SystemExit(f"{seen} slices came instead of {manifest.slices}")


def peak_of_feed(folder: Path) -> tuple[float, float]:
    """(peak MiB, seconds) of an epoch's feed over the shards in ``folder``."""
    command = [sys.executable, __file__, "--feed", str(folder / "shards")]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "RAY_AUTH_MODE": "disabled"})
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, pss_mib(family(process.pid)))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"the feed ended with {process.returncode}")
    return peak, time.monotonic() - begin


def measure(gibs: list[float]) -> dict[str, Any]:
    rows = []
    for gib in gibs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            size, slices = write_gib(folder, gib)
            peak, seconds = peak_of_feed(folder)
        rows.append(
            {"shards GiB": round(size / GIB, 2), "slices": slices, "peak MiB": round(peak), "seconds": round(seconds)}
        )
        print(rows[-1], flush=True)
    return {"rows": rows, "peak ratio": round(rows[-1]["peak MiB"] / rows[0]["peak MiB"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, nargs="+", default=[1.0, 8.0])
    parser.add_argument("--small", action="store_true", help="30 MiB, nothing written: for CI")
    parser.add_argument("--feed", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.feed:
        run_feed(arguments.feed)
        return
    result = measure([0.03] if arguments.small else arguments.gib)
    print("largest / smallest:", result["peak ratio"])
    if not arguments.small:
        write_result("train_memory", result)


if __name__ == "__main__":
    main()
