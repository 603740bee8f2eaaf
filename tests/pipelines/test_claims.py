"""Two runs on one prediction folder: the second is told of the first, and a dead one is in nobody's way."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from segray import storage
from segray.pipelines import claims
from segray.pipelines.claims import Claim, FolderTakenError, is_alive, this_process

HOLD = """
import sys, time
from segray.pipelines.claims import Claim
with Claim(sys.argv[1], "predict"):
    print("held", flush=True)
    time.sleep(600)
"""


def left(folder: Path) -> list[str]:
    """The claims in a folder."""
    return [path.name for path in folder.glob("ledger/claim-*")]


def held_by_another_process(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_told_of_the_first_and_how_to_go_on(tmp_path: Path) -> None:
    with Claim(str(tmp_path), "predict") as first:
        with pytest.raises(FolderTakenError) as caught, Claim(str(tmp_path), "predict --verify"):
            pytest.fail("both work on the folder")
        first.check()
        assert left(tmp_path) == [f"claim-{first.run}.json"]
    words = str(caught.value)
    assert f"Another segray predict works on {tmp_path}: on " in words
    assert f"process {os.getpid()}, since 20" in words
    assert "s ago." in words
    assert "give this command again" in words
    assert left(tmp_path) == []
    with Claim(str(tmp_path), "predict") as third:
        assert third.run.startswith("0001-"), "claims that are gone leave no number; rows do"


def test_a_killed_run_is_in_the_way_of_nobody_on_its_host(tmp_path: Path) -> None:
    process = held_by_another_process(tmp_path)
    with pytest.raises(FolderTakenError, match=f"process {process.pid}"), Claim(str(tmp_path), "predict"):
        pytest.fail("both work on the folder")
    process.send_signal(signal.SIGKILL)
    while claims._process(process.pid) is not None and claims._process(process.pid)[0] not in "ZX":  # type: ignore[index]
        time.sleep(0.01)
    # Not waited for yet: a dead process that its parent has not heard of works no more either.
    with Claim(str(tmp_path), "predict") as claim:
        assert left(tmp_path) == [f"claim-{claim.run}.json"]
    process.wait()


def test_another_process_of_the_same_number_is_not_taken_for_the_first() -> None:
    own = this_process("0001-aa", "predict")
    assert is_alive(own, 1e9)
    assert not is_alive(claims.replace(own, begun=own.begun - 1), 0.0)
    assert not is_alive(claims.replace(own, pid=2**22 + 1), 0.0)


def test_of_another_host_only_silence_tells() -> None:
    other = claims.replace(this_process("0001-aa", "predict"), place="another boot", pid=1)
    unknown = claims.replace(other, place="")
    for holder in (other, unknown):
        assert is_alive(holder, claims.STALE_S - 1)
        assert not is_alive(holder, claims.STALE_S + 1)


def test_a_silent_claim_of_another_host_is_taken_over_by_the_clock_of_the_disk(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    other = claims.replace(this_process("0007-aa", "predict"), place="another boot", since=time.time() + 1e6)
    path = ledger / "claim-0007-aa.json"
    path.write_text(json.dumps(claims.asdict(other) | {"holds": True}))
    with pytest.raises(FolderTakenError), Claim(str(tmp_path), "predict"):
        pytest.fail("both work on the folder")
    silent = time.time() - claims.STALE_S - 5
    os.utime(path, (silent, silent))
    with Claim(str(tmp_path), "predict") as claim:
        assert claim.run.startswith("0008-")
        assert left(tmp_path) == [f"claim-{claim.run}.json"]


@pytest.mark.parametrize("content", ["", "{}", '{"run": 1}', "[]"])
def test_a_claim_that_cannot_be_read_counts_while_it_is_fresh(tmp_path: Path, content: str) -> None:
    (tmp_path / "ledger").mkdir()
    path = tmp_path / "ledger" / "claim-0001-aa.json"
    path.write_text(content)
    with pytest.raises(FolderTakenError, match="another version"), Claim(str(tmp_path), "predict"):
        pytest.fail("both work on the folder")
    os.utime(path, (0, 0))
    with Claim(str(tmp_path), "predict"):
        assert not path.exists()


def test_of_many_that_begin_together_never_two_work(tmp_path: Path) -> None:
    inside = threading.Semaphore(1)
    worked, refused, together = [], [], []

    def run() -> None:
        try:
            with Claim(str(tmp_path), "predict") as claim:
                together.extend([] if inside.acquire(blocking=False) else [claim.run])
                time.sleep(0.05)
                inside.release()
                worked.append(claim.run)
        except FolderTakenError as error:
            refused.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == []
    assert len(worked) + len(refused) == 6
    assert worked, "one at least gets on"
    assert left(tmp_path) == []


def test_signs_of_life_go_on_and_a_run_that_was_taken_for_dead_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    beats: list[float] = []
    with Claim(str(tmp_path), "predict", beat=lambda: beats.append(time.time())) as claim:
        path = tmp_path / "ledger" / f"claim-{claim.run}.json"
        first = path.stat().st_mtime_ns
        deadline = time.monotonic() + 20
        while path.stat().st_mtime_ns == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime_ns > first
        claim.check()
        while time.monotonic() < deadline:
            # A beat that is being written as the claim is removed brings it back once.
            path.unlink(missing_ok=True)
            time.sleep(0.02)
            if claim._lost:
                break
        with pytest.raises(FolderTakenError, match="gave no sign of life for 60 s"):
            claim.check()
    assert beats


def test_a_store_that_does_not_answer_for_a_while_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    asked = threading.Event()

    def away() -> None:
        asked.set()
        raise storage.SegrayError("the store does not answer")

    with Claim(str(tmp_path), "predict", beat=away) as claim:
        assert asked.wait(20)
        claim.check()
        assert claim._thread.is_alive()


@pytest.mark.parametrize("code", [errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT])
def test_a_disk_that_is_away_at_one_look_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    real, refused = os.stat, threading.Event()

    def stat(path: Any, *words: Any, **named: Any) -> os.stat_result:
        if threading.current_thread().name == "sign of life" and str(path).startswith(str(tmp_path)):
            refused.set()
            raise OSError(code, os.strerror(code), path)
        return real(path, *words, **named)

    with Claim(str(tmp_path), "predict") as claim:
        monkeypatch.setattr(os, "stat", stat)
        assert refused.wait(20)
        time.sleep(0.05)
        monkeypatch.setattr(os, "stat", real)
        path = tmp_path / "ledger" / f"claim-{claim.run}.json"
        before, deadline = path.stat().st_mtime_ns, time.monotonic() + 20
        while path.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime_ns > before, "signs of life go on"
        claim.check()


def test_a_folder_that_cannot_be_written_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(storage.SegrayError, match="cannot be written"), Claim(str(tmp_path / "file"), "predict"):
        pytest.fail("there is no folder")


def test_a_folder_on_an_object_store_is_claimed_in_the_same_way(s3: str) -> None:
    with Claim(f"{s3}/out", "predict"), pytest.raises(FolderTakenError), Claim(f"{s3}/out", "predict"):
        pytest.fail("both work on the folder")
    assert storage.names(f"{s3}/out/ledger") == []
