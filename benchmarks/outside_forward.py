"""What mask generation costs beside the network: on one core, and overlapped with a Predictor of a GPU's pace.

    python benchmarks/outside_forward.py [--slices 160] [--cases 120] [--small]

* one core: a case of 512x512 goes through the three stages of `segray predict` in this process, one thread: read and
  orient, predict with a small net, tables and mask. Printed: milliseconds a slice of each part but the forward pass.
  The peer is the loop of milesial's ``predict.py`` (nibabel in and out, argmax a slice), less its forward passes; in
  turn, medians. To reach: under 1 ms a slice.
* overlapped: `segray predict`'s own pipeline on a Ray of two CPUs, whose Predictor sleeps 0.5 ms a slice, as a GPU
  would compute, and gives labels that are thresholds of the voxels. Cases of 80 slices. Printed: slices a second from
  the first finished case to the last; what the Predictor's pace would allow, and what two cores could read and write if
  they did nothing else, by the milliseconds of the first part: the smaller of the two bounds it. In so short a run the
  processes that start while the first cases are done are a part of it: 24 cases reached 187 slices a second where 120
  reached 337.

Predicted: 0.6 ms a slice on one core (read 0.35, since inflating takes most, write 0.2); overlapped 1,600 slices a
second, bounded by the sleep (2,000) less what a case pays between stages. Inflating alone takes 1.4 ms on machine B
(370 MB/s), so that 1 ms is out of reach there, and reading and writing bound the rest. Measured on machine A: 3.9 ms,
of which 0.8 are the tables (surfaces, percentiles), 0.1 the mask, 1.6 the labels; the loop takes 35 and has no tables.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from machine import write_result
from numpy.typing import NDArray
from predict_end_to_end import STRUCTURES, phantom, slice_loop, train_briefly, write_scan

from segray import formats
from segray.case import LabelMap
from segray.config import PredictConfig, load_config
from segray.engine.predictor import STAGES
from segray.pipelines import predict as pipeline
from segray.pipelines.predict_stages import WriteStage, read_stage
from segray.pipelines.predictor_stage import PredictStage

PARTS = ("read", "place", "labels", "postprocess", "write")
SLEEP_S = 0.0005
"""A slice, as a GPU would take."""

TARGET_MS = 1.0


class SleepingStage(PredictStage):
    """The Predictor's stage, with a sleep for all that a GPU would compute."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        vars(self._predictor).update(predict=_sleep, predict_many=_sleep_over)


def _sleep(voxels: NDArray[Any], *_: Any, **__: Any) -> NDArray[Any]:
    time.sleep(SLEEP_S * len(voxels))
    return (voxels > 100).view(np.uint8)


def _sleep_over(cases: list[tuple[NDArray[Any], Any]]) -> list[NDArray[Any]]:
    return [_sleep(voxels) for voxels, _ in cases]


def case_of(path: Path, side: int, slices: int) -> None:
    """A scan of few different slices, which is enough for a codec."""
    voxels, _ = phantom(side, min(slices, 20))
    write_scan(str(path), np.tile(voxels, (-(-slices // len(voxels)), 1, 1))[:slices])


def one_core(work: Path, slices: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a slice beside the forward pass, of segray's parts and of the loop."""
    torch.set_num_threads(1)
    scan, config = str(work / "scan.nii.gz"), PredictConfig(backend="torch", precision="float32")
    source = formats.lone_image(scan)
    stage = PredictStage([str(work / "bundle")], config, 1)
    write = WriteStage(str(work / "out"), LabelMap.of_names(STRUCTURES).to_json())
    net = _TimedNet(stage._predictor.bundle.network())
    ours: dict[str, list[float]] = {part: [] for part in PARTS}
    theirs = []
    for _ in range(rounds + 1):  # the first warms up
        line = write(stage(read_stage(pa.table({"source": [source.to_json()]})))).column("row")[0].as_py()
        row = json.loads(line)
        assert row["status"] == "ok", row["reason"]
        for part in PARTS:
            ours[part].append(row[f"seconds_{part}"])
        net.seconds, begin = 0.0, time.perf_counter()
        slice_loop(net, scan, str(work / "loop.nii.gz"))
        theirs.append(time.perf_counter() - begin - net.seconds)
    parts = {part: round(1000 * statistics.median(values[1:]) / slices, 3) for part, values in ours.items()}
    return {
        "slices": slices,
        "ms a slice": parts,
        "ms a slice in all": round(sum(parts.values()), 3),
        "ms a slice of the loop": round(1000 * statistics.median(theirs[1:]) / slices, 2),
    }


class _TimedNet(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net, self.seconds = net.eval(), 0.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The logits; how long they took is added up."""
        begin = time.perf_counter()
        logits: torch.Tensor = self.net(images)
        self.seconds += time.perf_counter() - begin
        return logits


def overlapped(work: Path, slices: int, cases: int, read_and_write_ms: float) -> dict[str, Any]:
    """Slices a second of the pipeline with a Predictor that sleeps, and what bounds it.

    ``read_and_write_ms``: of a slice on one core that does nothing else.
    """
    (work / "cases").mkdir()
    case_of(work / "one.nii.gz", 512 if slices > 20 else 128, slices)
    for number in range(cases):
        os.link(work / "one.nii.gz", work / "cases" / f"c{number:03d}.nii.gz")
    vars(pipeline)["PredictStage"] = SleepingStage
    finished: list[float] = []

    def note(*_: Any) -> None:
        finished.append(time.monotonic())

    config = load_config(
        None, ["ray.cpus=2", "predict.backend=torch", "predict.cpus_per_predictor=0.1", "predict.review=0"]
    )
    pipeline.predict(
        str(work / "bundle"), str(work / "cases"), str(work / "masks"), config,
        watcher=note,
    )  # fmt: skip
    rows = list(csv.DictReader((work / "masks" / "cases.csv").open()))
    busy = {part: statistics.mean(float(row[f"seconds_{part}"]) for row in rows) / slices for part in ("read", "write")}
    speed = slices * (cases - 1) / (finished[-1] - finished[0])
    bounds = {"the Predictor": 1 / SLEEP_S, "two cores that read and write": 2000 / read_and_write_ms}
    return {
        "cases": cases,
        "slices a case": slices,
        "slices a second": round(speed),
        "bounds": {name: round(value) for name, value in bounds.items()},
        "ms a slice while overlapped": {name: round(1000 * value, 3) for name, value in busy.items()},
        "share of the smaller bound": round(speed / min(bounds.values()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=160, help="of the case on one core")
    parser.add_argument("--cases", type=int, default=120, help="of 80 slices, overlapped")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="small and few, nothing written: for CI")
    arguments = parser.parse_args()
    wanted = (512, arguments.slices, arguments.cases, arguments.rounds)
    side, slices, cases, rounds = (128, 8, 6, 1) if arguments.small else wanted
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        # Masks of noise would cost far more to write and to measure than organs do.
        train_briefly(str(work / "bundle"), [8, 16, 32], side, 20 if arguments.small else 150)
        case_of(work / "scan.nii.gz", side, slices)
        alone = one_core(work, slices, rounds)
        busy = alone["ms a slice"]["read"] + alone["ms a slice"]["write"]
        result = {"one core": alone, "stages": STAGES, "overlapped": overlapped(work, min(slices, 80), cases, busy)}
    print(result)
    if not arguments.small:
        write_result("outside_forward", result | {"target ms": TARGET_MS})


if __name__ == "__main__":
    main()
