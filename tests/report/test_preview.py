from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from segray.report.overlays import BODY_WINDOW, cut_planes
from segray.report.planes import paint_plane, palette_of
from segray.report.preview import MOST_NAMED, WIDTH, preview, volume_text
from segray.report.rendering import enclosing_structure, front_view
from segray.report.thinned import MOST_IN_PLANE, count_voxels, smallest_of_bits, thin

ISO = (2.0, 2.0, 2.0)
PALETTE = np.array([[0, 0, 0], [220, 40, 40], [40, 200, 40], [40, 60, 220]], np.uint8)


def empty(side: int = 40) -> np.ndarray:
    return np.zeros((side, side, side), np.uint8)


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def strongest(picture: np.ndarray) -> np.ndarray:
    """(rows, columns): 1, 2, 3 where red, green or blue is far above both others, else 0."""
    values = picture.astype(int)
    ordered = np.sort(values, axis=-1)
    return np.where(ordered[..., 2] > 1.6 * ordered[..., 1] + 12, values.argmax(axis=-1) + 1, 0)


def view(labels: np.ndarray, spacing: tuple[float, float, float] = ISO, size: tuple[int, int] = (80, 80)) -> np.ndarray:
    return front_view(np.full(labels.shape, -1000, np.int16), thin(labels, spacing, 3), PALETTE, size)


def ball(shape: tuple[int, int, int], spacing: tuple[float, float, float], radius: float) -> np.ndarray:
    z, y, x = (((np.arange(length) - (length - 1) / 2) * mm) ** 2 for length, mm in zip(shape, spacing, strict=True))
    return (z[:, None, None] + y[:, None] + x < radius**2).astype(np.uint8)


def test_the_patients_left_is_on_the_right_and_the_head_is_up_from_the_front() -> None:
    labels = empty()
    labels[28:36, 10:20, 30:38] = 1
    labels[2:8, 10:20, 4:10] = 2
    seen = strongest(view(labels))
    rows, columns = np.nonzero(seen == 1)
    assert (rows.min(), rows.max()) == pytest.approx((8, 23), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((60, 75), abs=1)
    rows, columns = np.nonzero(seen == 2)
    assert rows.min() > 60
    assert columns.max() < 22


@pytest.mark.parametrize("first", [1, 2])
def test_what_lies_in_front_hides_what_lies_behind(first: int) -> None:
    labels = empty()
    labels[10:30, 5:10, 10:30] = first
    labels[14:26, 20:30, 14:26] = 3 - first
    assert set(np.unique(strongest(view(labels)))) == {0, first}
    turned = strongest(view(labels[:, ::-1]))
    assert turned[40, 40] == 3 - first
    assert turned[24, 24] == first


def test_a_structure_around_all_others_is_glass() -> None:
    labels = empty()
    labels[2:38, 2:38, 2:38] = 1
    labels[10:30, 12:28, 10:30] = 2
    assert enclosing_structure(thin(labels, ISO, 3)) == 1
    picture = view(labels)
    assert strongest(picture)[40, 40] == 2
    assert picture[40, 8].max() > picture[40, 1].max()
    labels[:, 16:] = 0
    assert enclosing_structure(thin(labels, ISO, 3)) is None
    assert strongest(view(labels))[40, 40] == 1


def test_light_falls_from_the_upper_left_and_from_the_front() -> None:
    picture = view(ball((40, 40, 40), ISO, 30.0)).max(axis=-1).astype(int)
    assert picture[24, 24] > picture[56, 56] + 30
    assert picture[30, 34] > picture[40, 66] + 20
    assert picture[4, 4] == 0


def test_a_ball_looks_the_same_on_any_grid() -> None:
    fine = view(ball((40, 40, 40), ISO, 30.0)).astype(float)
    coarse = view(ball((16, 60, 40), (5.0, 4 / 3, 2.0), 30.0), (5.0, 4 / 3, 2.0)).astype(float)
    assert np.abs(fine - coarse).mean() < 4
    outer = [np.flatnonzero((one > 60).any(axis=(0, 2))) for one in (fine, coarse)]
    assert outer[0][[0, -1]] == pytest.approx(outer[1][[0, -1]], abs=1)


def test_the_body_is_seen_faintly_behind() -> None:
    voxels = np.full((40, 40, 40), -1000, np.int16)
    voxels[:, 10:30, 10:30] = 40
    picture = front_view(voxels, thin(empty(), ISO, 3), PALETTE, (80, 80))
    assert 30 < picture[40, 40].max() < 110
    assert picture[40, 4].max() == 0


def test_outlines_and_tints_lie_where_the_structure_is() -> None:
    labels = empty()
    labels[24:34, 8:20, 22:36] = 1
    voxels = np.zeros(labels.shape, np.int16)
    axial, coronal, sagittal = cut_planes(voxels, ISO, None, labels, (30, 12, 30))
    for plane, rows, columns in (
        (axial, (16, 39), (44, 71)),
        (coronal, (12, 31), (44, 71)),
        (sagittal, (12, 31), (16, 39)),
    ):
        painted = paint_plane(plane, BODY_WINDOW, PALETTE, (80, 80), overlapping=False)
        line = (painted == PALETTE[1]).all(axis=-1)
        found_rows, found_columns = np.flatnonzero(line.any(axis=1)), np.flatnonzero(line.any(axis=0))
        assert found_rows[[0, -1]] == pytest.approx(rows, abs=1), plane.name
        assert found_columns[[0, -1]] == pytest.approx(columns, abs=1), plane.name
        middle = (sum(rows) // 2, sum(columns) // 2)
        assert not line[middle]
        assert int(painted[middle][0]) > int(painted[middle][1]) + 10
        grey = painted[2, 2]
        assert len(set(grey.tolist())) == 1


def test_a_smaller_structure_is_seen_within_a_larger_one_that_it_overlaps() -> None:
    fields = empty()
    fields[10:30, 10:30, 10:30] = 4
    fields[16:24, 16:24, 16:24] |= 1
    plane = cut_planes(np.zeros(fields.shape, np.int16), ISO, None, fields, (20, 20, 20))[0]
    painted = paint_plane(plane, BODY_WINDOW, PALETTE, (80, 80), overlapping=True)
    for index, low, high in ((3, 20, 59), (1, 32, 47)):
        line = np.flatnonzero((painted == PALETTE[index]).all(axis=-1).any(axis=1))
        assert line[[0, -1]] == pytest.approx((low, high), abs=1)
    assert painted[40, 40].argmax() == 0
    assert painted[26, 40].argmax() == 2
    assert smallest_of_bits(fields, 3)[20, 20, 20] == 1
    assert smallest_of_bits(fields, 3)[12, 12, 12] == 3


def test_panels_have_the_shape_that_the_body_has_in_millimetres() -> None:
    voxels = np.full((12, 50, 40), 240, np.int16)
    voxels[0, 0, 0] = -1000
    png = preview(voxels, (10.0, 2.0, 5.0), np.zeros(voxels.shape, np.uint8), ["liver"], "case")
    white = ndimage.binary_opening((pixels_of(png) > 250).all(axis=-1), np.ones((9, 9)))
    boxes = sorted(ndimage.find_objects(ndimage.label(white)[0]), key=lambda box: box[1].start)
    shapes = [(rows.stop - rows.start) / (columns.stop - columns.start) for rows, columns in boxes]
    assert shapes == pytest.approx([100 / 200, 120 / 200, 120 / 100], rel=0.02)


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_preview_shows_the_structure_in_all_four_panels(overlapping: bool) -> None:
    labels = empty(60)
    labels[36:52, 10:30, 36:54] = 1
    voxels = np.where(labels > 0, 60, -20).astype(np.int16)
    png = preview(voxels, ISO, labels, ["liver", "spleen"], "case 7", overlapping=overlapping)
    pixels = pixels_of(png)
    assert pixels.shape[1] == WIDTH
    colour = palette_of(["liver", "spleen"])[1].astype(int)
    panels = np.array_split(pixels[44:347].astype(int), 4, axis=1)
    for panel in panels[:3]:
        assert (panel == colour).all(axis=-1).sum() > 100
    for panel in (panels[0], panels[1], panels[3]):
        columns = np.nonzero(np.abs(panel - colour).max(axis=-1) < 40)[1]
        assert columns.size > 100
        assert columns.min() > 150
    for panel in (panels[1], panels[3]):
        rows = np.nonzero(np.abs(panel - colour).max(axis=-1) < 40)[0]
        assert rows.max() < 151


def test_names_and_volumes_are_counted_and_written() -> None:
    labels = empty(20)
    labels[:, :4, :5] = 1
    labels[3:9, 10:12, 8] = 7
    assert count_voxels(labels, 3).tolist() == [400, 0, 0]
    assert count_voxels(labels[::-1, :, ::-1], 3, overlapping=True).tolist() == [412, 12, 12]
    assert [volume_text(one) for one in (1203.6, 47.2, 4.25, 0.1, 0.0336)] == [
        "1,204 ml",
        "47 ml",
        "4.2 ml",
        "0.1 ml",
        "0.034 ml",
    ]
    voxels = np.zeros(labels.shape, np.int16)
    told, other = (preview(voxels, ISO, labels, ["a"], "c", volumes_ml=[one]) for one in (3.2, 77.0))
    assert told == preview(voxels, ISO, labels, ["a"], "c")
    assert told != other


def test_the_largest_structures_are_named_and_the_others_counted() -> None:
    labels = np.repeat(np.repeat(np.arange(100, dtype=np.uint8).reshape(1, 10, 10), 4, 1), 4, 2).repeat(12, axis=0)
    voxels = np.zeros(labels.shape, np.float32)
    names = [f"structure_{at}" for at in range(1, 100)]
    many = pixels_of(preview(voxels, ISO, labels, names, "case"))
    few = pixels_of(preview(voxels, ISO, np.minimum(labels, MOST_NAMED), names[:MOST_NAMED], "case"))
    assert many.shape[0] == few.shape[0] + 21


def test_what_is_no_structure_is_not_drawn() -> None:
    labels = empty(24)
    labels[4:20, 4:20, 4:20] = 2
    pixels = pixels_of(preview(np.zeros(labels.shape, np.int16), ISO, labels, ["liver"], "ignored"))
    assert not (pixels == palette_of(["liver"])[1]).all(axis=-1).any()
    assert not strongest(front_view(np.zeros(labels.shape, np.int16), thin(labels, ISO, 1), PALETTE, (50, 50))).any()


@pytest.mark.parametrize("shape", [(1, 30, 20), (2, 5, 4), (60, 3, 3), (700, 4, 4)])
def test_odd_shapes_and_titles(shape: tuple[int, int, int]) -> None:
    labels = np.ones(shape, np.uint16)
    voxels = np.full(shape, np.nan, np.float32)
    title = "broken \udc80 name\nof " + "many letters " * 40
    assert pixels_of(preview(voxels, (3.0, 0.8, 0.8), labels, [title, "$x$ <b>"], title)).shape[1] == WIDTH


def test_large_volumes_are_thinned_and_the_fullest_planes_found() -> None:
    labels = np.zeros((30, 600, 520), np.uint16)
    labels[20, 90:110, 300:420] = 300
    labels[18:23, 90:110, 402:405] = 300
    labels[20, 99:102, 420:450] = 300
    found = thin(labels, (3.0, 0.7, 0.8), 300)
    assert found.inner.shape == (200, 30, 174)
    assert max(found.inner.shape) <= MOST_IN_PLANE
    assert found.steps == (1, 3, 3)
    assert found.spacing == pytest.approx((3.0, 2.1, 2.4))
    z, y, x = found.fullest
    assert z == 20
    assert y in range(99, 102)
    assert x in range(402, 405)


def test_dark_colours_are_lifted_and_others_kept() -> None:
    palette = palette_of([f"s{at}" for at in range(30)])
    assert (palette[1:] @ np.array([0.299, 0.587, 0.114])).min() > 84
    assert palette_of(["a", "b"])[2].tolist() == [0xEE, 0x66, 0x77]
