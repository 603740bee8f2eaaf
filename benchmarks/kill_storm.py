"""Random SIGKILLs while `segray predict` works: in the end every case has one whole, right mask, or one reason.

    python benchmarks/kill_storm.py [--cases 300] [--kills 50] [--seed 0] [--few]

A driver with an embedded Ray predicts noise of several sizes, of which some are damaged files. Again and again one of
its processes is chosen at random and killed: a worker that runs tasks, the actor with the net, the raylet, or the
driver itself, after which the command is given again, as a user would. If the work ends before the kills do, a third of
the cases is dropped from the ledger and done again.

Then: an undisturbed run to the end; `verify` finds nothing; each case has one row, in the ledger and in the table; each
mask holds the same labels as one of a run that nobody disturbed; no temporary file is left. A second run that asks for
the folder while a driver works must have been refused.

It ends with an error where any of that is not so; there is no number to reach.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from archive_scale import write_bundle
from machine import write_result
from train_memory import family

KINDS = ("worker", "actor", "raylet", "driver")
DAMAGED = 10
"""Every so many cases one file is cut."""

SETTINGS = ("ray.cpus=2", "ray.object_store_mib=300", "predict.cpus_per_predictor=1", "predict.precision=float32")
PATIENCE_S = 600.0
"""Seconds for a driver without a raylet to end by itself, and for a run to show a first sign of work."""

LAST_S = 3600.0
"""Seconds for a run to end that is not killed any more."""


def write_cases(folder: Path, count: int) -> None:
    """Scans of 8 to 64 slices of 96x96; every tenth file is cut."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(count):
        size = (96, 96, int(rng.choice([8, 16, 64])))
        volume = rng.integers(-1000, 1000, size).astype(np.int16)
        path = folder / f"c{number:04d}.nii.gz"
        nibabel.Nifti1Image(volume, np.diag([-1.0, -1.0, 2.0, 1.0])).to_filename(path)
        if number % DAMAGED == DAMAGED - 1:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drive(base: str, out: str) -> None:
    """What a user's command does; exit code 0 where all cases were seen to."""
    from segray.config import load_config
    from segray.pipelines.predict import predict

    predict(f"{base}/bundle", f"{base}/cases", f"{base}/{out}", load_config(None, SETTINGS))


def start(base: Path, out: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": ""}
    command = [sys.executable, __file__, "--drive", str(base), out]
    with (base / "drivers.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stderr=log)


def last_words(base: Path) -> str:
    """What the drivers said last."""
    return (base / "drivers.log").read_text(encoding="utf-8", errors="replace")[-2000:]


def title(pid: int) -> str:
    """The command line of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def processes(root: int) -> dict[str, list[int]]:
    """Kind to the processes of a driver that can be killed."""
    found: dict[str, list[int]] = {kind: [] for kind in KINDS}
    found["driver"] = [root]
    for pid in family(root) - {root}:
        words = title(pid)
        if words.startswith("ray::") and not words.startswith("ray::IDLE"):
            found["actor" if "Actor" in words or "MapWorker" in words else "worker"].append(pid)
        elif "raylet/raylet" in words.split(" ", 1)[0]:
            found["raylet"].append(pid)
    return found


def rows(out: Path) -> int:
    """Rows that the ledger holds now, those of the tails of killed runs among them."""
    from segray.pipelines.ledger import Ledger

    return len(Ledger(str(out)).entries)


def wait_for(what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.2)
    return False


@dataclass
class Storm:
    """Kills, and what they met.

    Attributes:
        base: the folder with bundle, cases and the predictions.
        rng: chooses victims and times.
        kills: how many there are to be.
        killed: kind to number.
        starts: drivers that were started.
        refused: second runs that were refused while a first one worked.
    """

    base: Path
    rng: random.Random
    kills: int
    killed: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    refused: int = 0

    @property
    def out(self) -> Path:
        return self.base / "out"

    def blow(self) -> None:
        """Start drivers and kill until enough was killed."""
        while self.killed.total() < self.kills:
            driver = start(self.base, "out")
            self.starts += 1
            self._await_work(driver)
            self._ask_beside(driver)
            everyone = family(driver.pid)
            while driver.poll() is None and self.killed.total() < self.kills:
                time.sleep(self.rng.uniform(0.1, 3.0))
                everyone |= family(driver.pid)
                if self._kill_one(driver) in ("driver", "raylet"):
                    break
            whole = self.killed.total() >= self.kills and processes(driver.pid)["raylet"]
            self._end(driver, everyone, LAST_S if whole else PATIENCE_S)
            if driver.returncode == 0 and self.killed.total() < self.kills:
                self._undo_some()

    def _await_work(self, driver: subprocess.Popen[bytes]) -> None:
        """Wait for the first row of a run, or for its end."""
        before = rows(self.out)
        wait_for(lambda: driver.poll() is not None or rows(self.out) > before, PATIENCE_S)

    def _ask_beside(self, driver: subprocess.Popen[bytes]) -> None:
        """A second run beside one that works must be refused: it asks as predict does before anything else."""
        from segray.pipelines.claims import Claim, FolderTakenError

        try:
            with Claim(str(self.out), "predict"):
                # Right only where the first one is through, with its work or by an error; it may still close its Ray.
                before = rows(self.out)
                driver.wait(PATIENCE_S)
                expect(rows(self.out) == before, "a second run was let in beside one that works")
        except FolderTakenError:
            self.refused += 1

    def _kill_one(self, driver: subprocess.Popen[bytes]) -> str:
        """Kill a process of the driver, or itself; returns its kind, empty where nothing was killed."""
        found = processes(driver.pid)
        kind = self.rng.choice([kind for kind in KINDS if found[kind]])
        try:
            os.kill(self.rng.choice(found[kind]), signal.SIGKILL)
        except ProcessLookupError:
            return ""
        self.killed[kind] += 1
        print(f"kill {self.killed.total()}: {kind}, {rows(self.out)} rows", flush=True)
        return kind

    def _end(self, driver: subprocess.Popen[bytes], everyone: set[int], patience: float) -> None:
        """Wait for a driver to end, and see that what it has started is gone too."""
        try:
            driver.wait(patience)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
        wait_for(lambda: not any(map(title, everyone)), 30)
        for pid in everyone:
            if any(word in title(pid) for word in ("ray::", "/raylet", "gcs_server")):
                os.kill(pid, signal.SIGKILL)

    def _undo_some(self) -> None:
        from segray.pipelines.ledger import Ledger

        with Ledger(str(self.out)) as ledger:
            case_ids = sorted(ledger.entries)
            ledger.drop(self.rng.sample(case_ids, max(1, len(case_ids) // 3)), "more kills are to come")


def check(base: Path, count: int) -> dict[str, Any]:
    """The promises, one by one; the number of masks and of reasons."""
    from segray import formats
    from segray.evaluation.tables import read_table
    from segray.pipelines.ledger import Ledger
    from segray.pipelines.verify import verify

    out = base / "out"
    summary = verify(str(out), str(base / "cases"))
    expect(summary.clean, f"verify: {summary.notes}")
    found = Ledger(str(out)).rows
    expect(len(found) == len({row["case_id"] for row in found}) == count, f"{len(found)} rows of {count} cases")
    table = read_table(str(out / "cases.parquet"))
    expect([row["case_id"] for row in table] == [row["case_id"] for row in found], "the table is not the ledger")
    cut = {f"c{number:04d}" for number in range(count) if number % DAMAGED == DAMAGED - 1}
    failed = {row["case_id"]: row["reason"] for row in found if row["status"] != "ok"}
    expect(failed.keys() == cut and all(failed.values()), f"failed are {sorted(failed)}")
    for row in found:
        if row["status"] == "ok":
            one, other = (formats.read_mask(f"{base}/{folder}/{row['mask']}")[0] for folder in ("out", "undisturbed"))
            expect(np.array_equal(one, other), f"the mask of {row['case_id']} is another than without kills")
    left = [str(path) for path in out.rglob(".tmp-*")] + [str(path) for path in out.rglob("claim-*")]
    expect(not left, f"left over: {left}")
    masks = len(list((out / "masks").iterdir()))
    expect(masks == count - len(cut), f"{masks} files in masks/")
    return {"masks": masks, "reasons": len(failed), "rows replaced": Ledger(str(out)).replaced}


def expect(right: bool, words: str) -> None:
    if not right:
        raise SystemExit(words)


def measure(base: Path, cases: int, kills: int, seed: int) -> dict[str, Any]:
    write_cases(base / "cases", cases)
    write_bundle(str(base / "bundle"))
    begin = time.monotonic()
    storm = Storm(base, random.Random(seed), kills)
    storm.blow()
    for out in ("out", "undisturbed"):
        expect(start(base, out).wait(LAST_S) == 0, f"the last run of {out} did not end well: {last_words(base)}")
    seconds = time.monotonic() - begin
    return {
        "cases": cases, "kills": dict(storm.killed), "drivers": storm.starts, "second runs refused": storm.refused,
        "seconds": round(seconds), **check(base, cases),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--few", action="store_true", help="20 cases, 3 kills, nothing written: some minutes")
    parser.add_argument("--drive", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(*options.drive)
        return
    cases, kills = (20, 3) if options.few else (options.cases, options.kills)
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), cases, kills, options.seed)
    print(json.dumps(result))
    if not options.few:
        write_result("kill_storm", result)


if __name__ == "__main__":
    main()
