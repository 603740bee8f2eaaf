"""A table of cases overrules what a folder looks like; what is wrong with it is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_niftis import Save

from segray import formats
from segray.config import IngestConfig
from segray.errors import UsageError
from segray.formats.source import Discovery

SCAN = np.zeros((2, 3, 4), np.int16)
FILES = ("a.nii.gz", "b.nii", "scans/c.nrrd", "la.nii.gz", "lb.nrrd", "m1.nii.gz", "m2.mha")


@pytest.fixture
def folder(tmp_path: Path, save: Save) -> Path:
    import SimpleITK

    plain = SimpleITK.GetImageFromArray(SCAN)
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if ".nii" in name:
            save(tmp_path / name, SCAN)
        else:
            SimpleITK.WriteImage(plain, str(tmp_path / name))
    return tmp_path


def read(folder: Path, text: str, *, name: str = "cases.csv", labelled: bool = True, **settings: Any) -> Discovery:
    (folder / name).write_text(text)
    return formats.discover(str(folder / name), IngestConfig(**settings), labelled=labelled)


GOOD = """case_id,image,label,patient,split,scanner
p1,a.nii.gz,la.nii.gz,anna,train,GE
p2,b.nii,lb.nrrd,anna,train,GE
p3,scans/c.nrrd,,bert,val,GE
"""


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_a_table_names_files_patients_and_splits(folder: Path, sign: str) -> None:
    discovery = read(folder, GOOD.replace(",", sign), labels={"liver": 1})
    assert discovery.format == "table"
    first, second, third = discovery.cases
    assert (first.image, first.labels) == (str(folder / "a.nii.gz"), str(folder / "la.nii.gz"))
    assert [case.kind for case in discovery.cases] == ["nifti", "nifti", "volume"]
    assert [case.label_kind for case in discovery.cases] == ["nifti", "volume", "volume"]
    assert [case.patient for case in discovery.cases] == ["anna", "anna", "bert"]
    assert [case.split for case in discovery.cases] == ["train", "train", "validation"]
    assert second.labels == str(folder / "lb.nrrd")
    assert third.labels is None
    assert discovery.problems == [("p3", "The image has no labels.")]
    assert any("scanner" in note for note in discovery.notes)
    for case in discovery.cases:
        assert formats.read_image(case).voxels.shape == formats.read_header(case).size


def test_parquet_says_the_same(folder: Path) -> None:
    columns = {
        "case_id": [7, 8],
        "image": ["a.nii.gz", "b.nii"],
        "labels": ["la.nii.gz", None],
        "split": ["test", None],
    }
    pq.write_table(pa.table(columns), folder / "cases.parquet")
    discovery = formats.discover(str(folder / "cases.parquet"), IngestConfig(format="table"))
    assert [(case.case_id, case.split) for case in discovery.cases] == [("7", "test"), ("8", "")]
    assert discovery.cases[0].labels == str(folder / "la.nii.gz")


def test_masks_are_structures(folder: Path) -> None:
    text = "case_id,image,mask_liver,mask_left kidney\nx,a.nii.gz,m1.nii.gz,m2.mha\ny,b.nii,m1.nii.gz,\n"
    discovery = read(folder, text)
    assert discovery.label_map is not None
    assert dict(discovery.label_map.values) == {"left kidney": 1, "liver": 2}
    assert discovery.cases[0].masks == {"liver": str(folder / "m1.nii.gz"), "left kidney": str(folder / "m2.mha")}
    assert [case.label_kind for case in discovery.cases] == ["volume", "nifti"]
    assert list(read(folder, text, structures=["liver"]).cases[0].masks) == ["liver"]


def test_image_columns_are_channels(folder: Path) -> None:
    text = "case_id,image_T1,image_FLAIR\nx,a.nii.gz,b.nii\ny,a.nii.gz,\n"
    discovery = read(folder, text, labelled=False)
    (case,) = discovery.cases
    assert (case.image, case.parts) == (str(folder / "a.nii.gz"), (str(folder / "b.nii"),))
    assert formats.read_image(case).channels == ("T1", "FLAIR")
    assert discovery.problems == [("y", "The row has no image_FLAIR.")]


def test_paths_may_be_absolute(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("table")
    (elsewhere / "t.csv").write_text(f"case_id,image\nx,{folder}/a.nii.gz\ny,../{folder.name}/b.nii\n")
    discovery = formats.discover(str(elsewhere / "t.csv"), IngestConfig(), labelled=False)
    assert next(case.case_id for case in discovery.cases) == "x"
    assert discovery.cases[0].image == str(folder / "a.nii.gz")


def test_names_of_label_values_come_from_dataset_json_beside_the_table(folder: Path) -> None:
    (folder / "dataset.json").write_text('{"labels": {"background": 0, "liver": 4}}')
    discovery = read(folder, GOOD)
    assert discovery.label_map is not None
    assert dict(discovery.label_map.values) == {"liver": 4}


def test_rows_that_cannot_be_used_are_problems(folder: Path) -> None:
    text = (
        "case_id,image,label\nx,a.nii.gz,la.nii.gz\nx,b.nii,la.nii.gz\n,b.nii,\ngone,none.nii.gz,la.nii.gz\n"
        "empty,,la.nii.gz\nnolabel,b.nii,none.nii.gz\ntext,cases.csv,la.nii.gz\n../up,b.nii,la.nii.gz\n"
    )
    discovery = read(folder, text)
    assert [case.case_id for case in discovery.cases] == ["x"]
    problems = dict(discovery.problems)
    assert "same case id" in problems["x"]
    assert problems["row 3"] == "The row has no case_id."
    assert "none.nii.gz' is not there" in problems["gone"]
    assert problems["empty"] == "The row has no image."
    assert "none.nii.gz' is not there" in problems["nolabel"]
    assert "no image that segray reads" in problems["text"]
    assert "cannot be a file name" in problems["../up"]
    assert len(problems) == 7


BAD = {
    "no id": ("image,label\na.nii.gz,\n", "lacks the column case_id"),
    "no image": ("case_id,label\nx,a.nii.gz\n", "lacks the column image"),
    "nothing": ("path\nx\n", "lacks the column case_id and the column image"),
    "no rows": ("case_id,image\n", "has no rows"),
    "empty": ("", "has no rows"),
    "twice": ("case_id,image,image\nx,a.nii.gz,b.nii\n", "column 'image' twice"),
    "both images": ("case_id,image,image_T1\nx,a.nii.gz,b.nii\n", "a column image and columns image_"),
    "both labels": ("case_id,image,label,mask_liver\nx,a.nii.gz,,\n", "more than one of label"),
    "split": ("case_id,image,split\nx,a.nii.gz,exam\n", "the split 'exam'"),
    "patient": (
        "case_id,image,patient,split\nx,a.nii.gz,anna,train\ny,b.nii,anna,test\n",
        "puts the patient 'anna' into two splits",
    ),
    "cells": ("case_id,image\nx,a.nii.gz,3\n", "3 cells in row 2, but 2 columns"),
    "quote": ('case_id,image\n"x,a.nii.gz\n', "no CSV file that segray understands"),
    "name": ("case_id,image,mask_../x\nx,a.nii.gz,\n", "cannot be a name"),
    "zero": ("case_id,image\nx\0,a.nii.gz\n", "zero bytes"),
    "long": ("case_id,image\nx," + "a" * 5000 + "\n", "a cell of 5,000 characters in row 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_table_that_is_wrong_is_one_sentence(folder: Path, name: str) -> None:
    text, words = BAD[name]
    with pytest.raises(UsageError, match=words) as caught:
        read(folder, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_told(folder: Path, encoding: str) -> None:
    (folder / "cases.csv").write_bytes("case_id,image\nMüller,a.nii.gz\n".encode(encoding))
    with pytest.raises(UsageError, match="no text in UTF-8"):
        formats.discover(str(folder / "cases.csv"), IngestConfig())


def test_the_mark_of_utf8_is_no_part_of_the_first_column(folder: Path) -> None:
    (folder / "cases.csv").write_bytes(GOOD.encode("utf-8-sig"))
    assert len(formats.discover(str(folder / "cases.csv"), IngestConfig(labels={"liver": 1})).cases) == 3


@pytest.mark.parametrize("name", ["cases.csv", "cases.parquet"])
def test_bytes_that_are_no_table_are_told(folder: Path, name: str) -> None:
    for data in (b"", b"PAR1" * 9, bytes(range(256)) * 4):
        (folder / name).write_bytes(data)
        with pytest.raises(UsageError, match=name):
            formats.discover(str(folder / name), IngestConfig())


@pytest.mark.parametrize("kind", [pa.binary(), pa.list_(pa.string()), pa.uuid(), pa.float64()])
def test_columns_of_other_types_are_refused(folder: Path, kind: Any) -> None:
    values: Any = pa.nulls(1, kind)
    pq.write_table(pa.table({"case_id": ["x"], "image": ["a.nii.gz"], "more": values}), folder / "cases.parquet")
    with pytest.raises(UsageError, match="column 'more' of the type"):
        formats.discover(str(folder / "cases.parquet"), IngestConfig())


def test_a_remote_table_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.fs as pafs

    from segray import storage

    local = pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem())
    monkeypatch.setattr(
        storage, "filesystem", lambda uri: (local, uri.removeprefix("s3://bucket").lstrip("/")), raising=True
    )
    (folder / "cases.csv").write_text(GOOD + "p4,none.nii,,,,\n")
    discovery = formats.discover("s3://bucket/cases.csv", IngestConfig(labels={"liver": 1}))
    assert next(case.image for case in discovery.cases) == "s3://bucket/a.nii.gz"
    assert "is not there" in dict(discovery.problems)["p4"]
    for case in discovery.cases:
        assert formats.read_image(case).voxels.size == SCAN.size


def test_a_folder_named_as_a_table_is_a_folder(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "x.csv" / "a.nii.gz", SCAN)
    assert formats.discover(str(tmp_path / "x.csv"), IngestConfig()).format == "images"
    with pytest.raises(UsageError, match="is no table"):
        formats.discover(str(tmp_path / "x.csv"), IngestConfig(format="table"))
