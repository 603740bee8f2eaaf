"""What a table may name beside volumes: DICOM series, DICOM SEG, RTSTRUCT, pictures; on a disk and on s3://."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingested import rows_of
from made_dicoms import ramp, save_enhanced, save_seg, save_series
from made_niftis import Save
from PIL import Image

from segray import formats, storage
from segray.case import LabelMap
from segray.config import IngestConfig, parse_config
from segray.errors import StoreError, UsageError
from segray.formats import table_files
from segray.formats.source import Discovery

VOLUME = ramp()
LIVER = VOLUME % 5 == 0
CYST = VOLUME % 10 == 5
SEEN = np.random.default_rng(3).integers(0, 256, (20, 30), dtype=np.uint8)
LESION = np.zeros((20, 30), np.uint8)
LESION[8:12, 10:28] = 1


def read(folder: Path, text: str, *, labelled: bool = True, **settings: Any) -> Discovery:
    (folder / "cases.csv").write_text(text, encoding="utf-8")
    config: IngestConfig = parse_config({"ingest": settings}).ingest
    return formats.discover(str(folder / "cases.csv"), config, labelled=labelled)


def labels_of(discovery: Discovery, number: int = 0, **more: Any) -> Any:
    return formats.read_case(discovery.cases[number], discovery.label_map, **more).labels


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Two series, each with its structures beside; of the second the liver alone."""
    save_series(tmp_path / "one", VOLUME)
    save_series(tmp_path / "two", VOLUME, series="1.7", frame="1.8")
    save_seg(tmp_path / "one.seg", {"liver": LIVER, "cyst": CYST})
    save_seg(tmp_path / "two" / "seg", {"liver": LIVER}, series="1.7", frame="1.8")
    return tmp_path


ROWS = "case_id,image,label,split\na,one/,one.seg,train\nb,two,two/seg,test\n"


def test_a_table_names_dicom_series_and_segmentations(series: Path) -> None:
    discovery = read(series, ROWS)
    assert discovery.problems == []
    assert discovery.label_map == LabelMap({"cyst": 1, "liver": 2})
    assert [(case.kind, case.label_kind, case.split) for case in discovery.cases] == [
        ("dicom", "dicom", "train"),
        ("dicom", "dicom", "test"),
    ]
    assert [sorted(case.masks) for case in discovery.cases] == [["cyst", "liver"], ["liver"]]
    case = discovery.cases[0]
    assert case == formats.CaseSource.from_json(case.to_json())
    assert formats.read_header(case).size == VOLUME.shape
    assert np.array_equal(formats.read_image(case).voxels, VOLUME - 1000)
    assert np.array_equal(labels_of(discovery), np.where(CYST, 1, np.where(LIVER, 2, 0)))
    assert np.array_equal(labels_of(discovery, 1), np.where(LIVER, 2, 0))


def test_structures_of_a_table_are_kept_or_numbered_as_the_settings_say(series: Path) -> None:
    named = read(series, ROWS, labels={"liver": 7, "cyst": 3})
    assert np.unique(labels_of(named)).tolist() == [0, 3, 7]
    one = read(series, ROWS, structures=["cyst"])
    assert [case.has_labels for case in one.cases] == [True, False]
    assert one.problems == [("b", "The case has no mask of the structures that are kept.")]
    by_number = read(series, ROWS, labels={"organ": 1, "hole": 2})
    assert by_number.label_map == LabelMap({"organ": 1, "hole": 2})
    assert np.array_equal(labels_of(by_number), np.where(CYST, 2, np.where(LIVER, 1, 0)))
    without = read(series, ROWS, labelled=False)
    assert len(without.cases) == 2


def test_a_column_a_structure_may_name_dicom_too(series: Path) -> None:
    discovery = read(series, "case_id,image,mask_liver,mask_cyst\na,one,one.seg,one.seg\nb,two,two/seg,\n")
    assert discovery.label_map == LabelMap({"cyst": 1, "liver": 2})
    assert np.unique(labels_of(discovery)).tolist() == [0, 1, 2]
    assert discovery.cases[1].missing(discovery.label_map.names) == ["cyst"]


def test_a_series_may_have_a_label_volume_and_one_file(series: Path, save: Save) -> None:
    save_enhanced(series / "enhanced", VOLUME, range(len(VOLUME)))
    geometry = formats.read_header(read(series, ROWS).cases[0]).geometry
    formats.write_mask(str(series / "la.nii.gz"), np.uint8(LIVER), geometry)
    discovery = read(series, "case_id,image,label\na,one,la.nii.gz\nb,enhanced,\n")
    assert [(case.kind, case.label_kind) for case in discovery.cases] == [("dicom", "nifti"), ("dicom", "dicom")]
    assert np.array_equal(labels_of(discovery), LIVER)
    assert formats.read_image(discovery.cases[1]).voxels.shape == VOLUME.shape


def test_rows_without_one_series_are_problems(series: Path) -> None:
    (series / "empty").mkdir()
    (series / "bad.dcm").write_bytes(b"text")
    save_series(series / "cut", VOLUME)
    next((series / "cut").iterdir()).write_bytes(b"\0" * 128 + b"DICM\2\0")
    (series / "both").mkdir()
    for name in ("one", "two"):
        shutil.copytree(series / name, series / "both" / name)
    rows = (
        "both,both,\nnone,empty,\nbad,bad.dcm,\nother,one,one/IM000\nfolder,one,two\ngone,three,\n"
        "chosen,two,two/seg\ncut,cut,\n"
    )
    problems = dict(read(series, "case_id,image,label\n" + rows).problems)
    assert "both' holds 2 DICOM series with pixels, not one" in problems["both"]
    assert "empty' holds 0 DICOM series" in problems["none"]
    assert "is no DICOM file" in problems["bad"]
    assert "neither DICOM SEG nor RTSTRUCT" in problems["other"]
    assert "two' is a folder, not a file" in problems["folder"]
    assert "three' is not there" in problems["gone"]
    assert "1 files of" in problems["cut"]
    assert "chosen" not in problems


def test_a_row_does_not_lead_over_the_whole_disk(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_files, "MOST_FILES", len(VOLUME))
    os.mkfifo(series / "pipe")
    found = read(series, "case_id,image\na,one\nall,.\npipe,pipe\n", labelled=False)
    assert [case.case_id for case in found.cases] == ["a"]
    problems = dict(found.problems)
    assert "holds more than 6 files" in problems["all"]
    assert "pipe' is not there" in problems["pipe"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for end in ("png", "jpg", "tif", "bmp"):
        Image.fromarray(SEEN).save(tmp_path / f"p.{end}")
    Image.fromarray(255 * LESION).save(tmp_path / "white.png")
    Image.fromarray(2 * LESION).save(tmp_path / "levels.png")
    Image.fromarray(np.stack([255 * LESION, 0 * LESION, 0 * LESION], axis=-1)).save(tmp_path / "red.bmp")
    return tmp_path


PICTURES = "case_id,image,label\na,p.png,white.png\nb,p.jpg,white.png\nc,p.tif,white.png\nd,p.bmp,\n"


def test_a_table_names_pictures_and_masks(pictures: Path) -> None:
    discovery = read(pictures, PICTURES)
    assert discovery.label_map == LabelMap({"mask": 1})
    assert {(case.kind, case.label_kind) for case in discovery.cases} == {("picture", "picture")}
    assert discovery.problems == [("d", "The image has no labels.")]
    for number in range(3):
        assert formats.read_image(discovery.cases[number]).voxels.shape == (1, 20, 30)
        assert np.array_equal(labels_of(discovery, number)[0], LESION)
    assert read(pictures, PICTURES, labels={"lesion": 1}).label_map == LabelMap({"lesion": 1})
    assert list(read(pictures, PICTURES, labels={"lesion": 1}).cases[0].masks) == ["lesion"]


def test_masks_of_pictures_mean_what_the_settings_say(pictures: Path) -> None:
    levels = read(pictures, "case_id,image,label\na,p.png,levels.png\n", labels={"lung": 1, "lesion": 2})
    assert np.array_equal(labels_of(levels)[0], 2 * LESION)
    rows = "case_id,image,label\na,p.png,red.bmp\n"
    coloured = read(pictures, rows, mask_colours={"lung": "#00ff00", "lesion": "#ff0000"})
    assert np.array_equal(labels_of(coloured)[0], 2 * LESION)
    columns = read(pictures, "case_id,image,mask_lung,mask_lesion\na,p.png,,white.png\n")
    assert np.array_equal(labels_of(columns)[0], 1 * LESION)
    assert columns.label_map == LabelMap({"lesion": 1, "lung": 2})


def test_what_a_table_names_becomes_shards(series: Path, pictures: Path, tmp_path: Path) -> None:
    read(series, ROWS)
    assert rows_of(series / "cases.csv", tmp_path / "shards") == {"a": "", "b": ""}
    read(pictures, PICTURES)
    assert rows_of(pictures / "cases.csv", tmp_path / "others") == {
        "a": "",
        "b": "",
        "c": "",
        "d": "The image has no labels.",
    }


def test_labels_of_several_kinds_need_names_in_common(pictures: Path, save: Save) -> None:
    save(pictures / "v.nii.gz", VOLUME)
    save(pictures / "l.nii.gz", np.uint8(LIVER))
    rows = "case_id,image,label\na,p.png,white.png\nb,v.nii.gz,l.nii.gz\n"
    with pytest.raises(UsageError, match=r"labels of several kinds \(picture, volume\)"):
        read(pictures, rows)
    both = read(pictures, rows, labels={"lesion": 1})
    assert [np.count_nonzero(labels_of(both, number)) for number in (0, 1)] == [LESION.sum(), LIVER.sum()]
    found = read(pictures, "case_id,image,mask_x,mask_y\na,p.png,white.png,l.nii.gz\nb,p.png,white.png,\n")
    assert "The masks are of several kinds (nifti, picture)." in dict(found.problems)["a"]


def test_channels_of_their_own_files_are_volumes(pictures: Path, save: Save) -> None:
    save(pictures / "v.nii.gz", VOLUME)
    found = read(pictures, "case_id,image_1,image_2\na,p.png,p.bmp\nb,v.nii.gz,v.nii.gz\n", labelled=False)
    assert [case.case_id for case in found.cases] == ["b"]
    assert "Only volumes may have a file a channel" in dict(found.problems)["a"]


def test_a_store_that_fails_is_not_asked_for_every_row(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def gone(folder: str) -> Any:
        asked.append(folder)
        raise StoreError(f"{folder} cannot be read (gone).")

    monkeypatch.setattr(table_files, "listing", gone)
    rows = "".join(f"r{number},s3://name:secret@bucket/{number}/p.png\n" for number in range(9))
    found = read(pictures, f"case_id,image\n{rows}x,p.png\n", labelled=False)
    assert [case.case_id for case in found.cases] == ["x"]
    assert len(found.problems) == 9
    assert len(asked) == table_files.TRIES
    assert not any("secret" in reason for _, reason in found.problems)


def test_bad_cells_are_rows_and_the_rest_of_a_table_on_s3_is_used(s3: str, series: Path, save: Save) -> None:
    data = Path(save(series / "v.nii.gz", VOLUME)).read_bytes()
    for key in ("v.nii.gz", "with space.nii.gz", "100%.nii.gz"):
        storage.write_bytes(f"{s3}/scans/{key}", data)
    for slice_file in (series / "one").iterdir():
        storage.write_bytes(f"{s3}/scans/one/{slice_file.name}", slice_file.read_bytes())
    storage.write_bytes(f"{s3}/scans/one.seg", (series / "one.seg").read_bytes())
    rows = {
        "near": "v.nii.gz",
        "space": "with space.nii.gz",
        "sign": f"{s3}/scans/100%.nii.gz",
        "dicom": "one",
        "gone": "none.nii.gz",
        "scheme": "foo://bucket/x.nii.gz",
        "host": "s3://a b/x.nii.gz",
        "bucket": f"{s3}-none/x.nii.gz",
    }
    table = "case_id,image,label\n" + "".join(f"{case},{path},\n" for case, path in rows.items())
    storage.write_text(f"{s3}/scans/cases.csv", table.replace("dicom,one,", "dicom,one,one.seg"))
    found = formats.discover(f"{s3}/scans/cases.csv", IngestConfig())
    assert [case.case_id for case in found.cases] == ["dicom", "near", "sign", "space"]
    for case in found.cases:
        assert formats.read_image(case).voxels.size == VOLUME.size
    assert np.unique(labels_of(found)).tolist() == [0, 1, 2]
    problems = dict(found.problems)
    assert "is not there" in problems["gone"]
    assert "is not there" in problems["bucket"]
    assert "foo://bucket cannot be opened" in problems["scheme"]
    assert "s3://a b cannot be opened" in problems["host"]
