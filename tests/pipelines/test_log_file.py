"""The two logs of a run: lines for people and the same for machines."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from segray import privacy
from segray.config import PrivacyConfig
from segray.errors import SegrayError
from segray.pipelines.log_file import JSON_LOG, LOG, Line, LogFile, WaitingLog, new_run_id, run_name
from segray.pipelines.run_folder import RunFolder
from segray.pipelines.run_logs import gather_logs, write_logs
from segray.pipelines.sweep_folder import SweepFolder


@pytest.fixture(autouse=True)
def clear_names() -> Iterator[None]:
    yield
    privacy.forget()


def records(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / JSON_LOG).read_text().splitlines()]


def test_a_line_stands_in_both(tmp_path: Path) -> None:
    LogFile(str(tmp_path), "one-1a2b", "predict").write(Line("begun"), Line("cannot be read", "warning", "s0001"))
    first, second = (tmp_path / LOG).read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 begun", first)
    assert second.endswith(" s0001: cannot be read")
    begun, broken = records(tmp_path)
    assert broken == begun | {"level": "warning", "case": "s0001", "message": "cannot be read"}
    assert datetime.fromisoformat(begun.pop("time")).tzinfo is not None
    assert begun == {
        "level": "info",
        "run": "one-1a2b",
        "stage": "predict",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "message": "begun",
    }


def test_a_message_of_several_lines_is_one_record(tmp_path: Path) -> None:
    LogFile(str(tmp_path), "x", "train").write(Line("worker failed:\nTraceback\n  line 1"))
    assert [record["message"] for record in records(tmp_path)] == ["worker failed:\nTraceback\n  line 1"]
    assert len((tmp_path / LOG).read_text().splitlines()) == 3


def test_names_are_hidden_in_both(tmp_path: Path) -> None:
    privacy.begin(PrivacyConfig(hash_ids=True), str(tmp_path))
    privacy.know(["s0001"], "case")
    LogFile(str(tmp_path), "x", "ingest").write(Line("s0001 is broken", "warning", "s0001"))
    assert "s0001" not in (tmp_path / LOG).read_text() + (tmp_path / JSON_LOG).read_text()
    assert records(tmp_path)[0]["case"] == privacy.hide_case("s0001")


def test_a_log_that_cannot_be_written_stops_no_case(tmp_path: Path) -> None:
    (tmp_path / LOG).mkdir()
    with pytest.raises(SegrayError):
        LogFile(str(tmp_path), "x", "ingest").write(Line("a"))
    WaitingLog(LogFile(str(tmp_path), "x", "ingest"), remote=False).say("a")


def test_lines_for_a_store_wait_for_one_another(tmp_path: Path) -> None:
    log = WaitingLog(LogFile(str(tmp_path), "x", "ingest"), remote=True)
    for word in ("a", "b", "c"):
        log.say(word)
    assert [record["message"] for record in records(tmp_path)] == ["a"]
    log.flush()
    assert [record["message"] for record in records(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/mnt/runs/one", "one"),
        ("s3://bucket/one/", "one"),
        ("/mnt/sweep/trials/00003", "sweep-00003"),
        ("/mnt/cv/fold_2", "cv-fold_2"),
    ],
)
def test_a_run_is_called_by_its_folder(folder: str, name: str) -> None:
    assert run_name(folder) == name
    assert re.fullmatch(rf"{name}-[0-9a-f]{{4}}", new_run_id(folder))


def test_the_id_of_a_training_stays_for_all_its_processes(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "one"))
    run.name_run()
    run.log("planned")
    run.begin("{}")
    RunFolder(str(tmp_path / "one")).log("rank 0: resumed", "warning")
    said = records(tmp_path / "one")
    assert [record["level"] for record in said] == ["info", "warning"]
    assert {record["run"] for record in said} == {run.run_id}
    assert {record["stage"] for record in said} == {"train"}


def test_a_run_from_before_there_were_ids_is_called_by_its_name(tmp_path: Path) -> None:
    SweepFolder(str(tmp_path / "old")).log("more trials")
    assert [(record["run"], record["stage"]) for record in records(tmp_path / "old")] == [("old", "tune")]


def test_logs_are_gathered_as_json_too(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "one"))
    run.log("begun")
    run.log("ended")
    (log,) = gather_logs(run.path, None, lines=1).logs
    assert [json.loads(line)["message"] for line in log.json_lines] == ["ended"]
    assert sorted(Path(path).name for path in write_logs(gather_logs(run.path, None), str(tmp_path / "out"))) == [
        JSON_LOG,
        LOG,
    ]
    (tmp_path / "one" / JSON_LOG).unlink()
    (old,) = gather_logs(run.path, None).logs
    first = json.loads(next(old.json_lines))
    assert (first["process"], first["message"].endswith(" begun")) == (LOG, True)
