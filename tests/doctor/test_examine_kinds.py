"""The facts of cases that are no NIfTI: DICOM series with SEG and RTSTRUCT, and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segray import formats
from segray.config import IngestConfig
from segray.doctor.case_findings import findings_of
from segray.doctor.examine import CaseReport, examine
from segray.errors import CaseError
from segray.formats.note import kind_of
from segray.grid import Grid
from tests.doctor.made_series import SHAPE, body, organ, outline
from tests.formats.made_dicoms import SPACING, save_rtstruct, save_seg, save_series

Codes = set[tuple[str, str]]


def examined(folder: Path, **ingest: Any) -> CaseReport:
    """The report of the one case of a folder, after the way through JSON that it takes from a task."""
    config = IngestConfig(**ingest)
    found = formats.discover(str(folder), config)
    (source,) = found.cases
    grid = Grid("native", SHAPE[1:], None, -1024.0)
    report = examine(source, found.label_map, grid, config)
    return CaseReport.from_dict(json.loads(json.dumps(report.to_dict())))


def codes(report: CaseReport) -> Codes:
    return {(one.code, one.grade) for one in findings_of(report)}


def test_a_series_with_its_seg_has_facts_and_no_findings(tmp_path: Path) -> None:
    save_series(tmp_path, body())
    save_seg(tmp_path / "seg.dcm", {"organ": organ()})
    report = examined(tmp_path)
    assert codes(report) == set()
    assert (report.kind, report.shape, report.orientation) == ("dicom", SHAPE, "LPS")
    assert report.spacing == pytest.approx((2.5, *SPACING))
    assert report.meaning == "HU"
    assert report.labels is not None
    assert report.labels.voxels == {"organ": 4 * 6 * 8}
    assert report.cost.shard_bytes > 0


def test_slices_twice_are_a_warning(tmp_path: Path) -> None:
    save_series(tmp_path, body())
    save_series(tmp_path, body()[:1], names=lambda number: "again")
    save_seg(tmp_path / "seg.dcm", {"organ": organ()})
    report = examined(tmp_path)
    assert codes(report) == {("slices", "warning")}
    assert [kind_of(note) for note in report.notes] == ["twice"]


def test_a_missing_slice_is_no_volume(tmp_path: Path) -> None:
    save_series(tmp_path, body())[2].unlink()
    save_seg(tmp_path / "seg.dcm", {"organ": organ()})
    with pytest.raises(CaseError, match="lacks 1 slices"):
        examined(tmp_path)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ((1, 2, 3, 4), set()),
        ((1, 2, 3, 4, 6, 7), {("labels-lost", "error")}),
        ((1, 4), {("contour-gaps", "warning")}),
        ((1, 2, 2.4, 3, 4), {("contours-between", "warning")}),
    ],
)
def test_contours_that_are_left_out_or_not_there_are_graded(
    tmp_path: Path, places: tuple[float, ...], expected: Codes
) -> None:
    save_series(tmp_path, body())
    save_rtstruct(tmp_path / "structures", {"organ": [outline(place) for place in places]})
    report = examined(tmp_path)
    assert codes(report) == expected
    assert all(one.mend for one in findings_of(report))
    assert report.labels is not None
    assert report.labels.voxels == {"organ": 48 * len({int(place) for place in places if place < 6})}


def test_a_picture_and_its_mask_have_facts_and_a_note_on_its_values(tmp_path: Path) -> None:
    frame, mask = (one[2] for one in (body() // 6, organ()))
    for name, values in (("frames", frame.astype(np.uint8)), ("lung_masks", np.uint8(255) * mask)):
        (tmp_path / name).mkdir()
        Image.fromarray(values).save(tmp_path / name / "a.png")
    report = examined(tmp_path)
    assert codes(report) == {("values-0-255", "note")}
    assert (report.kind, report.shape, report.spacing) == ("picture", (1, *SHAPE[1:]), (1.0, 1.0, 1.0))
    assert report.labels is not None
    assert report.labels.voxels == {"lung": 48}
    assert report.labels.annotated == ("lung",)
