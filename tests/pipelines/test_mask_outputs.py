"""Masks as a file a structure, and as RTSTRUCT: what a second run, verify, evaluate and the review make of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_prediction import CASES, LABELS, kinds, predicted, todo

from segray import formats, privacy, storage
from segray.case import LabelMap
from segray.config import Config, PrivacyConfig
from segray.formats.source import CaseSource
from segray.formats.structure_files import structure_files
from segray.ledger_parts import Row
from segray.pipelines.earlier_files import EarlierFiles
from segray.pipelines.evaluate import measure_case
from segray.pipelines.ledger import Ledger, to_line
from segray.pipelines.review_list import preview_case
from segray.pipelines.verify import check_mask, verify

OUTPUTS = ("structures", "rtstruct")
OVERLAPPING = LabelMap(LABELS.values, overlapping=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A prediction folder with a folder of structures a case."""
    predicted(tmp_path / "scans", str(tmp_path / "out"), output="structures")
    return tmp_path / "out"


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A prediction folder with an RTSTRUCT a case."""
    predicted(tmp_path / "scans", str(tmp_path / "out"), output="rtstruct", scale=0.99)
    return tmp_path / "out"


def again(folder: Path, *settings: str) -> list[str]:
    return todo(folder.parent / "scans", str(folder), *settings)


def rows_of(folder: Path) -> dict[str, Row]:
    return {row["case_id"]: row for row in Ledger(str(folder)).rows}


@pytest.mark.parametrize("label_map", [LABELS, OVERLAPPING], ids=["exclusive", "overlapping"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_whole_folder_is_clean_and_nothing_is_done_again(tmp_path: Path, output: str, label_map: LabelMap) -> None:
    folder = str(tmp_path / "out")
    predicted(tmp_path / "scans", folder, label_map, 0.99, output)
    summary = verify(folder, str(tmp_path / "scans"))
    assert summary.clean, summary.notes
    assert (summary.whole, summary.masks) == (4, f"{folder}/{output}")
    assert todo(tmp_path / "scans", folder, f"predict.output={output}", label_map=label_map) == []
    assert not (tmp_path / "out" / "masks").exists(), "there is no multilabel mask beside it"


def test_a_structure_whose_file_went_is_done_again(folder: Path) -> None:
    (folder / "structures" / "b" / "liver.nii.gz").unlink()
    shutil.rmtree(folder / "structures" / "c")
    assert again(folder) == ["b", "c"]
    found = {(one.kind, one.name): one.reason for one in verify(str(folder)).findings}
    assert set(found) == {("lost", "c"), ("damaged", "b")}
    assert "lacks 1 of 2 structures, such as liver.nii.gz" in found["damaged", "b"]
    assert again(folder) == ["b", "c"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def swap(path: Path) -> None:
    shutil.copy(path.with_name("spleen.nii.gz"), path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, swap, empty])
def test_a_damaged_structure_is_told_and_done_again(folder: Path, damage: Any) -> None:
    damage(folder / "structures" / "b" / "liver.nii.gz")
    assert again(folder) == [], "a plain run sees names, not damage"
    summary = verify(str(folder))
    assert [(one.kind, one.name) for one in summary.findings] == [("damaged", "b")]
    assert (summary.whole, summary.findings[0].reason != "") == (3, True)
    assert again(folder) == ["b"]
    assert kinds(str(folder), delete_orphans=True) == {"deleted": ["structures/b"]}
    assert not (folder / "structures" / "b").exists()


def test_files_of_no_row_and_of_no_structure_are_told_and_removed_where_that_is_asked_for(folder: Path) -> None:
    shutil.copytree(folder / "structures" / "a", folder / "structures" / "x")
    (folder / "structures" / "a" / "heart.nii.gz").write_bytes(b"?")
    (folder / "structures" / "notes.txt").write_bytes(b"?")
    orphans = ["structures/a/heart.nii.gz", "structures/notes.txt", "structures/x"]
    assert kinds(str(folder)) == {"orphan": orphans}
    assert kinds(str(folder), delete_orphans=True) == {"deleted": orphans}
    assert verify(str(folder)).clean
    assert sorted(path.name for path in (folder / "structures").iterdir()) == list(CASES)
    assert again(folder) == []


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_mask_of_a_case_that_failed_since_is_of_no_row(tmp_path: Path, output: str) -> None:
    predicted(tmp_path / "scans", str(tmp_path / "out"), output=output, scale=0.99)
    with Ledger(str(tmp_path / "out")) as ledger:
        ledger.add(to_line({"case_id": "d", "status": "failed", "reason": "the disk is away"}))
    ending = "" if output == "structures" else ".dcm"
    assert kinds(str(tmp_path / "out")) == {"orphan": [f"{output}/d{ending}"]}


def test_an_rtstruct_that_is_not_as_it_was_written_is_done_again(drawn: Path) -> None:
    (drawn / "rtstruct" / "a.dcm").unlink()
    data = (drawn / "rtstruct" / "b.dcm").read_bytes()
    (drawn / "rtstruct" / "b.dcm").write_bytes(data[: int(len(data) * 0.9)])
    shutil.copy(drawn / "rtstruct" / "c.dcm", drawn / "rtstruct" / "x.dcm")
    assert again(drawn, "predict.output=rtstruct") == ["a"]
    assert kinds(str(drawn)) == {"lost": ["a"], "damaged": ["b"], "orphan": ["rtstruct/x.dcm"]}
    assert again(drawn, "predict.output=rtstruct") == ["a", "b"]


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_whole_mask_with_other_voxels_than_the_row_says_is_damage(tmp_path: Path, output: str) -> None:
    folder = str(tmp_path / "out")
    predicted(tmp_path / "scans", folder, output=output, scale=0.99)
    row = rows_of(tmp_path / "out")["a"]
    source = CaseSource.from_json(row["source"])
    geometry = formats.read_header(source).geometry
    labels, _ = formats.read_mask(f"{folder}/{row['mask']}", geometry, LABELS)
    labels[0, 0, 0] = 1 if labels[0, 0, 0] != 1 else 2
    formats.write_output(output, folder, labels, geometry, LABELS, source)
    (found,) = verify(folder).findings
    assert (found.kind, found.name) == ("damaged", "a")
    assert "its row says" in found.reason


def test_a_folder_that_cannot_be_reached_is_not_called_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = storage.names

    def away(uri: str, suffix: str = "") -> list[str]:
        if uri.endswith("/structures/b"):
            raise storage.StoreError("the store does not answer")
        return real(uri, suffix)

    row = rows_of(folder)["b"]
    item = {"mask": f"{folder}/structures/b", "source": row["source"], "same": True, "volumes": {}, "voxels": {}}
    monkeypatch.setattr(storage, "names", away)
    assert check_mask(item, LABELS.to_json()) == ("", "the store does not answer")


@pytest.mark.parametrize("output", OUTPUTS)
def test_it_is_measured_and_drawn_as_any_mask(tmp_path: Path, output: str) -> None:
    folder = tmp_path / "out"
    predicted(tmp_path / "scans", str(folder), output=output, scale=0.99)
    row = rows_of(folder)["b"]
    source = CaseSource.from_json(row["source"])
    geometry = formats.read_header(source).geometry
    labels, _ = formats.read_mask(f"{folder}/{row['mask']}", geometry, LABELS)
    assert set(np.unique(labels)) == {0, 1, 2}
    truth = tmp_path / "truth.nii.gz"
    formats.write_mask(str(truth), labels, geometry)
    known = replace(source, labels=str(truth), label_kind="nifti")
    rows = measure_case(known, f"{folder}/{row['mask']}", LABELS)
    assert [one["dice"] for one in rows] == [1.0, 1.0]
    preview_case({"case_id": "b", "mask": row["mask"], "source": row["source"]}, str(folder), LABELS.to_json())
    assert (folder / "previews" / "b.png").read_bytes().startswith(b"\x89PNG")


def test_another_output_takes_the_place_of_the_one_before(folder: Path) -> None:
    """As a run with --overwrite does it, case by case."""
    row = rows_of(folder)["a"]
    EarlierFiles(str(folder), replaced=True).settle(row | {"mask": "masks/a.nii.gz"}, None)
    assert sorted(path.name for path in (folder / "structures").iterdir()) == ["b", "c", "d"]
    storage.write_text(f"{folder}/masks/b.nii.gz", "")
    EarlierFiles(str(folder), replaced=True).settle(rows_of(folder)["b"], None)
    assert list((folder / "masks").iterdir()) == []
    assert (folder / "structures" / "b").exists()


def test_structures_beside_the_mask_are_looked_at_by_their_names_too(tmp_path: Path) -> None:
    predicted(tmp_path / "scans", str(tmp_path / "out"))
    folder = tmp_path / "out"
    with Ledger(str(folder)) as ledger:
        for row in rows_of(folder).values():
            geometry = formats.read_header(CaseSource.from_json(row["source"])).geometry
            labels, _ = formats.read_mask(f"{folder}/{row['mask']}")
            formats.write_output(
                "structures", str(folder), labels, geometry, LABELS, CaseSource.from_json(row["source"])
            )
            ledger.add(to_line(row | {"further": "structures"}))
    assert verify(str(folder)).clean
    (folder / "structures" / "b" / "spleen.nii.gz").unlink()
    (folder / "structures" / "c" / "heart.nii.gz").write_bytes(b"?")
    assert again(folder, "predict.further=structures") == ["b"]
    assert again(folder) == [], "who does not ask for structures lacks none"
    assert kinds(str(folder)) == {"lacking": ["b"], "orphan": ["structures/c/heart.nii.gz"]}


def test_on_an_object_store(s3: str, tmp_path: Path) -> None:
    folder = f"{s3}/out"
    predicted(tmp_path / "scans", folder, output="structures")
    assert verify(folder).clean
    assert todo(tmp_path / "scans", folder) == []
    storage.delete(f"{folder}/structures/b/liver.nii.gz")
    storage.write_text(f"{folder}/structures/a/heart.nii.gz", "?")
    storage.write_bytes(f"{folder}/structures/c/liver.nii.gz", b"?")
    assert todo(tmp_path / "scans", folder) == ["b"]
    assert kinds(folder, delete_orphans=True) == {"damaged": ["b", "c"], "deleted": ["structures/a/heart.nii.gz"]}
    assert todo(tmp_path / "scans", folder) == ["b", "c"]
    assert storage.names(f"{folder}/structures") == ["a", "d"]
    assert set(storage.names(f"{folder}/structures/a")) == set(structure_files(LABELS).values())


def test_names_are_hidden_of_folders_too(folder: Path) -> None:
    shutil.copytree(folder / "structures" / "a", folder / "structures" / "Miller_Anna.1961")
    shutil.copy(folder / "structures" / "a" / "liver.nii.gz", folder / "structures" / "a" / "Meyer_Eva.nii.gz")
    try:
        config = privacy.with_privacy(Config(privacy=PrivacyConfig(hash_ids=True)), str(folder))
        summary = verify(str(folder), str(folder.parent / "scans"), config)
        said = [privacy.hide(note) for note in summary.notes]
    finally:
        privacy.forget()
    assert len(said) == 1
    assert not any(name in said[0] for name in ("Miller", "Anna", "Meyer", "Eva"))
    assert json.dumps(said).count("structures/") == 2
