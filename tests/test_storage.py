"""storage: whole-or-nothing writes, paths and URIs, listing, appending."""

from __future__ import annotations

import errno
import gzip
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segray import ledger_parts, storage
from segray.errors import CaseError, SegrayError, StoreError, UsageError
from segray.formats import folder


def test_a_write_replaces_the_file_and_makes_its_folder(tmp_path: Path) -> None:
    target = str(tmp_path / "a" / "b" / "file.bin")
    storage.write_bytes(target, b"old")
    storage.write_bytes(target, b"new")
    assert storage.read_bytes(target) == b"new"
    assert storage.names(str(tmp_path / "a" / "b")) == ["file.bin"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    target = tmp_path / "file.bin"
    storage.write_bytes(str(target), b"old")

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, no_space)
    with pytest.raises(SegrayError, match=r"file\.bin cannot be written \(No space left on device\)"):
        storage.write_bytes(str(target), b"new" * 1000)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_an_interrupted_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file.bin"
    storage.write_bytes(str(target), b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_block_waits_once_for_all_that_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the block files are whole for readers; behind it each has been flushed, by another number of the same file."""
    flushed: list[int] = []
    real, gate = os.fsync, threading.Event()

    def fsync(file: int) -> None:
        assert gate.wait(10)
        flushed.append(os.fstat(file).st_ino)
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    paths = [str(tmp_path / f"{number}.bin") for number in range(40)]
    with storage.one_flush():
        for path in paths[:20]:
            storage.write_bytes(path, path.encode())
        with storage.one_flush():
            for path in paths[20:]:
                storage.write_bytes(path, path.encode())
        assert [storage.read_text(path) for path in paths] == paths
        assert flushed == []
        gate.set()
    assert sorted(flushed) == sorted(os.stat(path).st_ino for path in paths)
    storage.write_bytes(paths[0], b"again")
    assert len(flushed) == 41


def test_what_the_disk_cannot_take_is_told_when_the_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with (
        pytest.raises(SegrayError, match=r"a\.bin cannot be written \(No space left on device\)"),
        storage.one_flush(),
    ):
        storage.write_bytes(str(tmp_path / "a.bin"), b"a")
    monkeypatch.undo()
    storage.write_bytes(str(tmp_path / "a.bin"), b"a")


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    target = str(tmp_path / "sub" / "folder")
    for text in ("old", "new"):
        with storage.whole_folder(target) as place:
            assert storage.names(target) == ([] if text == "old" else ["old"])
            storage.write_text(storage.join(place, text), text)
        assert storage.names(target) == [text]

    def interrupted() -> None:
        with storage.whole_folder(target) as place:
            storage.write_text(storage.join(place, "half"), "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert storage.names(target) == ["new"]
    assert os.listdir(tmp_path / "sub") == ["folder"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, real = str(tmp_path / "folder"), os.rename
    with storage.whole_folder(target) as place:
        storage.write_text(storage.join(place, "old"), "old")

    def rename(old: str, new: str) -> None:
        if new == target and not old.endswith("-before"):
            raise OSError(13, "Permission denied")
        real(old, new)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(SegrayError, match="Permission denied"), storage.whole_folder(target) as place:
        storage.write_text(storage.join(place, "new"), "new")
    assert storage.names(target) == ["old"]
    assert os.listdir(tmp_path) == ["folder"]


def test_writing_below_a_file_says_so_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SegrayError, match="cannot be written"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"")
    with pytest.raises(SegrayError, match="cannot be written"):
        storage.append_line(str(tmp_path / "file" / "below"), "")


def test_reading_what_is_not_there_says_so_in_words(tmp_path: Path) -> None:
    with pytest.raises(SegrayError, match="cannot be read"):
        storage.read_bytes(str(tmp_path / "none"))


def test_text_goes_out_and_in_as_utf8(tmp_path: Path) -> None:
    target = str(tmp_path / "text.txt")
    storage.write_text(target, "Größe: 3 mm²\n")
    assert storage.read_text(target) == "Größe: 3 mm²\n"
    assert storage.read_bytes(target).decode("utf-8").startswith("Größe")


def test_what_is_no_text_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_bytes(b"{\xff}")
    with pytest.raises(SegrayError, match=r"table\.json is no UTF-8 text \(byte 1\)\. It is damaged") as caught:
        storage.read_text(str(tmp_path / "table.json"))
    assert isinstance(caught.value, ValueError), "who asks for damaged JSON hears of it too"
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), type(caught.value))


def test_lines_are_appended(tmp_path: Path) -> None:
    target = str(tmp_path / "new" / "ledger.jsonl")
    storage.append_line(target, '{"case": 1}')
    storage.append_line(target, '{"case": 2}')
    assert storage.read_text(target) == '{"case": 1}\n{"case": 2}\n'


def test_names_are_sorted_and_filtered(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert storage.names(str(tmp_path)) == ["a.csv", "b.csv", "c.txt", "folder"]
    assert storage.names(str(tmp_path), ".csv") == ["a.csv", "b.csv"]
    assert storage.names(str(tmp_path / "none")) == []


def test_delete_removes_and_forgives(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.touch()
    storage.delete(str(target))
    storage.delete(str(target))
    assert not storage.exists(str(target))


@pytest.mark.parametrize("code", [errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.EACCES])
def test_a_disk_out_of_reach_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "file").touch()

    def away(path: str, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), path)

    for name in ("stat", "listdir", "scandir"):
        monkeypatch.setattr(os, name, away)
    for ask in (storage.exists, storage.names, ledger_parts.sizes):
        with pytest.raises(SegrayError, match=os.strerror(code)):
            ask(str(tmp_path / "file"))


def test_below_a_file_nothing_lies(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (str(tmp_path / "file" / "below"), str(tmp_path / "none")):
        assert not storage.exists(path)
        assert storage.names(path) == []
        assert ledger_parts.sizes(path) == {}
    assert ledger_parts.sizes(str(tmp_path)) == {"file": 0}


def test_file_uris_are_local_paths(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/folder/file.txt"
    storage.write_text(uri, "x")
    storage.append_line(uri, "y")
    assert (tmp_path / "folder" / "file.txt").read_text(encoding="utf-8") == "xy\n"
    assert storage.exists(uri)
    assert storage.names(f"file://{tmp_path}/folder") == ["file.txt"]
    assert not storage.is_remote(uri)


def test_paths_become_absolute_and_uris_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.absolute("run/../shards") == f"{tmp_path}/shards"
    assert storage.absolute("~/shards") == "/home/someone/shards"
    assert storage.absolute("s3://bucket/shards/") == "s3://bucket/shards"
    assert storage.join("s3://bucket/run", "bundle", "bundle.json") == "s3://bucket/run/bundle/bundle.json"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An object store as pyarrow sees one: every access goes through a pyarrow file system, rooted in ``tmp_path``."""
    import pyarrow.fs as pafs

    fs = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())

    def open_uri(uri: str) -> tuple[pafs.FileSystem, str]:
        return fs, uri.removeprefix("s3://")

    monkeypatch.setattr(storage, "filesystem", open_uri)
    (tmp_path / "bucket").mkdir()
    return "s3://bucket"


def test_an_object_store_takes_the_same_calls(bucket: str, tmp_path: Path) -> None:
    uri = storage.join(bucket, "ledger.jsonl")
    assert not storage.exists(uri)
    storage.append_line(uri, "one")
    storage.append_line(uri, "two")
    storage.write_text(storage.join(bucket, "a.csv"), "z")
    assert storage.read_text(uri) == "one\ntwo\n"
    assert storage.names(bucket) == ["a.csv", "ledger.jsonl"]
    assert storage.names(bucket, ".csv") == ["a.csv"]
    assert storage.names("s3://bucket/none") == []
    assert (tmp_path / "bucket" / "a.csv").read_text(encoding="utf-8") == "z"
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


def test_gzip_files_are_taken_as_they_are(bucket: str, tmp_path: Path) -> None:
    packed = gzip.compress(b"voxels")
    storage.write_bytes(storage.join(bucket, "x.nii.gz"), packed)
    assert (tmp_path / "bucket" / "x.nii.gz").read_bytes() == packed
    assert storage.read_bytes(storage.join(bucket, "x.nii.gz")) == packed
    assert storage.read_head(storage.join(bucket, "x.nii.gz"), 9) == packed[:9]


def test_a_missing_object_says_so_in_words(bucket: str) -> None:
    with pytest.raises(SegrayError, match="cannot be read"):
        storage.read_bytes(storage.join(bucket, "none"))


def test_filesystem_gives_pyarrows_view(tmp_path: Path) -> None:
    fs, path = storage.filesystem(f"file://{tmp_path}")
    assert fs.type_name == "local"
    assert path == str(tmp_path)


KEYS = ("with space.nii.gz", "100%.csv", "a%20b", "Größe+1", "what?.x", "a#b", "x@y:z", "[1]")


def test_a_key_of_any_letters_is_found_under_its_own_name(s3: str) -> None:
    for key in KEYS:
        storage.write_text(f"{s3}/some folder/{key}", key)
    assert storage.names(f"{s3}/some folder") == sorted(KEYS)
    assert folder.listing(f"{s3}/some folder") == ([], sorted(KEYS))
    for key in KEYS:
        uri = f"{s3}/some folder/{key}"
        assert storage.read_text(uri) == key
        assert storage.read_head(uri, 2) == key.encode()[:2]
        assert storage.exists(uri)
        assert folder.is_file(uri)
        assert folder.file_state(uri)[0] == len(key.encode())
        storage.delete(uri)
        assert not storage.exists(uri)
    assert not folder.is_file(f"{s3}/some folder")


CALLS = {
    "exists": storage.exists,
    "read_bytes": storage.read_bytes,
    "read_head": lambda uri: storage.read_head(uri, 9),
    "write_bytes": lambda uri: storage.write_bytes(uri, b"x"),
    "append_line": lambda uri: storage.append_line(uri, "x"),
    "names": storage.names,
    "delete": storage.delete,
    "listing": folder.listing,
    "is_file": folder.is_file,
    "file_state": folder.file_state,
}


@pytest.mark.parametrize("call", CALLS)
def test_an_address_that_pyarrow_cannot_open_is_one_sentence(call: str) -> None:
    for uri in ("foo://bucket/x", "s3://a b/x", "s3://bucket/\udc80"):
        with pytest.raises(SegrayError, match="cannot be opened") as caught:
            CALLS[call](uri)
        assert uri in str(caught.value)
        assert caught.value.mend


@pytest.mark.parametrize("call", CALLS)
def test_what_a_store_refuses_is_one_sentence(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that refuses everything, as one does whose network is gone."""

    class Gone:
        def __getattr__(self, name: str) -> object:
            raise OSError("When getting information for key 'x': AWS Error NETWORK_CONNECTION\nand more")

    monkeypatch.setattr(storage, "filesystem", lambda uri: (Gone(), "bucket/x"))
    with pytest.raises(
        StoreError, match=r"s3://bucket/x cannot be \w+ \(When .* AWS Error NETWORK_CONNECTION\)"
    ) as caught:
        CALLS[call]("s3://bucket/x")
    assert caught.value.mend == storage.MEND


def test_a_store_that_does_not_answer_is_one_sentence(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=rf"{s3}/x cannot be read .*NETWORK_CONNECTION"):
        storage.exists(f"{s3}/x")


def test_an_absent_bucket_refuses_a_write_in_words(s3: str) -> None:
    with pytest.raises(StoreError, match=r"cannot be written .*NO_SUCH_BUCKET"):
        storage.write_bytes(f"{s3}-none/x", b"x")


@pytest.mark.parametrize("call", [storage.absolute, storage.filesystem, storage.exists, storage.read_bytes])
def test_an_address_with_a_password_is_refused_before_anything_is_written(call: Callable[[str], Any]) -> None:
    with pytest.raises(UsageError, match=r"s3://\*\*\*@bucket/x holds a password.*AWS_SECRET_ACCESS_KEY") as caught:
        call("s3://name:hush@bucket/x")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("secret", ["hush", "hu/sh", "hu sh", "hu@sh", "hu/s h@"])
def test_no_message_holds_a_password(s3: str, secret: str) -> None:
    uri = s3.replace("://", f"://name:{secret}@") + "/none"
    for kind in (SegrayError, CaseError):
        assert secret not in str(kind(f"{uri} is damaged, so is {uri}."))
    with pytest.raises(SegrayError) as caught:
        storage.read_bytes(uri)
    assert secret not in str(caught.value)
    assert "sh" not in str(caught.value).partition("(")[0]
    told = "s3://bucket/a@b:c/d hdfs://host:9000/a@b hdfs://host:9000 at 12:30"
    assert str(SegrayError(told)) == told
