"""The doctor and ingest: seconds with one worker and with two, and peak memory at 200 and 2,000 cases.

    python benchmarks/doctor_scaling.py [--small]

Scaling: phantoms of `segray phantoms`, each linked several times under other ids, examined and ingested on an embedded
Ray of one CPU, then of two. Measured is the call inside a running Ray, after a first call on one case; starting Ray
takes the same 3 seconds with both. Memory: the same phantoms, every third voxel along each axis, as 200 and as 2,000
cases; the proportional set size (PSS, shared pages counted once) of all processes, object store included (capped at
300 MiB), sampled twice a second.

Predicted: 1.8 times (the driver's own work and the largest class of memory stay serial); memory flat but for the facts
of the cases, 5 kB each: 10 MB more at 2,000. Measured: results/doctor_scaling.json. What came beside the prediction:
with tasks of Ray Data a core was idle for a part of the time, since it starts a task some 50 ms after another has
ended: 1.67 and 1.63. Plain Ray tasks (pipelines/case_tasks) took them to 1.76 and 1.73 (1.81 and 1.75 in a run before),
and the ingest with one worker from 56 to 24 s, on another machine. Two processes without Ray, each with half of the
cases, give 1.95.
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

import nibabel
import numpy as np
from machine import write_result
from train_memory import family, pss_mib

TARGET = 1.7
KINDS = ("doctor", "ingest")
MADE = 6
"""Different phantoms; the others are links to them."""


def write_phantoms(folder: Path) -> None:
    from segray.phantoms import make_phantoms

    make_phantoms(str(folder), cases=MADE, seed=0, broken=False)


def write_small(source: Path, folder: Path) -> None:
    """Every third voxel of each phantom along each axis."""
    for path in sorted(source.rglob("*.nii.gz")):
        image = nibabel.load(path)
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        thin = np.asarray(image.dataobj)[::3, ::3, ::3]
        nibabel.Nifti1Image(thin, image.affine @ np.diag([3, 3, 3, 1])).to_filename(target)


def link_cases(source: Path, folder: Path, count: int) -> Path:
    """``count`` cases of the files of ``source``."""
    made = sorted(path for path in source.iterdir() if path.is_dir())
    for number in range(count):
        case = made[number % len(made)]
        for path in case.rglob("*.nii.gz"):
            target = folder / f"c{number:05d}" / path.relative_to(case)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    return folder


def run_in_ray(kind: str, folder: str, warm: str, cpus: int) -> None:
    """Print the seconds of a doctor or an ingest of ``folder`` inside a running Ray."""
    from segray.config import load_config
    from segray.pipelines.doctor import doctor
    from segray.pipelines.ingest import ingest
    from segray.pipelines.runtime import ray_session

    config = load_config(None, [f"ray.cpus={cpus}", "ray.object_store_mib=300"])
    with ray_session(config.ray), tempfile.TemporaryDirectory() as shards:
        seconds: list[float] = []
        for source in (warm, folder):
            begin = time.perf_counter()
            if kind == "doctor":
                done = len(doctor(source, config).readable)
            else:
                done = ingest(source, f"{shards}/{len(seconds)}", config).cases
            seconds.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": seconds[-1], "cases": done}))


def measure_call(kind: str, folder: Path, warm: Path, cpus: int) -> dict[str, Any]:
    """Seconds and peak MiB of a call in a process of its own."""
    command = [sys.executable, __file__, "--call", kind, str(folder), str(warm), str(cpus)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, pss_mib(family(process.pid)))
        time.sleep(0.5)
    if process.returncode or process.stdout is None:
        raise SystemExit(f"the {kind} ended with {process.returncode}")
    found = json.loads(process.stdout.read().splitlines()[-1])
    return {"seconds": round(found["seconds"], 1), "cases": found["cases"], "peak MiB": round(peak)}


def measure(base: Path, many: int, counts: tuple[int, int], kinds: tuple[str, ...] = KINDS) -> dict[str, Any]:
    write_phantoms(base / "made")
    write_small(base / "made", base / "thin")
    warm = link_cases(base / "thin", base / "warm", 1)
    folder = link_cases(base / "made", base / "many", many)
    result: dict[str, Any] = {"target": TARGET}
    for kind in kinds:
        one, two = (measure_call(kind, folder, warm, cpus) for cpus in (1, 2))
        result[kind] = {"one": one, "two": two, "times": round(one["seconds"] / two["seconds"], 2)}
        print(kind, result[kind], flush=True)
    folders = [link_cases(base / "thin", base / f"n{n}", n) for n in counts]
    for kind in kinds:
        rows = [measure_call(kind, folder, warm, 2) for folder in folders]
        result[f"memory of {kind}"] = {"rows": rows, "peak ratio": round(rows[1]["peak MiB"] / rows[0]["peak MiB"], 3)}
        print("memory", kind, result[f"memory of {kind}"], flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few cases, nothing written: for CI")
    parser.add_argument("--call", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        kind, folder, warm, cpus = arguments.call
        run_in_ray(kind, folder, warm, int(cpus))
        return
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), *((4, (4, 8), KINDS[1:]) if arguments.small else (600, (200, 2000))))
    if not arguments.small:
        write_result("doctor_scaling", result)


if __name__ == "__main__":
    main()
