"""Which checkpoint a run goes on from, where one cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from segray import storage
from segray.engine.trainer import save_state
from segray.errors import StoreError
from segray.pipelines.checkpoints import STATE, restore_state
from segray.pipelines.run_folder import CHECKPOINTS, RunFolder

NAMES = [f"checkpoint_2026-11-0{day}_00-00-00.000000" for day in (1, 2)]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    for number, name in enumerate(NAMES):
        (tmp_path / CHECKPOINTS / name).mkdir(parents=True)
        save_state(str(tmp_path / CHECKPOINTS / name / STATE), {"epoch": number})
    return RunFolder(str(tmp_path))


def test_the_newest_that_is_whole_is_taken(run: RunFolder) -> None:
    assert restore_state(run, NAMES[1]) == ({"epoch": 1}, [])
    Path(run.file(CHECKPOINTS), NAMES[1], STATE).write_bytes(b"half")
    state, passed = restore_state(run, NAMES[1])
    assert state == {"epoch": 0}
    assert "damaged" in passed[0]


def test_a_store_out_of_reach_is_no_damaged_checkpoint(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(uri: str) -> bytes:
        raise StoreError(f"{uri} cannot be read (gone).")

    monkeypatch.setattr(storage, "read_bytes", away)
    with pytest.raises(StoreError, match="gone"):
        restore_state(run, NAMES[1])
