"""The two logs of a run: lines for people and the same for machines."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from segray import privacy, storage
from segray.config import PrivacyConfig
from segray.errors import SegrayError, StoreError
from segray.pipelines import log_file
from segray.pipelines.log_file import (
    JSON_LOG,
    LOG,
    Line,
    LogFile,
    WaitingLog,
    new_run_id,
    read_log,
    read_records,
    run_name,
)
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


WRITER = """
import sys
from segray.pipelines.log_file import Line, LogFile
log = LogFile(sys.argv[1], "x", "train")
for number in range(20):
    log.write(Line(f"{sys.argv[2]} {number}", case="s0001"))
"""


def test_no_line_is_lost_where_processes_write_to_a_store_at_once(s3: str) -> None:
    folder = f"{s3}/run"
    assert read_log(folder) is None
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, folder, name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = (read_log(folder) or "").splitlines()
    assert sorted(line.partition(" s0001: ")[2] for line in lines) == sorted(
        f"{a} {n}" for a in "abc" for n in range(20)
    )
    told = [json.loads(record) for record in read_records(folder).splitlines()]
    assert [record["time"] for record in told] == sorted(record["time"] for record in told)
    assert len({record["pid"] for record in told}) == 3
    (gathered,) = gather_logs(folder, None, lines=5).logs
    assert gathered.text.splitlines() == lines[-5:]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that counts as one of an object store."""
    monkeypatch.setattr(storage, "is_remote", lambda uri: uri.startswith(str(tmp_path)))
    monkeypatch.setattr(storage, "filesystem", lambda uri: (pafs.LocalFileSystem(), uri))
    monkeypatch.setattr(log_file, "_parts", {})
    (tmp_path / "log").mkdir()
    return str(tmp_path)


def test_a_process_begins_another_file_where_one_is_large(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "PART_BYTES", 100)
    log = LogFile(store, "x", "train")
    for word in ("a", "b", "c"):
        log.write(Line(word))
    assert len(storage.names(f"{store}/log", ".jsonl")) == 3
    assert [line.split()[1] for line in (read_log(store) or "").splitlines()] == ["a", "b", "c"]


def test_lines_that_a_store_did_not_take_go_with_the_next_ones(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log, write = LogFile(store, "x", "train"), storage.write_text

    def refuse(uri: str, text: str) -> None:
        raise StoreError(f"{uri} cannot be written.")

    monkeypatch.setattr(storage, "write_text", refuse)
    with pytest.raises(StoreError):
        log.write(Line("a"))
    monkeypatch.setattr(storage, "write_text", write)
    log.write(Line("b"))
    assert [line.split()[1] for line in (read_log(store) or "").splitlines()] == ["a", "b"]


def test_what_an_earlier_segray_logged_on_a_store_comes_first(store: str) -> None:
    for name, text in ((LOG, "2026-01-01T00:00:00+00:00 before\n"), (JSON_LOG, '{"message": "before"}\n')):
        (Path(store) / name).write_text(text)
    LogFile(store, "x", "train").write(Line("now"))
    assert [line.split()[1] for line in (read_log(store) or "").splitlines()] == ["before", "now"]
    assert [json.loads(line)["message"] for line in read_records(store).splitlines()] == ["before", "now"]


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
