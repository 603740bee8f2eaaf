"""What a node says of itself, asked of this machine."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

import segray
from segray.pipelines.node_probe import (
    code_digest,
    delete_token,
    host_facts,
    is_loopback,
    read_token,
    versions,
    write_token,
)


def test_the_versions_are_those_of_this_process() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["segray"] == segray.__version__
    assert found["ray"]
    assert len(found["code"]) == 12


def test_the_digest_of_the_code_changes_with_a_file_and_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.py").write_text("x = 1\n")
    first = code_digest(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert code_digest(tmp_path / "two") == first
    (tmp_path / "two" / "a.py").write_text("x = 2\n")
    changed = code_digest(tmp_path / "two")
    (tmp_path / "one" / "a.py").rename(tmp_path / "one" / "b.py")
    assert len({first, changed, code_digest(tmp_path / "one")}) == 3


def test_the_host_has_a_name_and_a_disk() -> None:
    facts = host_facts()
    assert facts["host"] == platform.node()
    assert 0 < facts["tmp_free"] <= facts["tmp_total"]
    assert facts["resolve_s"] >= 0


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.0.1.1", True), ("::1", True), ("10.79.0.11", False), ("fe80::1%eth0", False)],
)
def test_loopback_addresses_are_known(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_what_one_writes_another_reads_and_it_is_removed(tmp_path: Path) -> None:
    written = write_token(str(tmp_path), ".token", 100_000)
    assert written["problem"] == ""
    assert written["free"] > 0
    assert (tmp_path / ".token").stat().st_size == 100_000
    read = read_token(str(tmp_path), ".token", written["digest"], 0.0)
    assert read["problem"] == ""
    delete_token(str(tmp_path), ".token")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_seen_and_what_is_another_are_told_apart(tmp_path: Path) -> None:
    written = write_token(str(tmp_path), ".token", 1000)
    assert read_token(str(tmp_path / "elsewhere"), ".token", written["digest"], 0.3)["problem"] == "it is not there"
    (tmp_path / ".token").write_bytes(b"of another storage")
    assert "not what was written" in read_token(str(tmp_path), ".token", written["digest"], 0.0)["problem"]


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    written = write_token(str(tmp_path / "none"), ".token", 1000)
    assert written == {"problem": f"there is no folder {tmp_path / 'none'}"}
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_written_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / ".token").mkdir()
    assert "cannot be written" in write_token(str(tmp_path), ".token", 1000)["problem"]
    assert [path.name for path in tmp_path.iterdir()] == [".token"]
