from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("swanlab", reason="swanlab is not installed")

import swanlab
from swanlab.proto.swanlab.record.v1.record_pb2 import Record
from swanlab.proto.swanlab.run.v1.run_pb2 import RunState
from swanlab.sdk.internal.core_python.store import DataStoreReader
from swanlab.sdk.internal.run.components.config import revert_config

from segray.tracking import swanlab_offline
from segray.tracking.swanlab_offline import SwanLab
from segray.tracking.tracker import Start
from segray.tracking.trackers import Trackers

CONFIG = {"seed": 0, "train": {"epochs": 3, "trackers": ["swanlab"]}}
SOON_S = 30.0


@pytest.fixture(autouse=True)
def _of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings of this machine, and no run that goes on after the test."""
    for name in ("SWANLAB_MODE", "SWANLAB_PROJ_NAME", "SWANLAB_LOG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SWANLAB_ROOT", str(tmp_path / "settings of the user"))
    yield
    if swanlab.has_run():
        swanlab.finish()


def _records(folder: Path) -> list[Any]:
    (path,) = folder.glob("run-*.swanlab")
    reader = DataStoreReader()
    reader.open(path)
    found = [Record.FromString(data) for data in reader]
    reader.close()
    return found


def _curve(folder: Path, key: str) -> list[tuple[int, float]]:
    scalars = [record.scalar for record in _records(folder) if record.HasField("scalar")]
    return [(scalar.step, scalar.value.number) for scalar in scalars if scalar.key == key]


def _folders(run: Path) -> list[Path]:
    return sorted(run.glob("swanlab/run-*"))


def _epoch(tracker: SwanLab | Trackers, steps: range) -> None:
    for step in steps:
        tracker.scalars({"train/loss": float(step), "validation/dice/left+right": 0.5}, step)
    tracker.flush()


def _soon(true: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("mode", ["offline", "local"])
def test_numbers_and_config_stay_on_this_machine_and_a_resume_keeps_the_id(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: called.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *names, **_: called.append(names))
    if mode != "offline":
        monkeypatch.setenv("SWANLAB_MODE", mode)
    ids = []
    for first in (0, 2):
        tracker = SwanLab(Start(str(tmp_path), CONFIG, first_step=first))
        _epoch(tracker, range(first, first + 2))
        tracker.scalars({"train/loss": 99.0}, first + 2)  # of an epoch that never ends
        tracker.close(failed=first == 0)
        ids.append((tmp_path / "swanlab.id").read_text().strip())
    assert called == []
    first_folder, second_folder = _folders(tmp_path)
    assert _curve(first_folder, "train/loss") == [(0, 0.0), (1, 1.0)]
    assert _curve(second_folder, "train/loss") == [(2, 2.0), (3, 3.0)]
    assert _curve(second_folder, "validation/dice/left+right") == [(2, 0.5), (3, 0.5)]
    starts = [_records(folder)[0].start for folder in (first_folder, second_folder)]
    assert [start.id for start in starts] == ids == [ids[0]] * 2
    assert {(start.project, start.name) for start in starts} == {("segray", tmp_path.name)}
    states = [_records(folder)[-1].finish.state for folder in (first_folder, second_folder)]
    assert states == [RunState.RUN_STATE_CRASHED, RunState.RUN_STATE_FINISHED]
    assert revert_config(yaml.safe_load((second_folder / "files" / "config.yaml").read_text())) == CONFIG


def test_a_killed_process_keeps_the_epochs_that_were_finished(tmp_path: Path) -> None:
    _epoch(SwanLab(Start(str(tmp_path), CONFIG)), range(3))
    (folder,) = _folders(tmp_path)
    (path,) = folder.glob("run-*.swanlab")
    _soon(lambda: path.stat().st_size > 0 and len(_curve(folder, "validation/dice/left+right")) == 3)
    assert _curve(folder, "train/loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]


def _fill_the_disk(tracker: Any) -> None:
    tracker._run._core._store.close()
    tracker._run._core._store._fp = open("/dev/full", "wb")  # noqa: SIM115


def test_a_full_disk_is_said_once_and_is_no_end(tmp_path: Path) -> None:
    log: list[str] = []
    trackers = Trackers(["swanlab"], Start(str(tmp_path), CONFIG), log.append)
    tracker: Any = trackers._open["swanlab"]
    _fill_the_disk(tracker)
    _epoch(trackers, range(3))
    _soon(lambda: bool(tracker._failures.lines))
    for at in range(3, 9, 3):
        _epoch(trackers, range(at, at + 3))
    trackers.close()
    assert log == ["the tracker swanlab is off: OSError: [Errno 28] No space left on device"]


def test_a_disk_that_is_full_at_the_end_is_said(tmp_path: Path) -> None:
    log: list[str] = []
    trackers = Trackers(["swanlab"], Start(str(tmp_path), CONFIG), log.append)
    _fill_the_disk(trackers._open["swanlab"])
    _epoch(trackers, range(3))
    trackers.close()
    assert log == ["the tracker swanlab is off: OSError: [Errno 28] No space left on device"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "swanlab").write_text("a file where the folder should be")
    log: list[str] = []
    trackers = Trackers(["swanlab"], Start(str(tmp_path), CONFIG), log.append)
    assert trackers.names == []
    assert "the tracker swanlab is off: [Errno 17] File exists" in log[0]


def test_a_thread_that_takes_nothing_does_not_hold_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swanlab_offline, "MOST_BEHIND", 2)
    go_on = threading.Event()
    log: list[str] = []
    trackers = Trackers(["swanlab"], Start(str(tmp_path), CONFIG), log.append)
    tracker: Any = trackers._open["swanlab"]
    write = tracker._run._core._store.write
    monkeypatch.setattr(tracker._run._core._store, "write", lambda data: (go_on.wait(SOON_S), write(data)))
    for at in range(0, 9, 3):
        _epoch(trackers, range(at, at + 3))
    assert log == ["the tracker swanlab is off: its thread is 3 steps behind."]
    go_on.set()
