from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage

from segray import outage
from segray.tuning.journal import PatientJournal


def _study(path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(PatientJournal(str(path)))
    return optuna.create_study(storage=storage, study_name="one", load_if_exists=True)


def _tell(study: optuna.Study, value: float) -> None:
    study.tell(study.ask(), value)


@pytest.mark.parametrize("torn", [b'{"op_code":5,"wor', b"\0" * 70_000], ids=["half a line", "a hole"])
def test_half_a_line_at_the_end_spoils_nothing(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "study.journal"
    _tell(_study(path), 0.5)
    with path.open("ab") as stream:
        stream.write(torn)
    _tell(_study(path), 0.7)
    assert [one.value for one in _study(path).trials] == [0.5, 0.7]


def test_a_journal_of_half_a_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"op_code":0,"wor')
    _tell(_study(path), 0.5)
    assert [one.value for one in _study(path).trials] == [0.5]


class _Failing:
    """A call of the system that fails at first as that of a disk that is away."""

    def __init__(self, call: Any, times: int, *, after: bool = False, suffix: str = "") -> None:
        self._call, self._left, self._after, self._suffix = call, times, after, suffix
        self.failed = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        hit = self._left > 0 and str(arguments[0]).endswith(self._suffix)
        if hit and not self._after:
            self._fail()
        result = self._call(*arguments, **named)
        if hit:
            self._fail()
        return result

    def _fail(self) -> None:
        self._left -= 1
        self.failed += 1
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(outage, "LOOK_S", 0.0)
    with outage.patient(30.0):
        yield


def test_what_was_written_when_the_disk_went_away_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: None
) -> None:
    path = tmp_path / "study.journal"
    study = _study(path)
    gone = _Failing(os.fsync, 2, after=True)
    monkeypatch.setattr(os, "fsync", gone)
    _tell(study, 0.5)
    assert gone.failed == 2
    assert [one.value for one in _study(path).trials] == [0.5]


def test_a_disk_that_goes_away_while_the_lock_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: None
) -> None:
    path = tmp_path / "study.journal"
    study = _study(path)
    gone = _Failing(os.rename, 1, after=True, suffix=".lock")
    monkeypatch.setattr(os, "rename", gone)
    _tell(study, 0.5)
    assert gone.failed == 1
    assert [one.value for one in _study(path).trials] == [0.5]


def test_reading_waits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: None) -> None:
    path = tmp_path / "study.journal"
    study = _study(path)
    _tell(study, 0.5)
    gone = _Failing(os.stat, 2, suffix="study.journal")
    monkeypatch.setattr(os, "stat", gone)
    assert [one.value for one in study.trials] == [0.5]
    assert gone.failed == 2


def test_a_trial_is_made_safe_when_it_has_its_settings_and_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _study(tmp_path / "study.journal")
    lines_that_are_safe: list[int] = []
    flush = os.fsync

    def noted(descriptor: int) -> None:
        flush(descriptor)
        lines_that_are_safe.append(len((tmp_path / "study.journal").read_bytes().splitlines()))

    monkeypatch.setattr(os, "fsync", noted)
    written = len((tmp_path / "study.journal").read_bytes().splitlines())
    trial = study.ask()
    for number in range(3):
        trial.suggest_float(f"x{number}", 0.0, 1.0)
    assert not lines_that_are_safe
    trial.set_user_attr("settings", {"x": 1})
    assert lines_that_are_safe == [written + 5]
    trial.report(0.5, 1)
    study.tell(trial, 0.5)
    assert lines_that_are_safe == [written + 5, written + 7]
