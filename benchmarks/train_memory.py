"""Peak memory of a training while the shards grow: 1 GiB against 8 GiB, object store capped at 500 MiB.

    python benchmarks/train_memory.py [--gib 1 8] [--small]

An epoch of `segray train` over all shards: TorchTrainer, Ray Data stream, mixing buffer, decoding ahead, training
step, checkpoint. So that a CPU steps through 8 GiB in minutes, the slices are 256x256 float32 noise of 8 channels,
which hardly compresses (1.9 MiB each), the net is as small as a U-Net can be and nothing is augmented: all that
depends on the shards is there. Memory is the proportional set size (PSS, shared pages counted once) of all processes
of the run, object store included, sampled twice a second.

Predicted: flat but for the slice index, 60 bytes a slice: less than 1 MB more at 8 GiB. Measured: 4.1 GiB at 1.02 GiB
of shards, 4.6 at 7.99 (results/train_memory.json). Parts are mapped into memory, and up to 64 stay open a thread:
their pages, which the system takes back when it needs them, are probably the difference; that was not taken apart.
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

import numpy as np
from machine import write_result
from numpy.typing import NDArray
from shard_folder import write_shards

from segray.config import load_config
from segray.pipelines.train import train

GIB = 2**30
CASE_SLICES, CHANNELS, SIDE = 32, 8, 256
SETTINGS = (
    "train.epochs=1",
    "train.batch_size=16",
    "net.features=[2,2]",
    "augment.enabled=false",
    "intensity.window=[-4,4]",
    "sampling.mode=all",
    "ray.object_store_mib=500",
)


def noise_case(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """(z, 8, 256, 256) noise and a square to find in it, (z, 256, 256)."""
    images = np.random.default_rng(seed).standard_normal((CASE_SLICES, CHANNELS, SIDE, SIDE), dtype=np.float32)
    labels = np.zeros((CASE_SLICES, SIDE, SIDE), np.uint8)
    labels[:, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4] = 1
    images += 2.0 * labels[:, None]
    return images, labels


def write_gib(folder: Path, gib: float) -> tuple[int, int]:
    """Shards of about ``gib`` GiB; (bytes, slices)."""
    few = [noise_case(number) for number in range(3)]
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


def run_training(folder: str) -> None:
    """One epoch over the shards in ``folder``, through the pipeline that the command calls."""
    places = [f"train.shards={folder}/shards", f"train.run={folder}/run"]
    summary = train(load_config(None, [*SETTINGS, *places]))
    if summary.epochs != 1:
        raise SystemExit(f"{summary.epochs} epochs were trained instead of 1")


def peak_of_training(folder: Path) -> tuple[float, float]:
    """(peak MiB, seconds) of an epoch over the shards in ``folder``."""
    command = [sys.executable, __file__, "--train", str(folder)]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "RAY_AUTH_MODE": "disabled"})
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, pss_mib(family(process.pid)))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"the training ended with {process.returncode}")
    return peak, time.monotonic() - begin


def measure(gibs: list[float]) -> dict[str, Any]:
    rows = []
    for gib in gibs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            size, slices = write_gib(folder, gib)
            peak, seconds = peak_of_training(folder)
        rows.append(
            {"shards GiB": round(size / GIB, 2), "slices": slices, "peak MiB": round(peak), "seconds": round(seconds)}
        )
        print(rows[-1], flush=True)
    return {"rows": rows, "peak ratio": round(rows[-1]["peak MiB"] / rows[0]["peak MiB"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, nargs="+", default=[1.0, 8.0])
    parser.add_argument("--small", action="store_true", help="30 MiB, nothing written: for CI")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        run_training(arguments.train)
        return
    result = measure([0.03] if arguments.small else arguments.gib)
    print("largest / smallest:", result["peak ratio"])
    if not arguments.small:
        write_result("train_memory", result)


if __name__ == "__main__":
    main()
