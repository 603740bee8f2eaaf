from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb", reason="wandb is not installed")

from wandb.proto.wandb_internal_pb2 import Record

from segray.tracking.tracker import Start
from segray.tracking.wandb_offline import WandB

CONFIG = {"seed": 0, "train": {"epochs": 3}}


def _records(path: Path) -> list[Any]:
    """The records of a small file: LevelDB's log format behind 7 bytes, each record whole in the first block."""
    data = path.read_bytes()
    assert len(data) < 1 << 15
    at, found = 7, []
    while at + 7 < len(data):
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        assert kind == 1
        found.append(Record.FromString(data[at + 7 : at + 7 + length]))
        at += 7 + length
    return found


def _rows(records: list[Any]) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def _finished(path: Path) -> list[Any]:
    """The records once the last is there: wandb's process writes on for a moment after ``finish`` has returned."""
    until = time.monotonic() + 30
    while True:
        found = _records(path)
        if any(record.WhichOneof("record_type") == "exit" for record in found) or time.monotonic() > until:
            return found
        time.sleep(0.2)


@pytest.mark.timeout(120)
def test_an_offline_run_holds_numbers_and_config_and_keeps_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    ids = []
    for first in (0, 2):
        tracker = WandB(Start(str(tmp_path), CONFIG, first_step=first))
        tracker.scalars({"train/loss": 0.5}, first)
        tracker.scalars({"train/loss": 0.25}, first + 1)
        tracker.flush()
        tracker.scalars({"train/loss": 99.0}, first + 2)  # of an epoch that never ends
        tracker.close(failed=first == 0)
        ids.append((tmp_path / "wandb.id").read_text().strip())
    assert ids[0] == ids[1]
    files = sorted(tmp_path.glob(f"wandb/offline-run-*/run-{ids[0]}.wandb"))
    assert files
    records = _finished(files[-1])
    rows = _rows(records)
    assert [(row["_step"], row["train/loss"]) for row in rows] == [(2, 0.5), (3, 0.25)]
    (config,) = [record.run.config for record in records if record.WhichOneof("record_type") == "run"][:1]
    assert {item.key: json.loads(item.value_json) for item in config.update}["train"] == {"epochs": 3}
