"""The ledger: rows by part and by line, what a crash leaves, folders from before there were parts, the tables."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segray import ledger_parts, storage
from segray.evaluation.tables import read_csv_rows, read_table
from segray.ledger_parts import OLD, PART_ROWS
from segray.pipelines import ledger as module
from segray.pipelines.ledger import Entry, Ledger, to_line


def ok(case_id: str, **more: Any) -> str:
    """The line of a case with a mask."""
    row = {"case_id": case_id, "status": "ok", "reason": "", "mask": f"masks/{case_id}.nii.gz", "fingerprint": "f"}
    return to_line(row | more)


def files(folder: Path) -> list[str]:
    """What lies in the ledger, without the random part of the runs' names."""
    return sorted("-".join(path.name.split("-")[:2] + path.name.split("-")[3:]) for path in folder.glob("ledger/*"))


def test_the_last_row_of_a_case_counts(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.add(to_line({"case_id": "b", "status": "failed", "reason": "cut"}))
    ledger.add(ok("a"))
    ledger.add(ok("b"))
    again = Ledger(str(tmp_path))
    assert [(row["case_id"], row["status"]) for row in again.rows] == [("a", "ok"), ("b", "ok")]
    assert again.entry("b") == Entry("ok", "masks/b.nii.gz", "f", "")
    assert again.entry("c") is None
    assert again.replaced == 1


def test_rows_come_back_as_they_were_added(tmp_path: Path) -> None:
    row = {
        "case_id": "Größe", "status": "ok", "reason": "", "image": "/x y.nii.gz", "mask": "masks/x", "source": "{}",
        "fingerprint": "f", "notes": "", "host": "h", "seconds_read": 0.25, "seconds_new": 3.0, "peak_mib": 812,
        "volume_ml_liver": 1.5, "mean_hu_liver": None, "list": [1, 2],
        "structures": {"structure": ["liver"], "voxels": [7]},
    }  # fmt: skip
    with Ledger(str(tmp_path), run="0001-aaaa", bundle_id="b1") as ledger:
        before = time.time()
        ledger.add(to_line(row))
        ledger.add(to_line({"case_id": "z", "status": "failed", "reason": "cut"}))
    found = Ledger(str(tmp_path)).rows
    at = found[0].pop("at")
    assert before - 1 < at < time.time() + 1
    assert found[0] == row | {"run": "0001-aaaa", "bundle_id": "b1"}
    assert {name for name in found[1] if found[1][name] is not None} >= {"case_id", "status", "reason"}
    schema = pq.read_schema(tmp_path / "ledger" / "part-0001-aaaa-000000.parquet")
    assert schema.field("seconds_read").type == pa.float64()
    assert schema.field("bundle_id").type == pa.string()
    assert "mean_hu_liver" not in schema.names
    part = ledger_parts.ledger_files(str(tmp_path))
    assert "structures" not in next(ledger_parts.last_rows(str(tmp_path), part, nested=False))[0]
    asked = next(ledger_parts.last_rows(str(tmp_path), part, ("case_id", "structures")))
    assert asked == [{"case_id": "Größe", "structures": row["structures"]}, {"case_id": "z", "structures": None}]


def test_rows_go_into_parts_and_the_lines_of_a_part_go(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    for number in range(2 * PART_ROWS + 3):
        ledger.add(ok(f"c{number:04d}"))
    assert files(tmp_path) == ["part-0001-000000.parquet", "part-0001-000001.parquet", "tail-0001"]
    assert len(Ledger(str(tmp_path)).entries) == 2 * PART_ROWS + 3
    ledger.flush()
    assert files(tmp_path) == [f"part-0001-00000{number}.parquet" for number in range(3)]
    with Ledger(str(tmp_path)) as second:
        second.add(ok("c0000", fingerprint="later"))
    assert files(tmp_path)[-1] == "part-0002-000000.parquet"
    again = Ledger(str(tmp_path))
    assert again.entries["c0000"].fingerprint == "later"
    assert len(again.rows) == len(again.entries) == 2 * PART_ROWS + 3


def test_a_ledger_that_is_only_read_writes_nothing(tmp_path: Path) -> None:
    with Ledger(str(tmp_path)) as ledger:
        assert ledger.rows == []
    assert list(tmp_path.iterdir()) == []


def test_a_line_cut_by_a_crash_is_no_finished_case(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), run="0001-aaaa")
    ledger.add(ok("a"))
    tail = tmp_path / "ledger" / "tail-0001-aaaa.jsonl"
    whole = tail.read_bytes()
    for cut in (b'{"case_id": "b", "sta', b"\0" * 40, b'["b"]\n', b'{"status": "ok"}\n', b"\xff\n"):
        tail.write_bytes(whole + cut)
        assert [row["case_id"] for row in Ledger(str(tmp_path)).rows] == ["a"]
    with Ledger(str(tmp_path)) as second:
        second.add(ok("c"))
    assert [row["case_id"] for row in Ledger(str(tmp_path)).rows] == ["a", "c"]


def test_a_damaged_part_is_no_finished_case(tmp_path: Path) -> None:
    for case_id in ("a", "b"):
        with Ledger(str(tmp_path)) as ledger:
            ledger.add(ok(case_id))
    first = min((tmp_path / "ledger").iterdir())
    data = first.read_bytes()
    foreign = pa.BufferOutputStream()
    pq.write_table(pa.table({"case_id": ["x"]}), foreign)
    for damage in (b"", data[: len(data) // 2], data[:200] + b"\0" * (len(data) - 200), bytes(foreign.getvalue())):
        first.write_bytes(damage)
        again = Ledger(str(tmp_path))
        assert [row["case_id"] for row in again.rows] == ["b"]
        assert again.damaged == [f"ledger/{first.name}"]


def test_a_part_with_a_type_that_a_library_registered_is_not_opened(tmp_path: Path) -> None:
    with Ledger(str(tmp_path), run="0001-aaaa") as ledger:
        ledger.add(ok("a"))
    path = tmp_path / "ledger" / "part-0001-aaaa-000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "case_id", pa.array([b"a"], pa.binary())), path)
    assert Ledger(str(tmp_path)).damaged == ["ledger/part-0001-aaaa-000000.parquet"]


def test_a_folder_from_before_the_parts_is_gone_on_with(tmp_path: Path) -> None:
    old = tmp_path / OLD
    old.write_text(ok("a") + "\n" + ok("b", volume_ml_liver=2.0) + '\n{"case_id": "c", "sta')
    before = old.read_bytes()
    with Ledger(str(tmp_path)) as ledger:
        assert sorted(ledger.entries) == ["a", "b"]
        ledger.add(ok("a", fingerprint="later"))
        ledger.add(ok("c"))
    again = Ledger(str(tmp_path))
    assert {row["case_id"]: row["fingerprint"] for row in again.rows} == {"a": "later", "b": "f", "c": "f"}
    assert old.read_bytes() == before
    assert again.rows[1]["volume_ml_liver"] == 2.0


def test_dropped_cases_are_as_if_never_done(tmp_path: Path) -> None:
    (tmp_path / OLD).write_text(ok("a") + "\n" + ok("b") + "\n")
    with Ledger(str(tmp_path)) as ledger:
        ledger.drop(["a"], "no mask")
    again = Ledger(str(tmp_path))
    assert again.entry("a") is None
    assert [row["case_id"] for row in again.rows] == ["b"]
    assert ledger_parts.sources(str(tmp_path)) == {}
    with again:
        again.add(ok("a"))
    assert [row["case_id"] for row in Ledger(str(tmp_path)).rows] == ["a", "b"]


def test_the_sources_of_all_cases_are_found_in_old_lines_parts_and_tails(tmp_path: Path) -> None:
    (tmp_path / OLD).write_text(ok("a", source="of a") + "\n" + ok("b", source="first of b") + "\n")
    with Ledger(str(tmp_path)) as ledger:
        ledger.add(ok("b", source="of b"))
    unfinished = Ledger(str(tmp_path))
    unfinished.add(ok("c", source="of c"))
    unfinished.add(ok("d"))
    assert ledger_parts.sources(str(tmp_path)) == {"a": "of a", "b": "of b", "c": "of c"}


def test_runs_follow_each_other_by_number(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert ledger_parts.new_run(folder).startswith("0001-")
    for name in ("part-0009-ff-000003.parquet", "claim-0012-00.json", "tail-0010-aa.jsonl", "notes.txt", "part-x"):
        storage.write_text(f"{folder}/ledger/{name}", "")
    assert ledger_parts.new_run(folder).startswith("0013-")
    assert list(ledger_parts.ledger_files(folder)) == [
        "ledger/part-0009-ff-000003.parquet",
        "ledger/tail-0010-aa.jsonl",
    ]


def test_everything_can_be_forgotten(tmp_path: Path) -> None:
    (tmp_path / OLD).write_text(ok("a") + "\n")
    ledger = Ledger(str(tmp_path))
    ledger.add(ok("b"))
    storage.write_text(f"{tmp_path}/ledger/claim-0009-aa.json", "{}")
    ledger_parts.clear(str(tmp_path))
    assert not Ledger(str(tmp_path)).entries
    assert [path.name for path in (tmp_path / "ledger").iterdir()] == ["claim-0009-aa.json"]


def test_tables_hold_a_row_a_case(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.add(to_line({"case_id": "a", "status": "ok", "fingerprint": "x", "volume_ml_liver": 1.5}))
    ledger.write_tables()
    assert read_table(str(tmp_path / "cases.parquet")) == [{"case_id": "a", "status": "ok", "volume_ml_liver": 1.5}]


def test_tables_join_parts_whose_columns_differ(tmp_path: Path) -> None:
    (tmp_path / OLD).write_text(ok("c", volume_ml_liver=1, seconds_read=1.0, host="h") + "\n")
    with Ledger(str(tmp_path)) as ledger:
        ledger.add(to_line({"case_id": "a", "status": "failed", "reason": 'cut, "so"', "image": "x"}))
        ledger.add(ok("b", volume_ml_liver=2.5, mean_hu_liver=float("nan")))
    with Ledger(str(tmp_path)) as ledger:
        ledger.add(ok("d", volume_ml_liver=None, mean_hu_liver=7.0, peak_mib=12))
        ledger.write_tables()
    rows = read_csv_rows(str(tmp_path / "cases.csv"))
    assert [row["case_id"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["volume_ml_liver"] for row in rows] == ["", "2.5", "1.0", ""]
    assert [row["mean_hu_liver"] for row in rows] == ["", "", "", "7.0"]
    assert rows[0]["reason"] == 'cut, "so"'
    columns = list(rows[0])
    assert columns[:5] == ["case_id", "status", "reason", "image", "mask"]
    assert columns[-3:] == ["seconds_read", "peak_mib", "host"]
    assert [row["case_id"] for row in read_table(str(tmp_path / "cases.parquet"))] == ["a", "b", "c", "d"]


def test_tables_are_written_again_only_for_new_rows(tmp_path: Path) -> None:
    def written() -> tuple[int, ...]:
        Ledger(str(tmp_path)).write_tables()
        return tuple((tmp_path / name).stat().st_mtime_ns for name in ("cases.csv", "cases.parquet"))

    with Ledger(str(tmp_path)) as ledger:
        ledger.add(ok("a"))
    first = written()
    assert written() == first
    with Ledger(str(tmp_path)) as ledger:
        ledger.add(ok("b"))
    second = written()
    assert second > first
    (tmp_path / "cases.parquet").write_bytes(b"cut")
    assert written() > second
    (tmp_path / "cases.csv").unlink()
    written()
    assert len(read_csv_rows(str(tmp_path / "cases.csv"))) == 2


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An object store as pyarrow sees one: every access goes through a pyarrow file system, rooted in ``tmp_path``."""
    import pyarrow.fs as pafs

    fs = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    monkeypatch.setattr(storage, "filesystem", lambda uri: (fs, uri.removeprefix("s3://")))
    (tmp_path / "bucket" / "ledger").mkdir(parents=True)
    return "s3://bucket"


def test_an_object_store_gets_the_last_part_again_until_it_is_full(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bucket"
    ledger = Ledger(bucket)
    ledger.add(ok("a"))
    assert files(folder) == []
    monkeypatch.setattr(module, "FLUSH_S", 0.0)
    ledger.tick()
    assert [row["case_id"] for row in Ledger(bucket).rows] == ["a"]
    before = (folder / "ledger").stat().st_mtime_ns
    ledger.tick()
    assert (folder / "ledger").stat().st_mtime_ns == before, "nothing new, nothing written"
    monkeypatch.setattr(module, "FLUSH_S", 1e9)
    for number in range(PART_ROWS):
        ledger.add(ok(f"c{number:04d}"))
    assert files(folder) == ["part-0001-000000.parquet"]
    ledger.write_tables()
    assert files(folder) == ["part-0001-000000.parquet", "part-0001-000001.parquet"]
    assert len(Ledger(bucket).rows) == PART_ROWS + 1
    assert len(read_table(f"{bucket}/cases.parquet")) == PART_ROWS + 1


def test_an_object_store_keeps_rows_and_tables(s3: str) -> None:
    with Ledger(f"{s3}/out", bundle_id="b") as ledger:
        ledger.add(ok("a"))
        ledger.write_tables()
    again = Ledger(f"{s3}/out")
    assert [(row["case_id"], row["bundle_id"]) for row in again.rows] == [("a", "b")]
    again.write_tables()
    assert storage.names(f"{s3}/out") == ["cases.csv", "cases.parquet", "ledger"]


def test_what_ends_a_run_is_told_though_the_ledger_cannot_be_written_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise storage.SegrayError("full")

    def run() -> None:
        with Ledger(str(tmp_path), run="0001-aaaa") as ledger:
            ledger.add(ok("a"))
            monkeypatch.setattr(storage, "write_bytes", full)
            raise RuntimeError("the machine")

    with pytest.raises(RuntimeError, match="the machine"):
        run()
    monkeypatch.undo()
    assert json.loads((tmp_path / "ledger" / "tail-0001-aaaa.jsonl").read_text())["case_id"] == "a"
    assert list(Ledger(str(tmp_path)).entries) == ["a"]
