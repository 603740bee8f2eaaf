"""What earlier runs left of a case: what no longer holds goes, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from segray import storage
from segray.formats.source import CaseSource
from segray.ledger_parts import Row
from segray.pipelines.earlier_files import EarlierFiles
from segray.pipelines.ledger import Entry

HERS = ("masks/a.nii.gz", "structures/a/liver.nii.gz", "previews/a.png")
OTHERS = ("masks/b.nii.gz", "structures/b/liver.nii.gz", "previews/b.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prediction folder with what was written of two cases."""
    for name in (*HERS, *OTHERS):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(b"1")
    (tmp_path / "a.nii.gz").write_bytes(b"the scan")
    return tmp_path / "out"


def source(folder: Path) -> CaseSource:
    return CaseSource("a", str(folder.parent / "a.nii.gz"))


def known(folder: Path) -> Entry:
    """What the ledger has of the case."""
    return Entry("ok", HERS[0], source(folder).fingerprint(), "", "structures,preview")


def row(folder: Path, **values: str) -> Row:
    """A new row of the case."""
    made = {"case_id": "a", "status": "ok", "mask": HERS[0], "further": ""}
    return made | {"fingerprint": source(folder).fingerprint(), "source": source(folder).to_json()} | values


def failed(folder: Path) -> Row:
    return row(folder, status="failed", reason="it is damaged")


def left(folder: Path) -> set[str]:
    """What is still there of the case; that of the other one always is."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(OTHERS) <= found
    return found - set(OTHERS)


def test_another_input_leaves_no_file_of_the_one_before(folder: Path) -> None:
    before = known(folder)
    (folder.parent / "a.nii.gz").write_bytes(b"another scan")
    settled = EarlierFiles(str(folder), replaced=False).settle(row(folder), before)
    assert left(folder) == {HERS[0]}, "the mask is the new one"
    assert settled["further"] == ""


def test_a_mask_under_another_ending_takes_the_place_of_the_one_before(folder: Path) -> None:
    EarlierFiles(str(folder), replaced=False).settle(row(folder, mask="masks/a.dcm"), None)
    assert left(folder) == set()


def test_files_of_the_same_input_stay_and_are_told(folder: Path) -> None:
    (folder / "overlays" / "a").mkdir(parents=True)
    settled = EarlierFiles(str(folder), replaced=False).settle(row(folder, further="overlays"), known(folder))
    assert left(folder) == set(HERS)
    assert settled["further"] == "overlays,structures,preview"
    EarlierFiles(str(folder), replaced=True).settle(row(folder, further="structures"), known(folder))
    assert left(folder) == set(HERS[:2]), "what is to be replaced is replaced"


def test_what_a_case_can_no_longer_have_goes(folder: Path) -> None:
    wanted = row(folder, further="preview,structures", absent="structures")
    EarlierFiles(str(folder), replaced=True).settle(wanted, known(folder))
    assert left(folder) == {HERS[0], HERS[2]}


def test_a_changed_input_that_fails_leaves_no_mask(folder: Path) -> None:
    before = known(folder)
    (folder.parent / "a.nii.gz").write_bytes(b"damaged")
    EarlierFiles(str(folder), replaced=False).settle(failed(folder), before)
    assert left(folder) == set()


def test_a_mask_that_no_row_knows_of_goes_with_the_failure(folder: Path) -> None:
    EarlierFiles(str(folder), replaced=False).settle(failed(folder), None)
    assert left(folder) == set()


def test_a_failure_that_is_not_of_the_input_leaves_the_mask(folder: Path) -> None:
    EarlierFiles(str(folder), replaced=True).settle(failed(folder), known(folder))
    assert left(folder) == set(HERS), "the mask is of this very file"
    before = known(folder)
    os.rename(folder.parent / "a.nii.gz", folder.parent / "away")
    for entry in (before, None):
        EarlierFiles(str(folder), replaced=False).settle(failed(folder), entry)
        assert left(folder) == set(HERS), "a disk that is away may come back"
    unknown = {"case_id": "a", "status": "failed", "reason": "no image", "image": ""}
    EarlierFiles(str(folder), replaced=False).settle(unknown, before)
    assert left(folder) == set(HERS)


def test_a_file_that_cannot_be_removed_is_a_note(folder: Path) -> None:
    (folder / "previews" / "a.png").unlink()
    (folder / "previews" / "a.png").mkdir()
    settled = EarlierFiles(str(folder), replaced=True).settle(row(folder), known(folder))
    assert "previews/a.png is of an earlier run and could not be removed" in settled["notes"]


def test_on_an_object_store_folders_go_as_well(s3: str) -> None:
    for name in (*HERS, *OTHERS):
        storage.write_text(f"{s3}/out/{name}", "1")
    made = {"case_id": "a", "status": "ok", "mask": HERS[0], "further": "preview", "fingerprint": "1"}
    EarlierFiles(f"{s3}/out", replaced=True).settle(made, None)
    assert storage.names(f"{s3}/out/structures") == ["b"]
    assert storage.names(f"{s3}/out/previews") == ["a.png", "b.png"]
    assert storage.names(f"{s3}/out/masks") == ["a.nii.gz", "b.nii.gz"]
