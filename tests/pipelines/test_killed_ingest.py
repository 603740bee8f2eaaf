"""An ingest that is killed leaves nothing that a reader would accept, and its next call does only the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segray.config import load_config
from segray.errors import UsageError
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import ingest
from segray.shards.manifest import load_manifest

CASES = 16


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.usefixtures("embedded_ray")
def test_a_killed_ingest_goes_on_where_it_was(tmp_path: Path) -> None:
    scans, shards = tmp_path / "scans", tmp_path / "shards"
    make_phantoms(str(scans), cases=CASES, seed=5, broken=False)
    command = [sys.executable, "-c", "from segray.cli import main; main()", "ingest", str(scans), str(shards)]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": ""}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(shards.glob("part-*.parquet")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    made = len(list(shards.glob("part-*.parquet")))
    assert 0 < made < CASES
    with pytest.raises(UsageError, match="holds no shards"):
        load_manifest(str(shards))
    summary = ingest(str(scans), str(shards), load_config())
    assert (summary.cases, summary.failed) == (CASES, [])
    assert 0 < summary.written <= CASES - made
