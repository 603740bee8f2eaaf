"""A case whose voxels cost every process its life that reads them."""

from __future__ import annotations

import gzip
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_bundle import make_bundle

from segray.config import load_config
from segray.pipelines.predict import predict

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.usefixtures("embedded_ray")]


SIZE = (512, 512, 400)
"""Of the deadly case: 210 MB of voxels, and as many in its file."""

HEAVY = 500 * 2**20
"""Bytes that only a process holds that reads it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle, three small scans, and one that takes much memory to read."""
    make_bundle(tmp_path / "bundle", "liver")
    (tmp_path / "scans").mkdir()
    for name in ("a", "b", "c"):
        image = nibabel.Nifti1Image(np.zeros((16, 16, 4), np.int16), np.eye(4))
        nibabel.save(image, tmp_path / "scans" / f"{name}.nii.gz")
    header = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.int16), np.eye(4)).header
    header.set_data_shape(SIZE)
    with gzip.open(tmp_path / "scans" / "deadly.nii.gz", "wb", compresslevel=0) as file:
        file.write(header.binaryblock + bytes(4) + bytes(2 * int(np.prod(SIZE))))
    return tmp_path


@pytest.fixture
def killed() -> Iterator[list[int]]:
    """Workers of Ray that were killed since they held as much as the deadly case takes."""
    pids: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            pids.extend(_kill_heavy())

    thread = threading.Thread(target=watch)
    thread.start()
    yield pids
    over.set()
    thread.join()


def _kill_heavy() -> Iterator[int]:
    for process in Path("/proc").iterdir():
        try:
            if not process.name.isdigit() or not (process / "comm").read_text().startswith("ray::"):
                continue
            held = next(line for line in (process / "status").read_text().splitlines() if line.startswith("RssAnon"))
            if int(held.split()[1]) * 1024 > HEAVY:
                os.kill(int(process.name), signal.SIGKILL)
                yield int(process.name)
        except (OSError, StopIteration):  # it has ended
            continue


def test_a_case_that_kills_its_workers_is_a_row_and_the_others_have_masks(folder: Path, killed: list[int]) -> None:
    config = load_config(None, ["predict.backend=torch", "predict.precision=float32", "predict.review=0"])
    said: list[str] = []
    summary = predict(str(folder / "bundle"), str(folder / "scans"), str(folder / "out"), config, say=said.append)
    assert len(set(killed)) >= 3
    assert (summary.cases, summary.done) == (4, 3)
    ((case_id, reason),) = summary.failed
    assert case_id == "deadly"
    assert reason.startswith("The process that worked on it died")
    assert "Cases that lost their worker again and again, each tried once more by itself: 1." in said
    assert sorted(path.name for path in (folder / "out" / "masks").iterdir()) == [f"{name}.nii.gz" for name in "abc"]
