"""The doctor on an archive of DICOM series with one fault each, and on pictures, on an embedded Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segray
from segray.pipelines.ingest import ingest
from tests.doctor.made_series import SHAPE, body, organ, outline
from tests.formats.made_dicoms import save_rtstruct, save_seg, save_series

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]


def series(folder: Path, number: int, *, kind: str = "CT", count: int = SHAPE[0], overview: bool = False) -> list[Path]:
    """A series in a folder of its own, of its own patient and frame of reference."""

    def change(_: int, made: Any) -> None:
        made.PatientID = f"P{number}"
        made.Modality = kind
        if overview:
            made.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    rough = np.random.default_rng(number).integers(-200, 200, (3, 4, 5)).astype(np.int16)
    stored = (body() + np.kron(rough, np.ones((2, 5, 6), np.int16)) * (body() > 0))[:count]
    return save_series(folder, stored, series=f"1.2.{number}.5", frame=f"1.2.{number}.6", change=change)


def uids(number: int) -> dict[str, str]:
    """Those of :func:`series`, for its labels."""
    return {"series": f"1.2.{number}.5", "frame": f"1.2.{number}.6"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A right series, one with each fault, and what lies beside series in an archive."""
    folder = tmp_path_factory.mktemp("archive")
    for number, name in enumerate(("right", "twice", "short", "outside"), start=1):
        paths = series(folder / name, number)
        if name == "twice":
            (folder / name / "again").write_bytes(paths[0].read_bytes())
        if name == "short":
            paths[2].unlink()
        if name != "outside":
            save_seg(folder / name / "seg", {"organ": organ()}, **uids(number))
    contours = {"organ": [outline(place) for place in (1, 2, 3, 4, 7)]}
    save_rtstruct(folder / "outside" / "structures", contours, **uids(4))
    series(folder / "scout", 5, count=1, overview=True)
    series(folder / "single", 6, count=1)
    series(folder / "pet", 7, kind="PT")
    save_seg(folder / "pet" / "seg", {"organ": organ()}, **uids(7))
    (folder / "README").write_text("An archive.", encoding="utf-8")
    return folder


def test_each_fault_of_an_archive_is_graded_and_has_its_mend(archive: Path, tmp_path: Path) -> None:
    diagnosis = segray.doctor(str(archive), out=str(tmp_path / "out"), sheet=2)
    found = {(one.code, one.grade, one.case) for one in diagnosis.findings}
    assert found == {
        ("unreadable", "error", "short"),
        ("labels-lost", "error", "outside"),
        ("left-out", "error", str(archive / "pet" / "seg")),
        ("slices", "warning", "twice"),
        ("overviews", "warning", ""),
        ("single-slices", "warning", ""),
        ("other-modalities", "warning", ""),
        ("files-not-read", "note", ""),
    }
    assert all(one.mend for one in diagnosis.findings if one.grade != "note")
    assert any("lacks 1 slices" in one.sentence for one in diagnosis.findings)
    assert not any("left out" in note for note in diagnosis.notes)
    assert diagnosis.exit_code == 1
    assert {report.case_id: report.meaning for report in diagnosis.readable} == dict.fromkeys(
        ("outside", "right", "twice"), "HU"
    )
    (row,) = diagnosis.structures
    assert (row.name, row.cases, row.empty) == ("organ", 3, 0)


def test_what_it_says_of_an_archive_is_what_ingest_does(archive: Path, tmp_path: Path) -> None:
    plan = segray.doctor(str(archive)).plan
    summary = ingest(str(archive), str(tmp_path / "shards"))
    assert (summary.cases, summary.slices, summary.split) == (plan.cases, plan.slices, plan.split)
    assert sorted(case_id for case_id, _ in summary.failed) == [str(archive / "pet" / "seg"), "short"]


def test_series_left_out_beside_a_ct_lose_nothing(tmp_path: Path) -> None:
    series(tmp_path / "right", 1)
    save_seg(tmp_path / "right" / "seg", {"organ": organ()}, **uids(1))
    series(tmp_path / "scout", 2, count=1, overview=True)
    diagnosis = segray.doctor(str(tmp_path))
    assert [(one.code, one.grade) for one in diagnosis.findings] == [("overviews", "warning")]
    assert diagnosis.exit_code == 0


def test_files_that_are_no_pictures_are_a_warning(tmp_path: Path) -> None:
    for seed in range(3):
        values = np.random.default_rng(seed).integers(0, 256, (32, 32)).astype(np.uint8)
        for name, pixels in (("frames", values), ("masks", np.uint8(255) * (values > 99))):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"p{seed}.png")
    (tmp_path / "frames" / "p3.webp").write_bytes(b"RIFF")
    diagnosis = segray.doctor(str(tmp_path))
    graded = [(one.code, one.grade) for one in diagnosis.findings if one.grade != "note"]
    assert graded == [("files-left-out", "warning")]
    assert diagnosis.exit_code == 0
    assert {report.kind for report in diagnosis.readable} == {"picture"}
