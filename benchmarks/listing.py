"""Listing and planning a large archive: seconds, and peak memory of the driver, at 100,000 cases.

    python benchmarks/listing.py [--cases 100000] [--small]

A folder with images/ and labels/, one tiny NIfTI file hard-linked under all names, is listed (`formats.discover`), and
all headers are read on Ray (`read_headers`), as ingest, predict and doctor begin. Measured are the two calls in a
process of its own, inside a running Ray, and its peak resident size; the files lie in the page cache. Label volumes
that nothing names are another matter: ingest then reads all of them for their values, at the speed of their files.

Predicted: a header takes 0.35 ms of a core (open, inflate, parse), so 100,000 take 18 s on two; the driver holds 2 kB a
case. To reach: 60 s, 1,024 MiB. Measured: results/listing.json: 21 s, 394 MiB, with plain Ray tasks (30 s and 438 MiB
with Ray Data, on another machine).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from machine import write_result

TARGET_S, TARGET_MIB = 60.0, 1024.0
LINKS = 50_000
"""Names of one file; ext4 allows 65,000."""


def write_cases(folder: Path, count: int) -> None:
    """images/ and labels/ with ``count`` names each."""
    for kind, volume in (("images", np.arange(256, dtype=np.int16)), ("labels", np.ones(256, np.uint8))):
        first = folder / f"{kind}.nii.gz"
        nibabel.Nifti1Image(volume.reshape(8, 8, 4), np.diag([-1.0, -1.0, 2.0, 1.0])).to_filename(first)
        (folder / "cases" / kind).mkdir(parents=True)
        for number in range(count):
            if number % LINKS == 0:
                origin = folder / f"{kind}-{number}.nii.gz"
                shutil.copyfile(first, origin)
            os.link(origin, folder / "cases" / kind / f"c{number:06d}.nii.gz")


def list_and_plan(folder: str) -> None:
    """Print the seconds of both calls and the peak MiB of this process."""
    from segray import formats
    from segray.config import Config
    from segray.pipelines.headers import read_headers
    from segray.pipelines.runtime import ray_session

    config = Config()
    begin = time.perf_counter()
    cases = formats.discover(folder, config.ingest).cases
    listed = time.perf_counter() - begin
    with ray_session(config.ray):
        read_headers(cases[:1])
        begin = time.perf_counter()
        planned, broken = read_headers(cases)
        read = time.perf_counter() - begin
    if broken or len(planned) != len(cases):
        raise SystemExit(f"{len(broken)} headers were not read")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cases": len(planned), "list_s": listed, "headers_s": read, "driver_mib": peak}))


def measure(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        write_cases(Path(name), count)
        command = [sys.executable, __file__, "--list", f"{name}/cases"]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found = {key: round(value, 1) for key, value in json.loads(done.stdout.splitlines()[-1]).items()}
    return {"target_s": TARGET_S, "target_mib": TARGET_MIB, **found, "s": found["list_s"] + found["headers_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--small", action="store_true", help="200 cases, nothing written: for CI")
    parser.add_argument("--list", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.list:
        list_and_plan(arguments.list)
        return
    result = measure(200 if arguments.small else arguments.cases)
    print(result)
    if not arguments.small:
        write_result("listing", result)


if __name__ == "__main__":
    main()
