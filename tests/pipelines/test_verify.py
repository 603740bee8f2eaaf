"""A prediction folder against its ledger: what is lost, damaged, changed, left over; and what a next run would do."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import made_prediction
import nibabel
import numpy as np
import pytest
from made_prediction import CASES, LABELS, predicted

from segray import formats, ledger_parts, privacy, storage
from segray.case import LabelMap
from segray.config import Config, PrivacyConfig, load_config
from segray.errors import UsageError
from segray.evaluation.tables import read_csv_rows
from segray.formats.structure_files import write_structures
from segray.pipelines.claims import Claim, FolderTakenError
from segray.pipelines.earlier_files import EarlierFiles
from segray.pipelines.ledger import Ledger, to_line
from segray.pipelines.verify import Checked, check_mask, verify
from segray.report.png import encode_png
from segray.report.slice_overlays import write_overlay_slices


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The prediction folder."""
    predicted(tmp_path / "scans", str(tmp_path / "out"))
    return tmp_path / "out"


def todo(folder: Path, *settings: str) -> list[str]:
    """The cases that the next run would predict."""
    return made_prediction.todo(folder.parent / "scans", str(folder), *settings)


def kinds(folder: Path, **options: bool) -> dict[str, list[str]]:
    """Kind of finding to names."""
    return made_prediction.kinds(str(folder), **options)


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_whole_folder_is_clean_and_stays_as_it_is(tmp_path: Path, overlapping: bool) -> None:
    folder = tmp_path / "out"
    label_map = LabelMap(LABELS.values, overlapping=overlapping)
    predicted(tmp_path / "scans", str(folder), label_map)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    summary = verify(str(folder), str(tmp_path / "scans"))
    assert summary.clean
    assert (summary.cases, summary.whole, summary.notes) == (4, 4, [])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert todo(folder) == []


def test_a_row_without_a_mask_is_done_again(folder: Path) -> None:
    (folder / "masks" / "b.nii.gz").unlink()
    summary = verify(str(folder))
    assert [(one.kind, one.name) for one in summary.findings] == [("lost", "b")]
    assert summary.notes == ["1 row (b) has no mask: dropped, the next run does it again."]
    assert (summary.cases, summary.whole) == (3, 3)
    assert [row["case_id"] for row in read_csv_rows(str(folder / "cases.csv"))] == ["a", "c", "d"]
    assert todo(folder) == ["b"]
    assert verify(str(folder)).clean


@pytest.mark.parametrize("place", ["../theirs/x.nii.gz", "{theirs}/x.nii.gz", "masks/../../theirs/x.nii.gz"])
def test_a_row_that_names_a_file_outside_reads_and_deletes_nothing_there(folder: Path, place: str) -> None:
    theirs = folder.parent / "theirs"
    theirs.mkdir()
    (theirs / "x.nii.gz").write_bytes(b"no mask")
    with Ledger(str(folder)) as ledger:
        (row,) = (row for row in ledger.rows if row["case_id"] == "b")
        ledger.add(row | {"mask": place.format(theirs=theirs)})
    summary = verify(str(folder), delete_orphans=True)
    assert ("lost", "b") in [(one.kind, one.name) for one in summary.findings]
    assert (theirs / "x.nii.gz").read_bytes() == b"no mask"
    assert todo(folder) == ["b"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(bytes(data))


def other_labels(path: Path) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[-1] = 1 if data[-1] != 1 else 2
    path.write_bytes(gzip.compress(bytes(data)))


def unknown_label(path: Path) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[-1] = 7
    path.write_bytes(gzip.compress(bytes(data)))


def other_shape(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 3), np.uint8), np.diag([-1.5, -1.5, 3.0, 1.0])), path)


def moved(path: Path) -> None:
    stored = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(stored.dataobj), stored.affine + np.eye(4)[:, [3, 0, 1, 2]] * 9), path)


@pytest.mark.parametrize("damage", [cut, flip, other_labels, unknown_label, other_shape, moved])
def test_a_mask_that_is_not_what_its_row_says_is_done_again(folder: Path, damage: object) -> None:
    assert callable(damage)
    damage(folder / "masks" / "c.nii.gz")
    summary = verify(str(folder))
    assert [(one.kind, one.name) for one in summary.findings] == [("damaged", "c")]
    assert summary.findings[0].reason
    assert (folder / "masks" / "c.nii.gz").exists(), "deleted only where that is asked for"
    assert todo(folder) == ["c"]


def test_a_tiny_structure_that_a_mask_lost_is_damage(tmp_path: Path) -> None:
    predicted(tmp_path / "scans", str(tmp_path / "out"), scale=0.01)
    assert verify(str(tmp_path / "out")).clean
    other_labels(tmp_path / "out" / "masks" / "b.nii.gz")
    (found,) = verify(str(tmp_path / "out")).findings
    assert found.name == "b"
    assert re.search(r"The mask has \d+ voxels of \w+, and its row says \d+\.", found.reason)


def test_files_without_a_row_are_kept_unless_they_are_to_go(folder: Path) -> None:
    (folder / "masks" / "x.nii.gz").write_bytes(b"?")
    cut(folder / "masks" / "a.nii.gz")
    assert kinds(folder) == {"damaged": ["a"], "orphan": ["masks/x.nii.gz"]}
    assert kinds(folder) == {"orphan": ["masks/a.nii.gz", "masks/x.nii.gz"]}
    cut(folder / "masks" / "b.nii.gz")
    assert kinds(folder, delete_orphans=True) == {
        "damaged": ["b"], "deleted": ["masks/a.nii.gz", "masks/x.nii.gz"],
    }  # fmt: skip
    assert sorted(path.name for path in (folder / "masks").iterdir()) == ["c.nii.gz", "d.nii.gz"]
    assert verify(str(folder)).clean


@pytest.mark.parametrize("ending", ["nii.gz", "dcm", "txt"])
def test_whose_file_an_orphan_is_stays_hidden(folder: Path, ending: str) -> None:
    names = ("Miller_Anna.1961", "Jo")
    for name in names:
        (folder / "masks" / f"{name}.{ending}").write_bytes(b"?")
    (folder / "Meyer_Eva").mkdir()
    (folder / "Meyer_Eva" / f".tmp-{'0' * 32}").write_bytes(b"half")
    try:
        config = privacy.with_privacy(Config(privacy=PrivacyConfig(hash_ids=True)), str(folder))
        summary = verify(str(folder), str(folder.parent / "scans"), config)
        said = [privacy.hide(note) for note in summary.notes]
        assert privacy.hide("masks, ledger, structures") == "masks, ledger, structures"
    finally:
        privacy.forget()
    assert [one.kind for one in summary.findings] == ["orphan", "orphan", "leftover"]
    assert [note for note in said if any(name in note for name in (*names, "Meyer"))] == []
    assert re.match(rf"2 files \(masks/case-\w{{16}}\.{ending}, masks/case-\w{{16}}\.{ending}\) are", said[0])


def test_what_killed_writers_left_is_removed(folder: Path) -> None:
    for below in ("masks", "ledger", "."):
        (folder / below / f".tmp-{'0' * 31}a").write_bytes(b"half")
    (folder / "masks" / ".tmp-mine").write_bytes(b"not of segray")
    found = kinds(folder)
    assert len(found["leftover"]) == 3
    assert found["orphan"] == ["masks/.tmp-mine"]
    assert not [path for path in folder.rglob(".tmp-*") if path.name != ".tmp-mine"]


def test_folders_that_killed_writers_left_are_removed(folder: Path) -> None:
    for name in (f".tmp-{'0' * 32}", f".tmp-{'0' * 32}-before"):
        (folder / "structures" / name).mkdir(parents=True)
        (folder / "structures" / name / "liver.nii.gz").write_bytes(b"half")
    (folder / "structures" / "a").mkdir()
    assert kinds(folder) == {"leftover": [f"structures/.tmp-{'0' * 32}", f"structures/.tmp-{'0' * 32}-before"]}
    assert [path.name for path in (folder / "structures").iterdir()] == ["a"]


def with_further(folder: Path, further: str) -> None:
    """Let the rows tell of further files, and structures and previews of all cases lie there."""
    rows = Ledger(str(folder)).rows
    with Ledger(str(folder)) as ledger:
        for row in rows:
            ledger.add(to_line(row | {"further": further}))
    for row in rows:
        labels, grid = formats.read_mask(f"{folder}/{row['mask']}")
        write_structures(f"{folder}/structures/{row['case_id']}", labels, grid, LABELS)
        storage.write_bytes(f"{folder}/previews/{row['case_id']}.png", encode_png(np.zeros((64, 64, 3), np.uint8)))


def test_a_case_that_lost_a_further_file_is_done_again(folder: Path) -> None:
    with_further(folder, "preview,structures,rtstruct")
    assert verify(str(folder)).clean, "an RTSTRUCT is of DICOM series alone"
    shutil.rmtree(folder / "structures" / "b")
    (folder / "previews" / "c.png").unlink()
    (folder / "masks" / "c.nii.gz").unlink()
    found = verify(str(folder)).findings
    assert [(one.kind, one.name) for one in found] == [("lost", "c"), ("lacking", "b"), ("lacking", "c")]
    assert "structures" in found[1].reason
    assert todo(folder, "predict.further=[structures]") == ["b", "c"]
    assert todo(folder) == ["c"], "who does not ask for structures lacks none"
    assert kinds(folder) == {"orphan": ["structures/c"]}, "it has no row until it is done again"


def test_what_a_case_has_besides_a_lost_further_file_is_kept(folder: Path) -> None:
    with_further(folder, "preview,structures")
    before = {row["case_id"]: row for row in Ledger(str(folder)).rows}["b"]
    shutil.rmtree(folder / "structures" / "b")
    (folder.parent / "scans" / "a.nii.gz").unlink()
    (folder / "previews" / "a.png").unlink()
    verify(str(folder))
    ledger = Ledger(str(folder))
    again = dict(before) | {"further": "structures"}
    settled = EarlierFiles(str(folder), replaced=False).settle(again, ledger.entry("b"))
    assert settled["further"] == "structures,preview"
    assert (folder / "previews" / "b.png").exists(), "the run that makes the lost one again does not ask for previews"
    assert (entry := ledger.entry("a")) is not None
    assert entry.done, "the mask of a case whose input is gone is still that of its row"
    assert "run" in before
    kept = {row["case_id"]: row for row in ledger.rows}["b"]
    assert {**kept, "run": "", "at": 0, "further": ""} == {**before, "run": "", "at": 0, "further": ""}


def test_further_files_that_are_not_whole_are_told(folder: Path) -> None:
    with_further(folder, "preview,structures,overlays")
    for case_id in CASES:
        labels, _ = formats.read_mask(f"{folder}/masks/{case_id}.nii.gz")
        write_overlay_slices(f"{folder}/overlays/{case_id}", labels, labels, LABELS.names)
    assert verify(str(folder)).clean
    (folder / "structures" / "a" / "liver.nii.gz").unlink()
    cut(folder / "structures" / "b" / "spleen.nii.gz")
    other = (folder / "structures" / "a" / "spleen.nii.gz").read_bytes()
    (folder / "structures" / "c" / "spleen.nii.gz").write_bytes(other)
    picture = folder / "previews" / "d.png"
    picture.write_bytes(picture.read_bytes()[:60])
    (folder / "overlays" / "d" / "0002.png").unlink()
    summary = verify(str(folder))
    assert [(one.kind, one.name) for one in summary.findings] == [("lacking", case_id) for case_id in CASES]
    told = [one.reason for one in summary.findings]
    assert "lacks 1 of 2 structures, such as liver.nii.gz" in told[0]
    assert told[1].startswith("structures: ")
    assert "has other labels than the mask" in told[2]
    assert told[3].startswith("preview: ")
    assert "lacks 1 of its pictures, such as 0002.png" in told[3]
    assert summary.whole == 4
    assert todo(folder) == []
    assert todo(folder, "predict.further=structures") == ["a", "b", "c"]
    assert todo(folder, "predict.further=preview") == ["d"]
    assert verify(str(folder)).clean


def test_further_files_of_cases_without_a_row_are_told_and_removed_where_that_is_asked_for(folder: Path) -> None:
    with_further(folder, "preview,structures")
    shutil.copytree(folder / "structures" / "a", folder / "structures" / "x")
    shutil.copy(folder / "previews" / "a.png", folder / "previews" / "y.png")
    assert kinds(folder) == {"orphan": ["previews/y.png", "structures/x"]}
    assert kinds(folder, delete_orphans=True) == {"deleted": ["previews/y.png", "structures/x"]}
    assert sorted(path.name for path in (folder / "structures").iterdir()) == list(CASES)
    assert sorted(path.stem for path in (folder / "previews").iterdir()) == list(CASES)


def test_inputs_that_changed_or_went_are_told(folder: Path) -> None:
    scans = folder.parent / "scans"
    os.utime(scans / "a.nii.gz", (0, 0))
    (scans / "b.nii.gz").unlink()
    found = kinds(folder)
    assert found == {"changed": ["a"], "gone": ["b"]}
    assert todo(folder) == ["a"]
    cut(folder / "masks" / "b.nii.gz")
    assert kinds(folder)["damaged"] == ["b"], "a mask whose image went is still read to its end"


@pytest.mark.parametrize("scale", [1.0, 0.01], ids=["volumes", "voxels"])
def test_a_mask_is_compared_with_its_row_where_the_input_went_or_changed(tmp_path: Path, scale: float) -> None:
    folder = tmp_path / "out"
    predicted(tmp_path / "scans", str(folder), scale=scale)
    (tmp_path / "scans" / "a.nii.gz").unlink()
    (tmp_path / "scans" / "b.nii.gz").unlink()
    os.utime(tmp_path / "scans" / "c.nii.gz", (0, 0))
    other_labels(folder / "masks" / "a.nii.gz")
    other_labels(folder / "masks" / "c.nii.gz")
    summary = verify(str(folder))
    found = {(one.kind, one.name): one.reason for one in summary.findings}
    assert sorted(found) == [("changed", "c"), ("damaged", "a"), ("damaged", "c"), ("gone", "a"), ("gone", "b")]
    assert "its row says" in found["damaged", "a"]
    assert summary.whole == 2


def test_cases_of_the_source_without_a_row_are_told(folder: Path) -> None:
    scans = folder.parent / "scans"
    (scans / "e.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes())
    summary = verify(str(folder), str(scans), load_config(None, []))
    assert summary.notes == ["1 case (e) is not done yet: the next run does it."]


def test_cases_that_the_run_was_not_asked_for_are_not_missed(folder: Path) -> None:
    scans = folder.parent / "scans"
    for name in "ef":
        (scans / f"{name}.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes())
    facts = {"split": {"train": ["e"], "validation": list(CASES)}, "predict": {"split": "validation"}}
    (folder / "prediction.json").write_text(json.dumps(facts))
    assert verify(str(folder), str(scans), load_config(None, [])).clean
    told = verify(str(folder), str(scans), load_config(None, ["predict.split=train"])).findings
    assert [(one.kind, one.name) for one in told] == [("absent", "e")]


def test_a_damaged_part_of_the_ledger_is_removed_and_its_masks_are_orphans(folder: Path) -> None:
    (part,) = (folder / "ledger").glob("part-*")
    cut(part)
    found = kinds(folder)
    assert found["unreadable"] == [f"ledger/{part.name}"]
    assert len(found["orphan"]) == 4
    assert list(ledger_parts.ledger_files(str(folder))) == []
    assert todo(folder) == list(CASES)


def test_what_cannot_be_reached_is_not_called_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = storage.read_head

    def away(uri: str, count: int) -> bytes:
        if "/masks/" in uri:
            raise storage.StoreError("the store does not answer")
        return real(uri, count)

    monkeypatch.setattr(storage, "read_head", away)
    found = verify(str(folder))
    assert {one.kind for one in found.findings} == {"unchecked"}
    assert found.findings[0].reason == "the store does not answer"
    monkeypatch.undo()
    assert todo(folder) == []


def test_a_runner_may_check_the_masks_elsewhere(folder: Path) -> None:
    seen: list[str] = []

    def runner(items: object, label_map: str) -> Checked:
        for item in items:  # type: ignore[attr-defined]
            seen.append(item["case_id"])
            yield item, *((check_mask(item, label_map)) if item["case_id"] != "d" else ("", "its worker died"))

    summary = verify(str(folder), runner=runner)
    assert sorted(seen) == list(CASES)
    assert [(one.kind, one.name, one.reason) for one in summary.findings] == [("unchecked", "d", "its worker died")]


def test_failed_cases_are_no_finding_but_are_told(folder: Path) -> None:
    with Ledger(str(folder)) as ledger:
        ledger.add(to_line({"case_id": "z", "status": "failed", "reason": "cut"}))
    summary = verify(str(folder))
    assert summary.clean
    assert summary.notes == ["1 case (z) has failed: --retry-failed tries again."]


def test_only_a_prediction_folder_that_nobody_works_on_is_checked(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match="is no prediction folder"):
        verify(str(tmp_path / "scans"))
    with Claim(str(folder), "predict"), pytest.raises(FolderTakenError):
        verify(str(folder))
