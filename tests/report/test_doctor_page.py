"""The doctor's page: what it says stands there, and nothing from a file becomes markup."""

from dataclasses import replace

import numpy as np
import pytest

from segray.case import Geometry
from segray.doctor.cost import IngestPlan
from segray.doctor.diagnosis import Diagnosis
from segray.doctor.examine import CaseReport, LabelFacts
from segray.doctor.findings import Finding
from segray.doctor.intensity import measure_intensity
from segray.doctor.tile import Tile
from segray.doctor.whole import StructureRow
from segray.doctor.words import verdict
from segray.report.contact_sheet import contact_sheet
from segray.report.doctor_page import histogram, render
from segray.report.theme import png_bytes

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (4, 12, 12)).astype(np.int16)
REPORT = CaseReport(
    "a<b>",
    "p",
    "",
    "nifti",
    "a.nii.gz",
    shape=(4, 12, 12),
    spacing=(3.0, 1.0, 1.0),
    orientation=Geometry(np.eye(4), (12, 12, 4)).axis_codes,
    intensities=(measure_intensity(VOXELS),),
    labels=LabelFacts({"liver": 10}),
    voxel_ml=0.003,
)
BAD = Finding("unreadable", "error", "a<b>", "It <script> is cut off.", "Copy it.")


def diagnosis(*findings: Finding) -> Diagnosis:
    plan = IngestPlan(
        2, 80, {"size": [64, 48], "spacing": [1.5, 1.5]}, {"train": 2}, 5 << 20, 9 << 20, 1 << 28, 2, 2, 3
    )
    rows = [StructureRow("liver", 1, 0, 0, 0.03, 0.03, 0.03)]
    return Diagnosis("/scans", "pairs", ["Read."], findings, [REPORT], rows, {"a<b>": "train"}, plan, 2.0)


def test_the_page_says_it_and_escapes_what_comes_from_files() -> None:
    page = render(diagnosis(BAD))
    assert "<script>" not in page
    assert "a&lt;b&gt;" in page
    assert "It &lt;script&gt; is cut off." in page
    assert "Copy it." in page
    assert "64 x 48" in page
    assert "5.0 MiB" in page
    assert "3.0 minutes" in page


@pytest.mark.parametrize(
    ("findings", "word"),
    [((BAD,), "would lose data"), ((replace(BAD, grade="warning"),), "lose no labels"), ((), "Nothing is wrong")],
)
def test_the_verdict(findings: tuple[Finding, ...], word: str) -> None:
    assert word in verdict(diagnosis(*findings))
    assert word in render(diagnosis(*findings))


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_contact_sheet_of_some_cases(count: int) -> None:
    labels = np.zeros((12, 12), np.uint32)
    labels[3:6, 0:5] = 3
    tile = Tile("c", "slice 1 of 4", VOXELS[0].astype(np.float32), labels, (1.0, 1.0), {"a": 1, "b": 2}, True)
    figure = contact_sheet([tile] * count)
    assert len([axes for axes in figure.axes if axes.images]) == count
    assert png_bytes(figure).startswith(b"\x89PNG")
    assert np.array_equal(tile.inside("a"), tile.inside("b"))
    assert np.array_equal(Tile.from_dict(tile.to_dict()).labels, labels)


def test_a_histogram_of_one_value_can_be_drawn() -> None:
    assert png_bytes(histogram("other", measure_intensity(np.full((2, 3, 3), 5, np.int16)).bins))
