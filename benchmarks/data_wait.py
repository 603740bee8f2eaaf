"""How long the default net waits for its slices on CPUs, 2D at 512x512: `segray train` as a user runs it.

    python benchmarks/data_wait.py [DATA] [--batch 4] [--small]

DATA is a folder of cases; without it CT phantoms are made, two of them. They are ingested with a canvas of 512x512, and
the default net learns one epoch of them. Read from `metrics.csv`: seconds that the steps took, and of them the seconds
that they waited for a batch, the first of the epoch included. To reach: under 5 %.

Predicted: 1 to 2 %, nearly all of it the first batch, since a step takes tens of seconds and the next batch is there
long before. A GPU's pace is `gpu_feed.py`.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import write_result

from segray.phantoms import make_phantoms

TARGET = 0.05


def segray(*words: str, settings: Sequence[str]) -> None:
    """Run a command as a user would."""
    program = Path(sys.executable).with_name("segray")
    sets = [word for setting in settings for word in ("--set", setting)]
    subprocess.run([str(program), *words, *sets], check=True)


def measure(data: str, work: Path, side: int, batch: int, net: Sequence[str]) -> dict[str, Any]:
    """Steps, their seconds, and what of them went by waiting."""
    shards, run = str(work / "shards"), work / "run"
    segray("ingest", data, shards, settings=("ingest.grid.mode=size", f"ingest.grid.size=[{side},{side}]"))
    settings = (f"train.batch_size={batch}", "train.epochs=1", "train.trackers=[]", *net)
    segray("train", "--shards", shards, "--run", str(run), settings=settings)
    row = next(csv.DictReader((run / "metrics.csv").open()))
    # step_s is the time between batches: computing alone; data_wait_s is what passed until the next one was there
    computing, waiting = float(row["step_s"]), float(row["data_wait_s"])
    return {
        "canvas": [side, side],
        "batch": batch,
        "steps": int(row["step"]),
        "seconds of the steps": round(computing + waiting, 1),
        "seconds of waiting": round(waiting, 2),
        "data wait share": round(waiting / (computing + waiting), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", help="folder of cases; phantoms without it")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--small", action="store_true", help="a small net on small phantoms, nothing written: for CI")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work, data = Path(scratch), arguments.data
        if data is None or arguments.small:
            data = str(work / "scans")
            make_phantoms(data, cases=2, broken=False)
        side, net = (64, ("net.features=[8,16]",)) if arguments.small else (512, ())
        result = measure(data, work, side, arguments.batch, net)
    print(f"waiting: {result['data wait share']:.2%} of the steps' time; to reach: under {TARGET:.0%}")
    if not arguments.small:
        write_result("data_wait", result | {"target": TARGET})


if __name__ == "__main__":
    main()
