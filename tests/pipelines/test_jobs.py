"""Jobs as far as no cluster is needed: addresses, tokens, exit codes, and a head that is not there."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from segray import storage
from segray.errors import StoreError, UsageError
from segray.pipelines import run_logs
from segray.pipelines.head import Head, HeadLostError, Job, address_of, token
from segray.pipelines.jobs import exit_code, stop_task
from segray.pipelines.run_logs import ProcessLog, RunLogs, gather_logs, jobs_of, process_of, write_logs

VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment that names no cluster and no token; returns its home."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://10.0.0.1:8265", "http://10.0.0.1:8265"),
        ("https://head.house/", "https://head.house"),
        ("head:8265", "http://head:8265"),
        ("10.0.0.1:8265", "http://10.0.0.1:8265"),
        ("http://[fd00::1]:8265", "http://[fd00::1]:8265"),
    ],
)
def test_an_address_is_that_of_the_dashboard(given: str, expected: str) -> None:
    assert address_of(given) == expected


@pytest.mark.parametrize("given", ["ray://head:10001", "head:6379", "auto", "http://", "http://head:many"])
def test_another_address_is_refused_with_the_right_one(given: str) -> None:
    with pytest.raises(UsageError, match="no address of a job server") as raised:
        address_of(given)
    assert "8265" in raised.value.mend


def test_without_an_address_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="No cluster is named"):
        address_of(None)
    monkeypatch.setenv("RAY_ADDRESS", "http://second:8265")
    assert address_of(None) == "http://second:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://first:8265")
    assert address_of(None) == "http://first:8265"
    assert address_of("http://given:8265") == "http://given:8265"


def test_a_token_is_looked_for_as_ray_does(nothing_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert token() == ""
    (nothing_set / ".ray").mkdir()
    (nothing_set / ".ray" / "auth_token").write_text("of the home\n")
    assert token() == "of the home"
    (nothing_set / "other").write_text("of the path")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(nothing_set / "other"))
    assert token() == "of the path"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the variable")
    assert token() == "of the variable"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token() == ""


def test_a_token_file_that_is_named_must_be_there(nothing_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(nothing_set / "none"))
    with pytest.raises(UsageError, match="no token can be read there"):
        token()


def test_a_head_that_is_not_there_is_one_sentence_and_the_given_address_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", "http://192.0.2.1:8265")
        with pytest.raises(HeadLostError) as raised:
            Head(f"http://127.0.0.1:{port}")
    assert raised.value.message == f"No job server of Ray answers at http://127.0.0.1:{port}."
    assert "8265" in raised.value.mend


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),
        ("FAILED", 1, 1),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 143),
    ],
)
def test_the_exit_code_of_a_job_is_that_of_its_command(status: str, code: int | None, expected: int) -> None:
    assert exit_code(Job("j", status, "segray train", exit_code=code)) == expected


def test_the_jobs_of_a_run_are_those_that_made_it() -> None:
    made = Job("one", "FAILED", "segray train packed/0/my.yaml", metadata={"folder": "/mnt/run"})
    resumed = Job("two", "RUNNING", "segray train --resume /mnt/run/", metadata={})
    plain = Job("three", "RUNNING", "segray train c.yaml --set train.run=/mnt/run")
    predicts = Job("four", "RUNNING", "segray predict /mnt/run /mnt/cases /mnt/out", metadata={"folder": "/mnt/out"})
    broken = Job("five", "FAILED", "echo 'no end")
    every = [made, resumed, plain, predicts, broken]
    assert jobs_of("/mnt/run", every) == [made, resumed, plain]
    assert jobs_of("/mnt/out/", every) == [predicts]
    assert jobs_of("five", every) == [broken]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("worker-0a1b-01000000-4711.err", "worker 4711 err"),
        ("old/worker-0a1b-01000000-4711.out", "worker 4711 out"),
        ("job-driver-segray-train-1.log", "segray-train-1"),
        ("raylet.out", "raylet.out"),
    ],
)
def test_a_log_file_is_called_by_its_process(file: str, expected: str) -> None:
    assert process_of(file) == expected


def test_without_a_cluster_the_log_of_the_run_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.log").write_text("a\nb\nc\n")
    gathered = gather_logs(str(run), None, lines=2)
    assert [line for log in gathered.logs for line in log.lines] == ["[run.log] b", "[run.log] c"]
    assert gathered.notes == []
    with pytest.raises(UsageError, match=r"holds no run\.log"):
        gather_logs(str(tmp_path / "none"), None)


def test_a_bucket_that_only_the_nodes_may_read_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uri: str) -> bool:
        raise StoreError(f"{uri} cannot be read (ACCESS_DENIED).")

    monkeypatch.setattr(storage, "exists", refuse)
    with pytest.raises(UsageError, match=r"holds no run\.log"):
        gather_logs("s3://bucket/run", None)
    assert run_logs._own_log("s3://bucket/run", 0) == ([], ["s3://bucket/run/run.log cannot be read (ACCESS_DENIED)."])


def test_logs_are_written_node_by_node(tmp_path: Path) -> None:
    logs = [
        ProcessLog("10.0.0.1", "worker-a-1-7.err", "worker 7 err", "x\n"),
        ProcessLog("fd00::1", "worker-a-1-7.err", "worker 7 err", "y\n"),
        ProcessLog("", "run.log", "run.log", "z\n"),
    ]
    paths = write_logs(RunLogs(logs, []), str(tmp_path))
    assert [Path(path).relative_to(tmp_path).as_posix() for path in paths] == [
        "10.0.0.1/worker-a-1-7.err",
        "fd00--1/worker-a-1-7.err",
        "run.log",
    ]
    assert list(logs[0].lines) == ["[10.0.0.1 worker 7 err] x"]


@pytest.mark.parametrize("catches", [0, 1, 2])
def test_a_task_that_catches_its_cancellation_is_stopped_all_the_same(catches: int) -> None:
    """As what waits below a library may do: Ctrl-C then would not end `--follow`."""
    caught = 0

    async def stubborn() -> None:
        nonlocal caught
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                if caught == catches:
                    raise
                caught += 1

    async def started_and_stopped() -> bool:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        await stop_task(task)
        return task.cancelled()

    assert asyncio.run(started_and_stopped())
    assert caught == catches
