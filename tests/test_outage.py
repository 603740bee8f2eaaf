"""Writes to a disk that is away for a while: those of a patient process wait, all others are told at once."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segray import outage, storage
from segray.errors import SegrayError
from segray.pipelines.ledger import Ledger, to_line
from segray.pipelines.run_folder import RunFolder


class Disk:
    """Refuses to open files for writing as a disk does that was remounted read-only, until it is back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, code: int = errno.EROFS) -> None:
        self.refused = 0
        self.back = threading.Event()
        real: Callable[..., Any] = open

        def refuse(path: Any, mode: str = "r", *words: Any, **named: Any) -> Any:
            if mode[0] in "wa" and not self.back.is_set():
                self.refused += 1
                raise OSError(code, os.strerror(code), path)
            return real(path, mode, *words, **named)

        monkeypatch.setattr("builtins.open", refuse)
        monkeypatch.setattr(outage, "LOOK_S", 0.05)

    def returns_after(self, seconds: float) -> None:
        """It can be written to again."""
        threading.Timer(seconds, self.back.set).start()


def test_a_patient_process_waits_until_the_disk_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    disk.returns_after(0.4)
    with outage.patient(20):
        storage.write_text(str(tmp_path / "whole"), "all")
        storage.append_line(str(tmp_path / "lines"), "one")
    assert disk.refused > 1
    assert (tmp_path / "whole").read_text() == "all"
    assert (tmp_path / "lines").read_text() == "one\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines", "whole"]


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    began = time.monotonic()
    with outage.patient(0.3), pytest.raises(SegrayError, match="cannot be written"):
        storage.write_text(str(tmp_path / "never"), "")
    assert 0.25 < time.monotonic() - began < 10
    assert disk.refused > 2


def test_a_process_that_is_not_patient_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    with pytest.raises(SegrayError, match="Read-only file system"):
        storage.write_text(str(tmp_path / "never"), "")
    assert disk.refused == 1


def test_a_full_disk_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch, errno.ENOSPC)
    with outage.patient(20), pytest.raises(SegrayError, match="No space left") as told:
        storage.write_text(str(tmp_path / "never"), "")
    assert disk.refused == 1
    assert outage.is_full(told.value)
    assert not outage.is_away(told.value)


def test_what_is_written_again_in_a_second_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    with outage.patient(20):
        RunFolder(str(tmp_path)).show_progress(force=True, epoch=1)
    assert disk.refused == 1


def test_rows_of_a_ledger_wait_and_none_is_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(str(tmp_path))
    disk = Disk(monkeypatch)
    disk.returns_after(0.3)
    with outage.patient(20):
        for name in ("a", "b"):
            ledger.add(to_line({"case_id": name, "status": "ok", "reason": ""}))
    assert disk.refused > 1
    assert [row["case_id"] for row in Ledger(str(tmp_path)).rows] == ["a", "b"]


def test_a_run_whose_disk_is_away_for_a_while_is_not_taken_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(str(tmp_path))
    run.write_history(run_id="one", starts=[1])
    run.add_epoch({"epoch": 1})
    real, looks = os.stat, 0

    def stat(path: Any, *words: Any, **named: Any) -> os.stat_result:
        nonlocal looks
        if str(path).startswith(str(tmp_path)) and looks < 2:
            looks += 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return real(path, *words, **named)

    monkeypatch.setattr(outage, "LOOK_S", 0.01)
    monkeypatch.setattr(os, "stat", stat)
    with outage.patient(20):
        run.write_history(finished=True)
        looks = 0
        run.add_epoch({"epoch": 2})
        looks = 0
        assert [row["epoch"] for row in run.rows("metrics.csv")] == ["1", "2"]
    assert run.history() == {"run_id": "one", "starts": [1], "finished": True}
