"""Scans and label volumes in, masks out: the same values, the same grid."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_niftis import CODES, Array, Save, Turn, affine_of

from segray import formats
from segray.case import Geometry
from segray.errors import CaseError, SegrayError
from segray.formats.source import CaseSource

BEND = st.floats(-0.3, 0.3)


@st.composite
def grids(draw: Any) -> dict[str, Any]:
    """An orientation, spacing, obliquity or shear, type, byte order, scaling, codes and perhaps another qform."""
    affine = affine_of(draw(st.sampled_from(CODES)), tuple(draw(st.floats(0.3, 6.0)) for _ in range(3)))
    if draw(st.booleans()):
        affine[:3, :3] = (np.eye(3) + np.array([[draw(BEND) for _ in range(3)] for _ in range(3)])) @ affine[:3, :3]
    return {
        "affine": affine,
        "shape": tuple(draw(st.integers(1, 5)) for _ in range(3)),
        "kind": draw(st.sampled_from([nib.Nifti1Image, nib.Nifti2Image])),
        "dtype": draw(st.sampled_from(["u1", "i2", "i4", "f4"])),
        "endian": draw(st.sampled_from("<>")),
        "scaling": draw(st.sampled_from([(np.nan, np.nan), (1.0, 0.0), (2.0, -1024.0), (0.37, 5.5)])),
        "other_qform": draw(st.booleans()),
        "tail": draw(st.sampled_from([(), (1,), (1, 1)])),
        "suffix": draw(st.sampled_from([".nii", ".nii.gz"])),
    }


def write_grid(folder: Path, grid: dict[str, Any]) -> str:
    rng = np.random.default_rng(0)
    dtype = np.dtype(grid["endian"] + grid["dtype"] if grid["dtype"] != "u1" else "u1")
    stored = rng.integers(0, 200, (*grid["shape"], *grid["tail"])).astype(dtype)
    header = grid["kind"].header_class(endianness=grid["endian"])
    header.set_data_dtype(dtype)
    image = grid["kind"](stored, None, header)
    image.header.set_sform(grid["affine"], code=2)
    image.header.set_qform(affine_of("RAS") if grid["other_qform"] else grid["affine"], code=1, strip_shears=True)
    image.header["descrip"] = b"from elsewhere"
    path = folder / f"case{grid['suffix']}"
    image.header.set_slope_inter(1.0, 0.0)
    image.to_filename(path)
    set_scaling(path, grid)
    return str(path)


def set_scaling(path: Path, grid: dict[str, Any]) -> None:
    """Put the scaling into the file itself: nibabel resets it on writing."""
    import gzip

    opener: Any = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rb") as stream:
        data = bytearray(stream.read())
    size = 348 if grid["kind"] is nib.Nifti1Image else 540
    header = grid["kind"].header_class(bytes(data[:size]), check=False)
    header["scl_slope"], header["scl_inter"] = grid["scaling"]
    data[:size] = header.binaryblock
    with opener(path, "wb") as stream:
        stream.write(bytes(data))


@settings(max_examples=120, deadline=None)
@given(grids())
def test_values_are_nibabels_and_masks_lie_on_the_same_grid(grid: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_grid(Path(folder), grid)
        theirs: Any = nib.load(path)
        case = formats.read_image(formats.lone_image(path))
        stored = np.asarray(theirs.get_fdata()).reshape(grid["shape"])
        assert np.allclose(case.geometry.to_lps(stored), case.voxels, rtol=1e-6)
        assert np.array_equal(case.geometry.affine, theirs.affine)
        assert case.voxels.flags.c_contiguous
        assert case.voxels.flags.writeable
        labels = np.random.default_rng(1).integers(0, 255, case.geometry.size).astype(np.uint8)
        formats.write_mask(f"{folder}/mask.nii.gz", labels, case.geometry)
        check_mask(f"{folder}/mask.nii.gz", theirs, labels, case.geometry)


def check_mask(path: str, scan: Any, labels: Array, geometry: Geometry) -> None:
    mask: Any = nib.load(path)
    assert mask.shape == scan.shape
    assert np.array_equal(mask.affine, scan.affine)
    assert mask.header.endianness == "<"
    assert mask.get_data_dtype() == np.uint8
    same = ["dim", "pixdim", "qform_code", "sform_code", "xyzt_units", "srow_x", "srow_y", "srow_z"]
    for name in [*same, "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"]:
        assert np.array_equal(mask.header[name], scan.header[name]), name
    assert mask.header["descrip"] == b"segray"
    again, grid = formats.read_mask(path, geometry)
    assert np.array_equal(again, labels)
    assert np.array_equal(grid.affine, geometry.affine)


@pytest.mark.parametrize("codes", CODES)
def test_every_orientation_is_turned_as_nibabel_turns_it(tmp_path: Path, save: Save, in_lps: Turn, codes: str) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    path = save(tmp_path / "x.nii.gz", array, affine_of(codes))
    case = formats.read_image(formats.lone_image(path))
    assert case.voxels.dtype == np.int16
    assert np.array_equal(case.voxels, in_lps(nib.load(path)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([-1024, 3071], np.int32), np.int16),
        (np.array([0, 40000], np.uint16), np.float32),
        (np.array([0, 32767], np.uint16), np.int16),
        (np.array([-5, 70000], np.int64), np.float32),
        (np.array([-5.0, 12.0], np.float64), np.int16),
        (np.array([-5.0, 12.5], np.float64), np.float32),
        (np.array([-5.0, 1e9], np.float32), np.float32),
        (np.array([-128, 127], np.int8), np.int16),
    ],
)
def test_voxels_are_int16_where_that_holds_all(tmp_path: Path, save: Save, values: Array, expected: type) -> None:
    case = formats.read_image(formats.lone_image(save(tmp_path / "x.nii.gz", values.reshape(2, 1, 1))))
    assert case.voxels.dtype == expected
    assert np.array_equal(case.voxels.ravel()[::-1], values.astype(expected))


def test_type_changes_in_the_last_slab(tmp_path: Path, save: Save) -> None:
    array = np.random.default_rng(0).integers(-900, 900, (64, 64, 200)).astype(np.float32)
    array[3, 4, 199] = 0.25
    case = formats.read_image(formats.lone_image(save(tmp_path / "x.nii.gz", array, affine_of("LPS"))))
    assert case.voxels.dtype == np.float32
    assert np.array_equal(case.voxels, array.transpose(2, 1, 0))


def test_nan_and_infinity_become_the_lowest_value(tmp_path: Path, save: Save) -> None:
    array = np.full((4, 4, 4), 7.0, np.float32)
    array[0, 0, 0], array[1, 0, 0], array[2, 0, 0], array[3, 0, 0] = np.nan, np.inf, -np.inf, -3.0
    case = formats.read_image(formats.lone_image(save(tmp_path / "x.nii.gz", array, affine_of("LPS"))))
    assert case.voxels.dtype == np.int16
    assert case.voxels[0, 0].tolist() == [-3, -3, -3, -3]
    assert "3 voxels were NaN" in case.notes[0]


def test_one_slice_keeps_its_two_dimensions(tmp_path: Path, save: Save) -> None:
    path = save(tmp_path / "x.nii.gz", np.arange(12, dtype=np.int16).reshape(3, 4))
    case = formats.read_image(formats.lone_image(path))
    assert case.voxels.shape == (1, 4, 3)
    formats.write_mask(str(tmp_path / "m.nii.gz"), case.voxels.astype(np.uint8), case.geometry)
    mask: Any = nib.load(tmp_path / "m.nii.gz")
    assert mask.shape == (3, 4)
    assert np.array_equal(np.asarray(mask.dataobj), np.arange(12).reshape(3, 4))


def test_header_alone_tells_the_size(tmp_path: Path, save: Save) -> None:
    array = np.random.default_rng(0).integers(0, 9, (8, 9, 10)).astype(np.int16)
    path = save(tmp_path / "x.nii.gz", array, affine_of("AIL", (1.0, 2.0, 3.0)))
    header = formats.read_header(CaseSource("x", path))
    assert header.size == (9, 8, 10)
    assert header.spacing == pytest.approx((2.0, 1.0, 3.0))
    assert header.voxel_bytes == array.nbytes
    assert header.path == path


def test_header_of_a_file_that_is_cut_off_shapes_no_grid(tmp_path: Path, save: Save) -> None:
    path = Path(save(tmp_path / "x.nii", np.zeros((40, 40, 90), np.int16)))
    assert formats.read_header(CaseSource("x", str(path))).size == (90, 40, 40)
    path.write_bytes(path.read_bytes()[:70_000])
    for reading in (formats.read_header, formats.read_image):
        with pytest.raises(CaseError, match="too small"):
            reading(CaseSource("x", str(path)))


def test_header_extension_is_skipped(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), affine_of("LPS"))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    image.to_filename(tmp_path / "x.nii.gz")
    assert formats.read_image(formats.lone_image(str(tmp_path / "x.nii.gz"))).voxels.ravel().tolist() == [
        0,
        4,
        2,
        6,
        1,
        5,
        3,
        7,
    ]


def test_decoy_beside_the_file_is_not_read(tmp_path: Path, save: Save) -> None:
    save(tmp_path / "x.nii", np.full((2, 2, 2), 9, np.int16))
    path = save(tmp_path / "x.nii.gz", np.full((2, 2, 2), 4, np.int16))
    assert set(formats.read_image(formats.lone_image(path)).voxels.ravel().tolist()) == {4}
    assert set(formats.read_image(formats.lone_image(str(tmp_path / "x.nii"))).voxels.ravel().tolist()) == {9}


def test_oddities_are_noted(tmp_path: Path, save: Save) -> None:
    sheared = affine_of("RAS")
    sheared[0, 1] = 0.6
    image = nib.Nifti1Image(np.zeros((9, 9, 9), np.int16), sheared)
    image.header.set_qform(affine_of("LPS"), code=1)
    image.to_filename(tmp_path / "x.nii.gz")
    notes = formats.read_image(formats.lone_image(str(tmp_path / "x.nii.gz"))).notes
    assert "qform and sform disagree" in notes[0]
    assert "sheared by" in notes[1]


def test_affine_that_spans_no_volume_is_replaced(tmp_path: Path, save: Save) -> None:
    fields = {"srow_x": 0, "srow_y": 0, "srow_z": 0, "sform_code": 1, "qform_code": 0}
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.diag([2.0, 2.0, 4.0, 1.0]))
    for name, value in fields.items():
        image.header[name] = value
    data = bytes(image.header.binaryblock) + bytes(4) + bytes(54)
    data = data[:108] + np.float32(352).tobytes() + data[112:344] + b"n+1\0" + data[348:]
    (tmp_path / "x.nii").write_bytes(data)
    case = formats.read_image(formats.lone_image(str(tmp_path / "x.nii")))
    assert case.geometry.spacing == (4.0, 2.0, 2.0)
    assert "spans no volume" in case.notes[0]


def test_wide_labels_are_uint16(tmp_path: Path, save: Save) -> None:
    labels = np.zeros((3, 3, 3), np.float32)
    labels[1, 1, 1], labels[0, 0, 0] = 300, 1
    read, geometry = formats.read_mask(save(tmp_path / "x.nii.gz", labels))
    assert read.dtype == np.uint16
    assert formats.label_values(CaseSource("x", "", labels=str(tmp_path / "x.nii.gz"))) == [1, 300]
    formats.write_mask(str(tmp_path / "m.nii.gz"), read, geometry)
    assert np.array_equal(np.asarray(nib.load(tmp_path / "m.nii.gz").dataobj), labels)  # type: ignore[attr-defined]


def test_labels_in_another_axis_order_are_turned_to_their_image(tmp_path: Path, save: Save) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    affine = affine_of("RAS", (1.0, 1.0, 2.0))
    image = nib.Nifti1Image(labels, affine)
    turned = image.as_reoriented(nib.orientations.axcodes2ornt("SPL"))
    turned.to_filename(tmp_path / "labels.nii.gz")
    scan = save(tmp_path / "x.nii.gz", labels.astype(np.int16), affine)
    case = formats.read_case(CaseSource("x", scan, labels=str(tmp_path / "labels.nii.gz")), None)
    assert np.array_equal(case.labels, case.voxels)


def test_labels_a_little_beside_the_image_are_noted(tmp_path: Path, save: Save) -> None:
    labels = np.ones((4, 5, 6), np.uint8)
    moved = affine_of("RAS")
    moved[0, 3] += 0.05
    scan = save(tmp_path / "x.nii.gz", labels.astype(np.int16), affine_of("RAS"))
    case = formats.read_case(CaseSource("x", scan, labels=save(tmp_path / "l.nii.gz", labels, moved)), None)
    assert "differ by 0.033 voxels" in case.notes[0]


@pytest.mark.parametrize("move", ["shift", "shape", "mirror"])
def test_labels_elsewhere_are_refused(tmp_path: Path, save: Save, move: str) -> None:
    affine = affine_of("RAS")
    labels = np.ones((4, 5, 7 if move == "shape" else 6), np.uint8)
    if move == "shift":
        affine[1, 3] += 3.0
    if move == "mirror":
        affine[0] = -affine[0]
    scan = save(tmp_path / "x.nii.gz", np.ones((4, 5, 6), np.int16), affine_of("RAS"))
    source = CaseSource("x", scan, labels=save(tmp_path / "l.nii.gz", labels, affine))
    with pytest.raises(CaseError, match="its image"):
        formats.read_case(source, None)


@pytest.mark.parametrize("value", [0.5, -1.0, 70000.0, np.nan])
def test_values_that_are_no_labels_are_refused(tmp_path: Path, save: Save, value: float) -> None:
    labels = np.zeros((3, 3, 3), np.float32)
    labels[1, 1, 1] = value
    with pytest.raises(CaseError, match="label"):
        formats.read_mask(save(tmp_path / "x.nii.gz", labels))


def test_mask_without_a_header_is_built_from_the_affine(tmp_path: Path) -> None:
    geometry = Geometry(affine_of("LAS"), (3, 4, 5))
    labels = np.random.default_rng(0).integers(0, 9, geometry.size).astype(np.int64)
    formats.write_mask(str(tmp_path / "m.nii.gz"), labels, geometry)
    mask: Any = nib.load(tmp_path / "m.nii.gz")
    assert np.allclose(mask.affine, geometry.affine)
    assert np.array_equal(geometry.to_lps(np.asarray(mask.dataobj)), labels)


def test_mask_of_another_shape_or_type_is_refused(tmp_path: Path) -> None:
    geometry = Geometry(np.eye(4), (3, 4, 5))
    for labels in (np.zeros((3, 4, 5), np.uint8), np.zeros((5, 4, 3)), np.full((5, 4, 3), -1)):
        with pytest.raises(SegrayError, match=r"m\.nii\.gz"):
            formats.write_mask(str(tmp_path / "m.nii.gz"), labels, geometry)
    assert not list(tmp_path.iterdir())


def test_dropped_values_are_background(tmp_path: Path, save: Save) -> None:
    labels = save(tmp_path / "l.nii.gz", np.array([0, 1, 2, 3], np.uint8).reshape(4, 1, 1), affine_of("LPS"))
    scan = save(tmp_path / "x.nii.gz", np.zeros((4, 1, 1), np.int16), affine_of("LPS"))
    case = formats.read_case(CaseSource("x", scan, labels=labels, dropped=(2,)), None)
    assert case.labels is not None
    assert case.labels.ravel().tolist() == [0, 1, 0, 3]


def test_mask_can_be_written_plain(tmp_path: Path) -> None:
    geometry = Geometry(affine_of("RAS"), (3, 4, 5))
    labels = np.random.default_rng(0).integers(0, 9, geometry.size).astype(np.uint8)
    formats.write_mask(str(tmp_path / "m.nii"), labels, geometry)
    assert (tmp_path / "m.nii").stat().st_size == 352 + 60
    assert np.array_equal(formats.read_mask(str(tmp_path / "m.nii"), geometry)[0], labels)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "AIL", "SRP"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_masks_that_threads_pack_in_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: str, suffix: str
) -> None:
    monkeypatch.setattr("segray.formats.nifti_voxels.SPAN_BYTES", 400)
    monkeypatch.setattr("segray.formats.nifti_voxels.SLAB_BYTES", 300)
    monkeypatch.setattr("segray.formats.nifti_voxels.WRITTEN_PLANES", 2)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4))
    geometry = Geometry(affine_of(codes), (16, 9, 13))
    for dtype in (np.uint8, np.uint16):
        labels = np.random.default_rng(3).integers(0, 200, geometry.size).astype(dtype)
        labels[2:5] = 0
        path = str(tmp_path / f"m.{suffix}")
        formats.write_mask(path, labels, geometry)
        assert np.array_equal(np.asarray(nib.load(path).dataobj), geometry.from_lps(labels))
