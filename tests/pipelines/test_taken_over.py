"""A training that goes on elsewhere while its first process still lives, and a host whose disk is full."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from segray import storage
from segray.config import Config, dump_config, load_config
from segray.engine.trainer import load_state
from segray.errors import SegrayError
from segray.phantoms import make_phantoms
from segray.pipelines import checkpoints
from segray.pipelines.ingest import ingest
from segray.pipelines.run_folder import CONFIG, RunFolder
from segray.pipelines.trial import LoneTraining

SETTINGS = (
    "net.features=[8,16]",
    "train.batch_size=8",
    "train.epochs=3",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver,body]",
)


@pytest.fixture
def begun(tmp_path: Path) -> tuple[RunFolder, Config]:
    """A run that has its config."""
    make_phantoms(str(tmp_path / "scans"), cases=3, seed=3, broken=False)
    config = load_config(None, [*SETTINGS, f"train.shards={tmp_path / 'shards'}", f"train.run={tmp_path / 'run'}"])
    ingest(str(tmp_path / "scans"), str(tmp_path / "shards"), config)
    run = RunFolder(str(tmp_path / "run"))
    run.begin(dump_config(config))
    return run, load_config(run.file(CONFIG))


@pytest.mark.ray
@pytest.mark.usefixtures("embedded_ray")
def test_the_process_that_was_given_up_writes_no_more(begun: tuple[RunFolder, Config]) -> None:
    """As where the head does not reach a host any more, and the host still reaches the shared folder."""
    run, config = begun
    given_up = LoneTraining(run, config, 1, on_gpu=False)
    given_up.epoch()
    successor = LoneTraining(run, config, 1, on_gpu=False)
    bundle = storage.read_bytes(run.file("bundle/bundle.json"))
    with pytest.raises(OSError, match="goes on elsewhere"):
        given_up.epoch()
    given_up.close()
    assert storage.read_bytes(run.file("bundle/bundle.json")) == bundle
    while not successor.epoch()["done"]:
        pass
    successor.close()
    with open(run.file("metrics.csv"), encoding="utf-8") as table:
        assert [row["epoch"] for row in csv.DictReader(table)] == ["1", "2", "3"]
    assert "fatal" not in {name for name, value in run.history().items() if value}


def test_a_state_finds_room_in_memory_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, disk, memory = storage.write_bytes, tmp_path / "disk", tmp_path / "memory"
    disk.mkdir()
    memory.mkdir()

    def write(uri: str, data: bytes, **named: Any) -> None:
        if uri.startswith(str(disk)):
            with storage.asking(uri, "written"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), uri)
        real(uri, data, **named)

    monkeypatch.setattr(storage, "write_bytes", write)
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    monkeypatch.setattr(checkpoints, "MEMORY", str(memory))
    with checkpoints.state_folder({"epoch": 3}) as folder:
        assert folder.startswith(str(memory))
        assert load_state(f"{folder}/{checkpoints.STATE}") == {"epoch": 3}
    assert list(disk.iterdir()) == list(memory.iterdir()) == []
    monkeypatch.setattr(checkpoints, "MEMORY", str(disk))
    with pytest.raises(SegrayError, match="No space left"), checkpoints.state_folder({"epoch": 3}):
        pass
