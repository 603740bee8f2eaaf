from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import Trial

from segray.config import TuneConfig, load_config
from segray.errors import SegrayError, UsageError
from segray.tuning.study import SweepStudy, read_trials
from segray.tuning.study_storage import storage_url


def _config(*settings: str) -> TuneConfig:
    return load_config(None, [f"tune.{setting}" for setting in settings]).tune


def _draw(trial: Trial) -> dict[str, Any]:
    return {"optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-1, log=True)}


@pytest.fixture(params=["{}/many.journal", "sqlite:///{}/many.db"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> TuneConfig:
    """A storage for the studies of many sweeps."""
    return _config(f"storage={request.param.format(tmp_path)}")


def _finished(config: TuneConfig, folder: Path, run_id: str) -> SweepStudy:
    study = SweepStudy(config, str(folder), 0, run_id)
    study.finish(study.ask(_draw)[0], [0.5], {})
    return study


def test_sweeps_of_one_storage_know_nothing_of_each_other(shared: TuneConfig, tmp_path: Path) -> None:
    """Nor does one that takes the folder of another, which was removed."""
    _finished(shared, tmp_path / "sweep", "sweep-1234")
    assert SweepStudy(shared, str(tmp_path / "sweep"), 0, "sweep-5678").records() == []
    assert len(read_trials(shared, str(tmp_path / "sweep"), "sweep-1234")) == 1


def test_a_sweep_whose_folder_moved_finds_its_study(shared: TuneConfig, tmp_path: Path) -> None:
    _finished(shared, tmp_path / "sweep", "sweep-1234")
    moved = SweepStudy(shared, str(tmp_path / "moved"), 0, "sweep-1234", begun=True)
    assert [one.values for one in moved.records()] == [(0.5,)]


@pytest.mark.parametrize("settings", [(), ("storage=sqlite",)])
def test_a_study_that_was_begun_must_be_there(tmp_path: Path, settings: tuple[str, ...]) -> None:
    with pytest.raises(SegrayError, match="holds no study of a sweep"):
        SweepStudy(_config(*settings), str(tmp_path), 0, "sweep-1234", begun=True)
    assert list(tmp_path.iterdir()) == [], "an empty study was begun"


def test_a_shared_storage_without_the_study(shared: TuneConfig, tmp_path: Path) -> None:
    _finished(shared, tmp_path / "sweep", "sweep-1234")
    with pytest.raises(SegrayError, match="'segray sweep-5678' is not in"):
        SweepStudy(shared, str(tmp_path / "sweep"), 0, "sweep-5678", begun=True)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:secret@host/db",
        "postgresql://me:pa/ss@host/db",
        "postgresql://me:a[b@host/db",
        "postgresql://me@host/db?password=secret",
        "mysql://me@host/db?Passwd=secret",
    ],
)
def test_passwords_stay_out_of_the_config(address: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="PGPASSWORD") as error:
        storage_url(_config(f"storage='{address}'"), str(tmp_path))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("address", ["postgres:me:secret@host/db", "://me:secret@host/db", "me:secret@host"])
def test_a_mistyped_address_is_not_shown_with_its_password(address: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="database") as error:
        storage_url(_config(f"storage='{address}'"), str(tmp_path))
    assert "secret" not in str(error.value)


def test_a_connection_that_was_dropped_is_opened_again(tmp_path: Path) -> None:
    study = _finished(_config(f"storage=sqlite:///{tmp_path}/many.db"), tmp_path / "sweep", "sweep-1234")
    storage: Any = study.study._storage
    assert storage._backend.engine.pool._pre_ping, "a server drops what was idle, and the sweep ends"


def test_places_where_no_study_can_lie(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="s3://bucket/sweep is one"):
        storage_url(_config(), "s3://bucket/sweep")
    for word in ("postgres", "study.txt", "sqlite3"):
        with pytest.raises(UsageError, match="neither the address of a database nor a file"):
            storage_url(_config(f"storage={word}"), str(tmp_path))
    with pytest.raises(UsageError, match="no address of a database"):
        storage_url(_config("storage=://host"), str(tmp_path))
    with pytest.raises(SegrayError, match="cannot be opened"):
        SweepStudy(_config("storage=nonsense://host/db"), str(tmp_path), 0, "one")
    with pytest.raises(SegrayError, match="holds no study of a sweep"):
        read_trials(_config(), str(tmp_path), "one")


def test_addresses_and_files_are_taken_as_they_are(tmp_path: Path) -> None:
    for address in ("postgresql://me@host:5432/db", "postgresql:///db?host=/run"):
        assert storage_url(_config(f"storage={address}"), str(tmp_path)) == address
    assert storage_url(_config("storage=many.journal"), "sweep") == str(Path("many.journal").absolute())
