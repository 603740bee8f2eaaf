"""Trainings whose worker or command is killed end as the undisturbed run does; an epoch is lost at most."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ends_alike import assert_same_end, epoch_rows

from segray.config import Config, load_config
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import ingest
from segray.pipelines.train import train

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

EPOCHS = 6
SETTINGS = (
    "net.features=[8,16]",
    "train.batch_size=8",
    f"train.epochs={EPOCHS}",
    "train.cpus_per_worker=1.5",
    "train.precision=float32",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver,body]",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    make_phantoms(str(folder / "scans"), cases=4, seed=3, broken=False)
    ingest(str(folder / "scans"), str(folder / "shards"), load_config(None, list(SETTINGS)))
    train(_config(folder, "undisturbed"))
    return folder


def _config(folder: Path, run: str) -> Config:
    return load_config(None, [*SETTINGS, f"train.shards={folder / 'shards'}", f"train.run={folder / run}"])


def _history(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "history.json").read_text())
    return found


def _wait_for_epochs(run: Path, count: int) -> None:
    end = time.monotonic() + 120
    while len(epoch_rows(run)) < count:
        assert time.monotonic() < end, "the training does not get on"
        time.sleep(0.02)
    # At any step of the epoch that is under way.
    time.sleep(random.Random(count).random() * 0.3)


def _same_end(folder: Path, run: str, seen: int) -> None:
    assert_same_end(folder / run, folder / "undisturbed", EPOCHS)
    starts = [start["after_epoch"] for start in _history(folder / run)["starts"]]
    assert len(starts) == 2
    assert seen - 1 <= starts[1] <= EPOCHS


def test_a_killed_worker_is_replaced(undisturbed: Path) -> None:
    seen: list[int] = []

    def kill() -> None:
        run = undisturbed / "worker"
        _wait_for_epochs(run, 2)
        seen.append(len(epoch_rows(run)))
        os.kill(_history(run)["workers"][0]["pid"], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    train(_config(undisturbed, "worker"))
    thread.join()
    _same_end(undisturbed, "worker", seen[0])


def test_a_killed_command_goes_on_by_resume(undisturbed: Path) -> None:
    run, program = undisturbed / "driver", str(Path(sys.executable).with_name("segray"))
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [program, "train", "--shards", str(undisturbed / "shards"), "--run", str(run), *words]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        _wait_for_epochs(run, 2)
        seen = len(epoch_rows(run))
        os.killpg(process.pid, signal.SIGKILL)
    worker = _history(run)["workers"][0]["pid"]
    end = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < end:
        time.sleep(0.2)
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)
    train(_config(undisturbed, "driver"), resume=str(run))
    _same_end(undisturbed, "driver", seen)
