"""Which series of a folder are cases, and what is said about the other files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_dicoms import ramp, save_rtstruct, save_seg, save_series
from pydicom.dataset import FileDataset

from segray import formats
from segray.config import IngestConfig
from segray.errors import UsageError


def discovered(folder: Path) -> Any:
    return formats.discover(str(folder), IngestConfig(), labelled=False)


def _set(**values: Any) -> Any:
    def change(number: int, made: FileDataset) -> None:
        for name, value in values.items():
            setattr(made, name, value)

    return change


def test_series_at_any_depth_are_cases_of_their_folders(tmp_path: Path) -> None:
    save_series(tmp_path / "p1" / "ct", ramp(), series="1.1")
    save_series(tmp_path / "p2" / "deep" / "er", ramp(), series="1.2")
    discovery = discovered(tmp_path)
    assert discovery.format == "dicom"
    assert [case.case_id for case in discovery.cases] == ["p1_ct", "p2_deep_er"]
    assert discovery.notes[0] == "DICOM series: 2 cases of 12 files."
    assert "Every DICOM series of two or more slices is a case" in discovery.notes[1]
    assert discovery.cases[0].image == str(tmp_path / "p1" / "ct")
    assert discovery.cases[0].details["series"] == "1.1"
    assert discovery.cases[0].patient == "P1"


def test_several_series_in_one_folder_are_cases_by_number(tmp_path: Path) -> None:
    for number, series in ((2, "1.1"), (7, "1.2")):
        names = lambda slice_number, series=series: f"{slice_number}-{series}"  # noqa: E731
        save_series(tmp_path / "p", ramp(), series=series, names=names, change=_set(SeriesNumber=number))
    cases = discovered(tmp_path).cases
    assert [case.case_id for case in cases] == ["p_2", "p_7"]
    assert all(len(case.parts) == 6 for case in cases)


def test_equal_numbers_are_told_apart_by_the_series(tmp_path: Path) -> None:
    for series in ("1.1", "1.2"):
        save_series(tmp_path / "p", ramp(), series=series, names=lambda number, series=series: f"{number}-{series}")
    ids = [case.case_id for case in discovered(tmp_path).cases]
    assert len(set(ids)) == 2
    assert all(case_id.startswith("p_3_") for case_id in ids)


def test_slices_in_folders_of_their_own_are_one_series(tmp_path: Path) -> None:
    for number, path in enumerate(save_series(tmp_path / "p" / "s", ramp())):
        path.parent.joinpath(str(number)).mkdir()
        path.rename(path.parent / str(number) / "IM0")
    (case,) = discovered(tmp_path).cases
    assert (case.case_id, len(case.parts)) == ("p_s", 6)


def test_a_folder_of_long_numbers_is_named_after_the_patient(tmp_path: Path) -> None:
    save_series(tmp_path / ("1." * 30 + "1") / ("2." * 30 + "2"), ramp())
    (case,) = discovered(tmp_path).cases
    assert case.case_id.startswith("P1_")
    assert len(case.case_id) == 11


def test_patients_are_told_apart_in_any_script(tmp_path: Path) -> None:
    ids = {"a": "王小明", "b": "陈伟", "c": "Müller", "d": "Möller", "e": "DOE^J 1"}
    for number, (folder, patient) in enumerate(ids.items()):
        change = _set(PatientID=patient, SpecificCharacterSet="ISO_IR 192")
        save_series(tmp_path / folder, ramp(), series=f"1.{number}", change=change)
    found = formats.discover(str(tmp_path), IngestConfig())
    assert [case.patient for case in found.cases] == ["王小明", "陈伟", "Müller", "Möller", "DOE_J_1"]


def test_overviews_and_single_slices_are_left_out_and_said(tmp_path: Path) -> None:
    save_series(tmp_path / "a", ramp(), series="1.1")
    save_series(tmp_path / "b", ramp(2), series="1.2", change=_set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    save_series(tmp_path / "c", ramp(1), series="1.3")
    discovery = discovered(tmp_path)
    assert [case.case_id for case in discovery.cases] == ["a"]
    assert "2 overview images (localizers, scouts) are left out." in discovery.notes
    assert any(note.startswith("1 series of a single slice are left out") for note in discovery.notes)


def test_an_overview_among_the_slices_is_left_out(tmp_path: Path) -> None:
    def scout(number: int, made: FileDataset) -> None:
        if number == 5:
            made.ImageType, made.ImageOrientationPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [1, 0, 0, 0, 0, -1]

    save_series(tmp_path, ramp(), change=scout)
    assert formats.read_header(discovered(tmp_path).cases[0]).size == (5, 10, 8)


def test_other_modalities_beside_ct_are_left_out_and_said(tmp_path: Path) -> None:
    save_series(tmp_path / "a", ramp(), series="1.1")
    save_series(tmp_path / "b", ramp(), series="1.2", change=_set(Modality="PT"))
    discovery = discovered(tmp_path)
    assert [case.case_id for case in discovery.cases] == ["a"]
    assert "Series that are no CT are left out, because there are CTs: 1 PT." in discovery.notes


def test_images_without_series_are_one_series_a_folder(tmp_path: Path) -> None:
    save_series(tmp_path / "a", ramp(), series="")
    save_series(tmp_path / "b", ramp(), series="")
    discovery = discovered(tmp_path)
    assert [case.case_id for case in discovery.cases] == ["a", "b"]
    assert formats.read_image(discovery.cases[0]).voxels.shape == (6, 10, 8)
    assert any("name no series" in note for note in discovery.notes)


def test_files_that_are_no_dicom_are_counted_or_told(tmp_path: Path) -> None:
    paths = save_series(tmp_path, ramp())
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "scan.nii.gz").write_bytes(b"x" * 200)
    (tmp_path / "no.dcm").write_text("hello")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "cut.dcm").write_bytes(paths[0].read_bytes()[:300])
    discovery = discovered(tmp_path)
    assert any(note.startswith("2 files are no DICOM and are not read: 1 .gz, 1 .txt") for note in discovery.notes)
    reasons = {Path(where).name: reason for where, reason in discovery.problems}
    assert set(reasons) == {"no.dcm", "empty.dcm", "cut.dcm"}
    assert "no DICOM file, although its name says so" in reasons["no.dcm"]
    assert "cut" in reasons["cut.dcm"]
    assert len(discovery.cases) == 1


def test_a_header_without_image_is_a_problem(tmp_path: Path) -> None:
    def bare(number: int, made: FileDataset) -> None:
        if number == 3:
            del made.Rows, made.Columns, made.PixelData

    paths = save_series(tmp_path, ramp(), change=bare)
    assert (str(paths[3]), "The DICOM file holds no pixels.") in discovered(tmp_path).problems


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    for path in save_series(tmp_path / "a", ramp(), names=lambda number: f"{number}.dcm"):
        # Old files: the data set alone, without the 132 bytes and the group of transfer syntax.
        data = path.read_bytes()
        path.write_bytes(data[data.index(b"\x08\x00\x08\x00CS") :])
    (case,) = discovered(tmp_path).cases
    assert (formats.read_image(case).voxels == ramp() - 1000).all()


def test_labels_of_several_files_and_cases_share_one_map(tmp_path: Path) -> None:
    shape = (6, 10, 9)
    mask = ramp(*shape) > 200
    save_series(tmp_path / "a", ramp(*shape), series="1.1", frame="1.11")
    save_series(tmp_path / "b", ramp(*shape), series="1.2", frame="1.12")
    save_series(tmp_path / "c", ramp(*shape), series="1.3", frame="1.13")
    save_seg(tmp_path / "seg_a", {"liver": mask}, series="1.1", frame="1.11")
    save_seg(tmp_path / "seg_a2", {"spleen": mask}, series="1.1", frame="1.11")
    save_seg(tmp_path / "seg_a3", {"spleen": mask}, series="1.1", frame="1.11")
    points = [[-18, -25, -97.5], [-15, -25, -97.5], [-15, -20, -97.5]]
    save_rtstruct(tmp_path / "rs_b", {"aorta": [("CLOSED_PLANAR", points)]}, series="1.2", frame="1.12")
    discovery = formats.discover(str(tmp_path), IngestConfig())
    assert discovery.label_map is not None
    assert discovery.label_map.values == {"aorta": 1, "liver": 2, "spleen": 3}
    a, b, _ = discovery.cases
    assert sorted(a.masks) == ["liver", "spleen"]
    assert sorted(b.masks) == ["aorta"]
    told = dict(discovery.problems)
    assert told["c"] == "The image has no labels."
    assert told[str(tmp_path / "seg_a3")] == "spleen has two masks; this one is left out."
    kept = formats.discover(str(tmp_path), IngestConfig(labels={"liver": 9}))
    assert kept.label_map is not None
    assert kept.label_map.values == {"liver": 9}
    assert dict(kept.problems)["b"] == "The case has no mask of the structures that are kept."
    assert formats.CaseSource.from_json(a.to_json()) == a


def test_a_folder_without_series_says_so(tmp_path: Path) -> None:
    save_series(tmp_path, ramp(1))
    with pytest.raises(UsageError, match="holds no cases in the layout dicom"):
        discovered(tmp_path)


def test_discovery_of_other_folders_imports_no_dicom_module(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    code = (
        "import sys; from segray import formats; from segray.config import IngestConfig;"
        f"formats.discover({str(tmp_path)!r}, IngestConfig(), labelled=False);"
        "print([name for name in ('segray.formats.dicom_file', 'highdicom') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"
