"""Contours to voxels, on series that the tests make themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from made_dicoms import SPACING, START, ramp, save_rtstruct, save_series
from matplotlib.path import Path as Outline

from segray import formats
from segray.case import LabelMap
from segray.config import IngestConfig
from segray.errors import CaseError, UsageError
from segray.formats.dicom_labels import structure_numbers
from segray.formats.rtstruct import fill_contours

ROWS, COLUMNS = 20, 30


def world(points: Any, place: float) -> Any:
    """(column, row) of a slice to LPS mm."""
    columns, rows = np.array(points, float).T
    height = np.full(len(columns), START[2] + 2.5 * place)
    return np.stack([START[0] + columns * SPACING[1], START[1] + rows * SPACING[0], height], axis=1)


def box(left: float, top: float, right: float, bottom: float) -> Any:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def closed(points: Any, place: float) -> tuple[str, Any]:
    return "CLOSED_PLANAR", world(points, place)


def drawn(folder: Path, contours: Any, **more: Any) -> tuple[Any, list[str]]:
    """The labels (z, y, x) of the one case of a folder with these contours, and its notes."""
    save_series(folder, ramp(6, ROWS, COLUMNS))
    save_rtstruct(folder / "structures", contours, **more)
    discovery = formats.discover(str(folder), IngestConfig())
    case = formats.read_case(discovery.cases[0], discovery.label_map)
    return case.labels, case.notes


def rename_rois(path: Path, names: dict[str, str]) -> None:
    """Give ROIs of a structure set other names, which need not be unique."""
    dataset = pydicom.dcmread(path)
    for roi in dataset.StructureSetROISequence:
        roi.ROIName = names.get(roi.ROIName, roi.ROIName)
    pydicom.dcmwrite(path, dataset)


def test_a_box_is_filled_by_centres(tmp_path: Path) -> None:
    labels, notes = drawn(tmp_path, {"liver": [closed(box(3.5, 4.5, 9.5, 8.5), 2)]})
    expected = np.zeros((6, ROWS, COLUMNS), np.uint8)
    expected[2, 5:9, 4:10] = 1
    assert np.array_equal(labels, expected)
    assert notes == []


def test_a_contour_in_another_is_a_hole_and_an_island_in_it_is_not(tmp_path: Path) -> None:
    lines = [closed(box(a, a, 19 - a, 19 - a), 1) for a in (1.5, 4.5, 7.5)]
    labels, _ = drawn(tmp_path, {"x": lines})
    expected = np.zeros((ROWS, COLUMNS), np.uint8)
    expected[2:18, 2:18], expected[5:15, 5:15], expected[8:12, 8:12] = 1, 0, 1
    assert np.array_equal(labels[1], expected)
    assert not labels[[0, 2, 3, 4, 5]].any()


def test_a_keyhole_has_a_hole_and_no_channel(tmp_path: Path) -> None:
    outer = [(1.5, 1.5), (15.5, 1.5), (15.5, 15.5), (1.5, 15.5), (1.5, 8.0)]
    inner = [(5.5, 8.0), (5.5, 11.5), (11.5, 11.5), (11.5, 5.5), (5.5, 5.5), (5.5, 8.0)]
    labels, _ = drawn(tmp_path, {"x": [closed([*outer, *inner, (1.5, 8.0)], 1)]})
    expected = np.zeros((ROWS, COLUMNS), np.uint8)
    expected[2:16, 2:16], expected[6:12, 6:12] = 1, 0
    assert np.array_equal(labels[1], expected)


def test_filling_equals_the_even_odd_rule_of_each_point() -> None:
    """Against a point-in-polygon test of another maker, on random stars, also beyond the border."""
    rng = np.random.default_rng(3)
    centres = np.stack(np.meshgrid(np.arange(COLUMNS), np.arange(ROWS)), axis=-1).reshape(-1, 2)
    for _ in range(20):
        lines = []
        for _ in range(3):
            angles = np.sort(rng.uniform(0, 2 * np.pi, 17))
            reach = rng.uniform(2, 14, 17)[:, None]
            lines.append(rng.uniform(0, 25, 2) + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1))
        inside = np.zeros(len(centres), bool)
        for line in lines:
            inside ^= Outline(np.vstack([line, line[:1]]), closed=True).contains_points(centres)
        assert np.array_equal(fill_contours(lines, ROWS, COLUMNS), inside.reshape(ROWS, COLUMNS))


def test_structures_that_touch_share_no_voxel() -> None:
    """Lines through the centres of voxels belong to one side only."""
    left = fill_contours([np.array(box(2, 2, 6, 8), float)], ROWS, COLUMNS)
    right = fill_contours([np.array(box(6, 2, 9, 8), float)], ROWS, COLUMNS)
    assert not (left & right).any()
    assert left.sum() + right.sum() == 7 * 6


def test_contours_between_slices_go_to_the_nearest(tmp_path: Path) -> None:
    lines = [
        closed(box(1.5, 1.5, 5.5, 5.5), 1.2),
        closed(box(7.5, 1.5, 9.5, 5.5), 1.4),
        closed(box(1.5, 1.5, 5.5, 5.5), 7),
    ]
    labels, notes = drawn(tmp_path, {"x": lines})
    assert (labels[1, 2:6, 2:6] == 1).all()
    assert labels.sum() == 16
    assert "1 contours of x lie above or below the series and are left out." in notes
    assert "1 contours of x lie between slices whose own contours are nearer; they are left out." in notes


def test_points_are_ignored_and_said(tmp_path: Path) -> None:
    lines = [closed(box(1.5, 1.5, 5.5, 5.5), 1), ("POINT", world([(3, 3)], 1)), closed([(1, 1), (5, 5)], 2)]
    labels, notes = drawn(tmp_path, {"x": lines})
    assert labels.sum() == 16
    (note,) = [note for note in notes if "enclose nothing" in note]
    assert "1 POINT" in note
    assert "1 closed ones of less than three points" in note


def test_slices_without_contour_between_others_are_said(tmp_path: Path) -> None:
    _, notes = drawn(tmp_path, {"x": [closed(box(1.5, 1.5, 5.5, 5.5), place) for place in (0, 1, 4)]})
    assert notes == ["x has no contour on 2 slices between others; they stay empty."]


def test_names_are_made_safe_and_overlaps_settled(tmp_path: Path) -> None:
    small, large = closed(box(4.5, 4.5, 8.5, 8.5), 1), closed(box(1.5, 1.5, 15.5, 15.5), 1)
    save_series(tmp_path, ramp(6, ROWS, COLUMNS))
    save_rtstruct(tmp_path / "rs", {"GTV/1": [small], "Körper ": [large], "seed": [("POINT", world([(3, 3)], 1))]})
    discovery = formats.discover(str(tmp_path), IngestConfig())
    assert discovery.label_map == LabelMap({"GTV_1": 1, "Körper": 2})
    assert any("1 structures without closed contours: seed" in note for note in discovery.notes)
    labels = formats.read_case(discovery.cases[0], discovery.label_map).labels
    assert labels is not None
    assert (np.count_nonzero(labels == 1), np.count_nonzero(labels == 2)) == (16, 14 * 14 - 16)
    kept = formats.read_case(discovery.cases[0], discovery.label_map, overlap="keep").labels
    assert kept is not None
    assert np.bincount(kept.reshape(-1))[[1, 2, 3]].tolist() == [0, 14 * 14 - 16, 16]
    with pytest.raises(CaseError, match="overlap"):
        formats.read_case(discovery.cases[0], discovery.label_map, overlap="refuse")


def test_names_that_are_equal_once_they_are_numbered_are_told_apart(tmp_path: Path) -> None:
    save_series(tmp_path / "s", ramp(6, ROWS, COLUMNS))
    places = {"a": 1, "a_7": 2, "a*": 3, "a?": 4}
    save_rtstruct(tmp_path / "s" / "rs", {name: [closed(box(1.5, 1.5, 5.5, 5.5), at)] for name, at in places.items()})
    rename_rois(tmp_path / "s" / "rs", {"a*": "a", "a?": "a"})
    assert structure_numbers(str(tmp_path / "s" / "rs")) == {"a": 5, "a_7": 6, "a_7_7": 7, "a_8": 8}
    discovery = formats.discover(str(tmp_path / "s"), IngestConfig())
    labels = formats.read_case(discovery.cases[0], discovery.label_map).labels
    assert labels is not None
    assert len(np.unique(labels)) == 5


def test_a_table_may_name_the_file_as_labels(tmp_path: Path) -> None:
    save_series(tmp_path / "s", ramp(6, ROWS, COLUMNS))
    save_rtstruct(
        tmp_path / "rs", {"a": [closed(box(1.5, 1.5, 5.5, 5.5), 1)], "b": [closed(box(1.5, 1.5, 5.5, 5.5), 3)]}
    )
    table = tmp_path / "cases.csv"
    table.write_text("case_id,image,label\nx,s,rs\n")

    def labels(**settings: int) -> Any:
        found = formats.discover(str(table), IngestConfig(labels=settings or None))
        assert found.problems == []
        return formats.read_case(found.cases[0], found.label_map).labels

    sorted_names, by_name, by_number = labels(), labels(b=7), labels(upper=5, lower=6)
    assert (sorted_names[1].max(), sorted_names[3].max()) == (1, 2)
    assert np.unique(by_name).tolist() == [0, 7]
    assert (by_number[1].max(), by_number[3].max()) == (5, 6)
    source = formats.CaseSource("x", str(tmp_path / "s"), kind="dicom", labels=str(tmp_path / "rs"))
    assert formats.label_values(source) == [5, 6]


def test_structures_matched_by_number_keep_their_overlap(tmp_path: Path) -> None:
    save_series(tmp_path / "s", ramp(6, ROWS, COLUMNS))
    boxes = {"BODY": box(1.5, 1.5, 15.5, 15.5), "GTV 1": box(4.5, 4.5, 8.5, 8.5), "PTV": box(3.5, 3.5, 9.5, 9.5)}
    save_rtstruct(tmp_path / "rs", {name: [closed(one, 1)] for name, one in boxes.items()})
    (tmp_path / "cases.csv").write_text("case_id,image,label\nx,s,rs\n")

    def counts(structures: list[str] | None = None, **labels: int) -> list[int]:
        config = IngestConfig(labels=labels, structures=structures, overlap="keep")
        found = formats.discover(str(tmp_path / "cases.csv"), config)
        kept = formats.read_case(found.cases[0], found.label_map, overlap="keep").labels
        return np.bincount(kept.reshape(-1))[1:].tolist()

    # The file numbers its structures from 5 on.
    assert counts(tumour=6, body=5, target=7) == [14 * 14 - 36, 0, 0, 0, 36 - 16, 0, 16]
    assert counts(["body", "tumour"], tumour=6, body=5, target=7) == [14 * 14 - 16, 0, 16]
    with pytest.raises(CaseError, match=r"values \[7\], which the label map does not name"):
        counts(tumour=6, body=5)


def test_contours_that_cross_slices_are_refused(tmp_path: Path) -> None:
    slanted = world(box(1.5, 1.5, 5.5, 5.5), 1)
    slanted[2:, 2] += 5
    with pytest.raises(CaseError, match=r"contour of x crosses 2.0 slices"):
        drawn(tmp_path, {"x": [("CLOSED_PLANAR", slanted)]})


@pytest.mark.parametrize(
    ("contours", "more", "words"),
    [
        ({}, {}, "RTSTRUCT without contours"),
        ({"x": [("POINT", world([(3, 3)], 1))]}, {}, "RTSTRUCT without contours"),
        ({"x": [closed(box(1, 1, 5, 5), 1)]}, {"frame": "1.9"}, "another frame of reference"),
        ({"x": [closed(box(1, 1, 5, 5), 1)]}, {"series": "1.9"}, "refers to a series that is not among the cases"),
    ],
)
def test_what_does_not_fit_is_a_problem_and_the_case_stays(
    tmp_path: Path, contours: Any, more: Any, words: str
) -> None:
    save_series(tmp_path, ramp())
    save_rtstruct(tmp_path / "rs.dcm", contours, **more)
    discovery = formats.discover(str(tmp_path), IngestConfig())
    assert len(discovery.cases) == 1
    assert not discovery.cases[0].has_labels
    ((where, reason),) = discovery.problems
    assert where.endswith("rs.dcm")
    assert words in reason


def test_labels_alone_are_no_cases(tmp_path: Path) -> None:
    save_rtstruct(tmp_path / "rs.dcm", {"x": [closed(box(1, 1, 5, 5), 1)]})
    with pytest.raises(UsageError, match="not among the cases"):
        formats.discover(str(tmp_path), IngestConfig())
