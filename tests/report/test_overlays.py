from __future__ import annotations

import numpy as np
import pytest

from segray.report.overlays import BODY_WINDOW, WIDE_WINDOW, choose_planes, display_window, overlay

SPACING = (5.0, 2.0, 1.0)


def volume() -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros((6, 20, 30), np.uint8)
    labels[4, 3:9, 10:20] = 1
    labels[5, 3:5, 10:12] = 2
    return np.where(labels > 0, 50, -1000).astype(np.int16), labels


def test_planes_go_through_the_most_foreground() -> None:
    voxels, labels = volume()
    axial, coronal, sagittal = choose_planes(voxels, SPACING, labels, np.zeros_like(labels))
    np.testing.assert_array_equal(axial.truth, labels[4])
    np.testing.assert_array_equal(coronal.picture, voxels[:, 3])
    assert sagittal.picture.shape == (6, 20)
    assert (axial.spacing, coronal.spacing, sagittal.spacing) == ((2.0, 1.0), (5.0, 1.0), (5.0, 2.0))


def test_a_lone_slice_has_one_plane_with_truth_and_mask_side_by_side() -> None:
    voxels, labels = volume()
    axial, mask = overlay(voxels[4:5], SPACING, labels[4:5], labels[4:5], ["liver", "gut"], "picture").axes
    assert (axial.get_title(), mask.get_title()) == ("truth, axial", "mask, axial")
    assert axial.get_position().x1 <= mask.get_position().x0
    assert len(overlay(voxels[4:5], SPACING, None, labels[4:5], ["liver", "gut"], "picture").axes) == 1


def test_aspect_and_directions_are_those_of_the_body() -> None:
    voxels, labels = volume()
    figure = overlay(voxels, SPACING, labels, labels, ["liver", "gut"], "case")
    axes = figure.axes
    assert len(axes) == 6
    axial, coronal = axes[0], axes[1]
    assert axial.get_ylim() == (40.0, 0.0)
    assert axial.get_xlim() == (0.0, 30.0)
    assert coronal.get_ylim() == (0.0, 30.0)
    assert axial.get_aspect() == coronal.get_aspect() == 1.0
    assert axial.images[0].origin == "upper"
    assert coronal.images[0].origin == "lower"


def test_contours_lie_around_the_structure_in_mm() -> None:
    voxels, labels = volume()
    figure = overlay(voxels, SPACING, None, labels, ["liver", "gut"], "case")
    assert len(figure.axes) == 3
    paths = figure.axes[0].collections[0].get_paths()
    corners = np.concatenate([path.vertices for path in paths])
    np.testing.assert_allclose(corners.min(axis=0), [10.0, 6.0])
    np.testing.assert_allclose(corners.max(axis=0), [20.0, 18.0])


def test_legend_names_what_is_seen() -> None:
    voxels, labels = volume()
    figure = overlay(voxels, SPACING, labels, labels, ["liver", "gut", "absent $x$"], "case $1$")
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == ["liver", "gut", "truth, dashed in the lower row"]


def test_many_structures_are_counted_beyond_the_named() -> None:
    labels = np.repeat(np.repeat(np.arange(60, dtype=np.uint8).reshape(1, 6, 10), 4, 1), 4, 2)
    figure = overlay(labels.astype(np.float32), SPACING, None, labels, [f"s{i}" for i in range(1, 60)], "case")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(texts) == 25
    assert texts[-1] == "and 35 more"


def test_an_empty_mask_is_drawn() -> None:
    voxels, labels = volume()
    overlay(voxels, SPACING, None, np.zeros_like(labels), ["liver", "gut"], "empty").draw_without_rendering()


@pytest.mark.parametrize(
    ("inside", "outside", "window"),
    [(50, -1000, BODY_WINDOW), (-850, -1000, WIDE_WINDOW)],
)
def test_ct_windows(inside: int, outside: int, window: tuple[float, float]) -> None:
    _, labels = volume()
    labels = np.repeat(np.repeat(labels, 2, 1), 2, 2)
    assert display_window(np.where(labels > 0, inside, outside).astype(np.int16), labels) == window


def test_other_modalities_use_percentiles() -> None:
    voxels = np.arange(6 * 20 * 30, dtype=np.float32).reshape(6, 20, 30)
    low, high = display_window(voxels, np.zeros((6, 20, 30), np.uint8))
    assert 0 < low < high < voxels.max()
    flat = np.full((3, 4, 4), 7.0, np.float32)
    assert display_window(flat, np.zeros((3, 4, 4), np.uint8)) == (7.0, 8.0)


def test_structures_that_overlap_have_a_contour_each() -> None:
    voxels, organ = volume()
    fields = (organ == 1).astype(np.uint16)
    fields[4, 5:7, 12:14] |= 1 << 9
    names = ["liver", *(f"s{n}" for n in range(2, 10)), "lesion"]
    figure = overlay(voxels, SPACING, fields, fields, names, "case", overlapping=True)
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["liver", "lesion"]
    truth, mask = figure.axes[0], figure.axes[3]
    assert len(truth.collections) == 2
    assert len(mask.collections) == 4
    corners = np.concatenate([path.vertices for path in truth.collections[0].get_paths()])
    np.testing.assert_allclose(corners.max(axis=0), [20.0, 18.0])
    inner = np.concatenate([path.vertices for path in truth.collections[1].get_paths()])
    np.testing.assert_allclose(inner.min(axis=0), [12.0, 10.0])
