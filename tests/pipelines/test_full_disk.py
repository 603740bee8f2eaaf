"""The disk of the run folder is full while a checkpoint is written: said, nothing lost, gone on with afterwards."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ends_alike import assert_same_end, epoch_rows

from segray.config import Config, load_config
from segray.errors import SegrayError
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import ingest
from segray.pipelines.train import train

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

EPOCHS = 6
SETTINGS = (
    "net.features=[16,32,64]",
    "train.batch_size=8",
    f"train.epochs={EPOCHS}",
    "train.cpus_per_worker=1.5",
    "train.precision=float32",
    "train.max_failures=1",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver]",
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def _config(folder: Path, run: Path) -> Config:
    return load_config(None, [*SETTINGS, f"train.shards={folder / 'shards'}", f"train.run={run}"])


def _fill(disk: Path) -> None:
    """Take all that is left, after the second epoch."""
    end = time.monotonic() + 120
    while len(epoch_rows(disk / "run")) < 2:
        assert time.monotonic() < end, "the training does not get on"
        time.sleep(0.02)
    with (disk / "filler").open("wb", buffering=0) as filler:
        block = bytes(1 << 12)
        while os.statvfs(disk).f_bavail:
            try:
                filler.write(block)
            except OSError:
                return


def test_a_full_disk_stops_the_run_in_words_and_the_run_goes_on(tmp_path: Path, small_disk: Path) -> None:
    make_phantoms(str(tmp_path / "scans"), cases=4, seed=3, broken=False)
    ingest(str(tmp_path / "scans"), str(tmp_path / "shards"), load_config(None, list(SETTINGS)))
    run = small_disk / "run"
    thread = threading.Thread(target=_fill, args=(small_disk,))
    thread.start()
    with pytest.raises(SegrayError, match="No space left on device"):
        train(_config(tmp_path, run))
    thread.join()
    seen = epoch_rows(run)
    assert 2 <= len(seen) < EPOCHS
    (small_disk / "filler").unlink()
    summary = train(_config(tmp_path, run), resume=str(run))
    assert summary.epochs == EPOCHS
    train(_config(tmp_path, tmp_path / "undisturbed"))
    assert_same_end(run, tmp_path / "undisturbed", EPOCHS)
    starts = [line for line in (run / "run.log").read_text().splitlines() if "resume after epoch" in line]
    assert int(starts[-1].split("epoch ")[1].split(":")[0]) >= len(seen) - 1
