"""`segray predict` on 1, 2, 4 and 8 nodes whose Predictors sleep as long as a GPU would compute: cases a second.

    python benchmarks/node_scaling.py [--nodes 1 2 4 8] [--cases 200] [--small]

Every node is a Ray node of two declared CPUs with a raylet, an object store and processes of its own (Ray's
`cluster_utils`), the head has none; all share the cores of this machine. Each has one Predictor, which sleeps 0.5 ms a
slice, the pace of a GPU of 2,000 slices/s, and gives labels that are thresholds of the voxels. Cases of 400 slices of
32x32 are really read (NIfTI, gzip) and their masks really written, --cases of them a node.

Printed for each number of nodes, between 40 and 95 % of the finished cases (before that processes start, and after it
the nodes run out of cases): cases/s, the share of as many times what one node does, the cores of the machine that were
busy, and the CPU time that the driver and the head's two Ray processes (gcs_server, raylet) spend on a case. To reach:
a share of 0.9 until the machine's cores are full.

Predicted: a node does 4.8 cases/s (5 by the sleep), a case costs 60 ms of CPU, so that two cores are full at 33
cases/s: 1, 2 and 4 nodes scale, 8 cannot. Seen with larger cases: of 64x64 a case costs 116 ms and two nodes do 0.89 of
twice as many, four fill the cores; of 96x96 it costs 207 ms, so that two nodes fill them. With object stores of 200 MB,
a tenth of what such nodes have, 96x96 came to 2.6 cases/s on one node and 2.9 on two, with idle cores: Ray Data lets a
stage hold a share of the stores only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import ray
from machine import write_result
from outside_forward import SLEEP_S, SleepingStage
from predict_end_to_end import STRUCTURES, WINDOW, write_scan
from ray.cluster_utils import Cluster

from segray.case import LabelMap
from segray.config import NetConfig, load_config
from segray.grid import Grid
from segray.nets.bundle import save_bundle
from segray.nets.unet import build_net
from segray.pipelines import predict as pipeline

SIDE, SLICES = 32, 400
MADE = 8
"""Different cases; the others are links to them."""

LOOKED_AT = (0.4, 0.95)
"""Of the finished cases, what is looked at."""

TARGET = 0.9
FULL = 0.95
"""A share of the machine's cores above which they are full."""

NODE = {"num_cpus": 2, "memory": 2 * 10**9, "object_store_memory": 10**9}
SETTINGS = ("predict.backend=torch", "predict.cpus_per_predictor=0.1", "predict.review=0", "ray.preflight=false")


def write_bundle(folder: str, side: int) -> None:
    """A net that nobody asks, since the Predictors sleep."""
    net = NetConfig(features=[8, 16, 32])
    save_bundle(
        folder, build_net(net, 1, len(STRUCTURES) + 1), net=net, label_map=LabelMap.of_names(STRUCTURES),
        grid=Grid("native", (side, side), None, -1024.0), normalisation=WINDOW,
    )  # fmt: skip


def write_cases(folder: Path, count: int, slices: int) -> None:
    """``count`` names of a few scans: a bright ball in noise."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:slices, :SIDE, :SIDE]
    ball = (z - slices / 2) ** 2 / 16 + (y - SIDE / 2) ** 2 + (x - SIDE / 2) ** 2 < (SIDE / 3) ** 2
    for number in range(MADE):
        voxels = rng.normal(-900.0, 20.0, ball.shape) + 1100.0 * ball
        write_scan(str(folder.parent / f"{number}.nii.gz"), voxels.astype(np.int16))
    for number in range(count):
        os.link(folder.parent / f"{number % MADE}.nii.gz", folder / f"c{number:05d}.nii.gz")


class Clock:
    """Time, and CPU seconds of the machine, of this process and of the head, as each case is finished."""

    def __init__(self) -> None:
        head = [process for process in psutil.Process().children(recursive=True) if _is_head(process)]
        self.head = sorted(head, key=lambda process: process.create_time())[:2]
        self.marks: list[tuple[float, float, float, float]] = []

    def note(self, *_: Any) -> None:
        """A case is finished."""
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - times.iowait
        head = sum(sum(process.cpu_times()[:2]) for process in self.head)
        self.marks.append((time.monotonic(), busy, time.process_time(), head))

    def between(self) -> tuple[float, float, float, float]:
        """Seconds a case in the window, and the CPU seconds of machine, driver and head a case.

        Each is a slope by least squares: cases of a group finish at once.
        """
        first, last = (int(share * (len(self.marks) - 1)) for share in LOOKED_AT)
        window = np.array(self.marks[first : last + 1])
        seconds, busy, driver, head = np.polyfit(np.arange(len(window)), window, 1)[0].tolist()
        return seconds, busy, driver, head


def _is_head(process: psutil.Process) -> bool:
    return process.name() in ("gcs_server", "raylet")


def run_once(base: str, nodes: int) -> dict[str, Any]:
    """Predict the cases of ``base`` on so many nodes."""
    work = Path(base)
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0, "include_dashboard": False})
    clock = Clock()
    for _ in range(nodes):
        cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    vars(pipeline)["PredictStage"] = SleepingStage
    summary = pipeline.predict(
        str(work / "bundle"), str(work / "cases"), str(work / "masks"), load_config(None, SETTINGS), watcher=clock.note
    )
    seconds, busy, driver, head = clock.between()
    ray.shutdown()
    cluster.shutdown()
    return {
        "cases": summary.new,
        "failed": len(summary.failed),
        "cases/s": round(1 / seconds, 3),
        "busy cores": round(busy / seconds, 2),
        "CPU ms a case": round(1000 * busy, 1),
        "of the driver": round(1000 * driver, 1),
        "of the head": round(1000 * head, 1),
    }


def measure(work: Path, nodes: int, cases: int, slices: int) -> dict[str, Any]:
    """Rows of a number of nodes, in a process of its own."""
    base = work / f"{nodes}_nodes"
    base.mkdir()
    write_bundle(str(base / "bundle"), SIDE)
    write_cases(base / "cases", cases * nodes, slices)
    command = [sys.executable, __file__, "--once", str(nodes), "--base", str(base)]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--cases", type=int, default=200, help="a node")
    parser.add_argument("--small", action="store_true", help="one and two nodes, few cases, nothing written: for CI")
    parser.add_argument("--once", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(run_once(arguments.base, arguments.once)))
        return
    wanted = (arguments.nodes, arguments.cases, SLICES)
    counts, cases, slices = ([1, 2], 4, 20) if arguments.small else wanted
    cores = len(os.sched_getaffinity(0))
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for nodes in counts:
            row = measure(Path(scratch), nodes, cases, slices)
            one = rows.get(str(counts[0]), row)["cases/s"] / counts[0]
            row["share"] = round(row["cases/s"] / (nodes * one), 3)
            row["cores are full"] = row["busy cores"] >= FULL * cores
            rows[str(nodes)] = row
            print(nodes, row, flush=True)
    if not arguments.small:
        facts = {"slices a case": slices, "side": SIDE, "s a slice": SLEEP_S, "target": TARGET}
        write_result("node_scaling", facts | {"nodes": rows})


if __name__ == "__main__":
    main()
