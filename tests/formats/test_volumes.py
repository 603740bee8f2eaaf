"""NRRD and MetaImage: SimpleITK's own answer is what segray reads; what it would pass on in silence is refused."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from isal import isal_zlib
from made_niftis import Array, Save, affine_of

from segray import formats
from segray.case import LabelMap
from segray.errors import CaseError
from segray.formats import limits
from segray.formats.folder import file_state
from segray.formats.source import CaseSource
from segray.formats.volume_header import parse_volume_header
from segray.formats.volumes import read_volume_labels

DIRECTION = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)
ENDINGS = ("nrrd", "mha", "mhd")
SCAN = np.random.default_rng(0).integers(-1000, 1000, (5, 4, 3)).astype(np.int16)


def written(path: Path, array: Array = SCAN, *, packed: bool = False, vector: bool = False) -> str:
    """An array (k, j, i) as ITK writes it, on an oblique grid."""
    image = sitk.GetImageFromArray(array, isVector=vector)
    if image.GetDimension() == 3:
        image.SetDirection(DIRECTION)
        image.SetSpacing((1.5, 2.0, 3.0))
        image.SetOrigin((-11.0, 7.5, 100.25))
    sitk.WriteImage(image, str(path), useCompression=packed)
    return str(path)


def source(path: str, **more: Any) -> CaseSource:
    return CaseSource("x", path, kind="volume", **more)


def as_nifti(path: str, target: Path) -> str:
    """The same file as NIfTI, by ITK."""
    sitk.WriteImage(sitk.ReadImage(path), str(target))
    return str(target)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32", "uint16", "int64", "uint64", "float32", "float64"])
def test_a_volume_equals_the_nifti_that_itk_makes_of_it(tmp_path: Path, ending: str, packed: bool, dtype: str) -> None:
    path = written(tmp_path / f"x.{ending}", np.abs(SCAN // 8).astype(dtype), packed=packed)
    case = formats.read_image(formats.lone_image(path))
    nifti = formats.read_image(formats.lone_image(as_nifti(path, tmp_path / "y.nii")))
    assert case.voxels.dtype == np.int16
    assert np.array_equal(case.voxels, nifti.voxels)
    assert np.allclose(case.geometry.affine, nifti.geometry.affine, atol=1e-4)
    header = formats.read_header(source(path))
    assert (header.size, header.spacing) == (case.voxels.shape, pytest.approx(nifti.geometry.spacing))


def test_fractions_stay(tmp_path: Path) -> None:
    path = written(tmp_path / "x.nrrd", SCAN.astype(np.float64) / 4)
    case = formats.read_image(formats.lone_image(path))
    assert case.voxels.dtype == np.float32
    assert set(np.unique(case.voxels * 4)) == set(np.unique(SCAN))


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_big_endian(tmp_path: Path, ending: str) -> None:
    path = Path(written(tmp_path / f"x.{ending}"))
    data = path.read_bytes().replace(b"endian: little", b"endian: big").replace(b"MSB = False", b"MSB = True")
    path.write_bytes(data[: -SCAN.nbytes] + SCAN.astype(">i2").tobytes())
    other = formats.read_image(formats.lone_image(written(tmp_path / f"y.{ending}")))
    assert np.array_equal(formats.read_image(formats.lone_image(str(path))).voxels, other.voxels)


@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_one_slice_is_a_volume(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"x.{ending}", SCAN[0])
    case = formats.read_image(formats.lone_image(path))
    assert np.array_equal(case.voxels, SCAN[:1])
    formats.write_mask(str(tmp_path / "m.nii.gz"), (case.voxels > 0).astype(np.uint8), case.geometry)
    assert nib.load(tmp_path / "m.nii.gz").shape == SCAN[0].T.shape  # type: ignore[attr-defined]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_decoy_beside_the_file_is_not_opened(tmp_path: Path, save: Save, ending: str) -> None:
    path = written(tmp_path / f"x.{ending}")
    save(tmp_path / "x.nii", np.full((3, 4, 5), 9, np.int16))
    save(tmp_path / f"x.{ending}.nii", np.full((3, 4, 5), 9, np.int16))
    for other in set(ENDINGS) - {ending, "mhd"}:
        written(tmp_path / f"x.{other}", np.full_like(SCAN, 9))
    (tmp_path / "header.mha").write_bytes(b"decoy")
    assert 9 not in np.unique(formats.read_image(formats.lone_image(path)).voxels[SCAN[::-1] != 9])
    assert formats.read_image(formats.lone_image(path)).voxels.min() == SCAN.min()


def test_a_mask_lies_on_its_volume(tmp_path: Path) -> None:
    path = written(tmp_path / "x.nrrd")
    case = formats.read_image(formats.lone_image(path))
    formats.write_mask(str(tmp_path / "m.nii.gz"), (case.voxels > 0).astype(np.uint8), case.geometry)
    mask = sitk.ReadImage(str(tmp_path / "m.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(mask), SCAN > 0)
    assert np.allclose(mask.GetOrigin(), (-11.0, 7.5, 100.25), atol=1e-4)
    assert np.allclose(mask.GetDirection(), DIRECTION, atol=1e-4)


def test_labels_and_image_may_be_of_different_formats(tmp_path: Path) -> None:
    values = (SCAN > 500).astype(np.uint8) * 3
    labels = written(tmp_path / "l.nrrd", values, packed=True)
    scan = as_nifti(written(tmp_path / "x.mha"), tmp_path / "x.nii.gz")
    mixed = CaseSource("x", scan, labels=labels, label_kind="volume")
    case = formats.read_case(mixed, None)
    assert case.labels is not None
    assert np.array_equal(case.labels == 3, case.voxels > 500)
    assert formats.label_values(mixed) == [3]
    bits = formats.read_case(mixed, LabelMap({"a": 2, "b": 3}), overlap="keep").labels
    assert bits is not None
    assert np.array_equal(bits == 2, case.voxels > 500)


@pytest.mark.parametrize("overlap", ["smallest", "refuse", "keep"])
def test_masks_of_mixed_formats_are_those_of_nifti(tmp_path: Path, overlap: str) -> None:
    scan = written(tmp_path / "x.nrrd")
    inside = {"big": SCAN > 0, "small": SCAN > 800, "apart": SCAN < -900}
    names = list(inside) if overlap != "refuse" else ["small", "apart"]
    masks = {name: written(tmp_path / f"{name}.nrrd", inside[name].astype(np.uint8)) for name in names}
    masks["apart"] = as_nifti(masks["apart"], tmp_path / "apart.nii.gz")
    label_map = LabelMap.of_names(names)
    case = formats.read_case(source(scan, masks=masks), label_map, overlap=overlap)
    other = {name: as_nifti(path, tmp_path / f"n_{name}.nii.gz") for name, path in masks.items()}
    nifti = CaseSource("x", as_nifti(scan, tmp_path / "x.nii.gz"), masks=other)
    expected = formats.read_case(nifti, label_map, overlap=overlap)
    assert np.array_equal(case.labels, expected.labels)
    assert [note for note in case.notes if "overlap" in note] == [note for note in expected.notes if "overlap" in note]


def test_masks_that_overlap_are_refused_where_the_user_says_so(tmp_path: Path) -> None:
    masks = {name: written(tmp_path / f"{name}.nrrd", np.ones_like(SCAN)) for name in "ab"}
    with pytest.raises(CaseError, match="masks of a and b overlap"):
        formats.read_case(source(written(tmp_path / "x.nrrd"), masks=masks), None, overlap="refuse")


@pytest.mark.parametrize("change", ["shape", "grid"])
def test_labels_elsewhere_are_refused(tmp_path: Path, change: str) -> None:
    labels = written(tmp_path / "l.nrrd", np.ones((5, 4, 4) if change == "shape" else (5, 4, 3), np.uint8))
    if change == "grid":
        text = Path(labels).read_bytes().replace(b"space origin: (-11,", b"space origin: (-19,")
        Path(labels).write_bytes(text)
    with pytest.raises(CaseError, match="its image"):
        formats.read_case(source(written(tmp_path / "x.nrrd"), labels=labels), None)


NRRD = (
    b"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 3 4 5\n"
    b"space directions: (1,0,0) (0,2,0) (0,0,3)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
    b"space origin: (5,6,7)\n\n"
)
META = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
    b"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 5 6 7\nElementSpacing = 1 2 3\nDimSize = 3 4 5\n"
    b"ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)
BODY = SCAN.tobytes()

BAD_NRRD = {
    "empty": (lambda data: b"", "is empty"),
    "text": (lambda data: b"no volume at all" * 9, "is no NRRD file"),
    "endless": (lambda data: data[:90], "without an end"),
    "cut": (lambda data: data[:-3], "too small for its header"),
    "huge": (lambda data: data.replace(b"3 4 5", b"32767 32767 32767"), "too small for its header"),
    "beyond all": (lambda data: data.replace(b"3 4 5", b"9" * 300 + b" 1 1"), "too small|incomplete or wrong"),
    "no sizes": (lambda data: data.replace(b"sizes: 3 4 5\n", b""), "incomplete or wrong"),
    "words": (lambda data: data.replace(b"3 4 5", b"3 four 5"), "incomplete or wrong"),
    "nothing": (lambda data: data.replace(b"3 4 5", b"3 0 5"), "valid shape"),
    "negative": (lambda data: data.replace(b"3 4 5", b"3 -4 5"), "valid shape"),
    "other number": (lambda data: data.replace(b"3 4 5", b"12 5"), "valid shape"),
    "4d": (lambda data: data.replace(b"3 4 5", b"3 4 5 1").replace(b"on: 3", b"on: 4"), "4 axes"),
    "5d": (lambda data: data.replace(b"3 4 5", b"3 4 5 1 1").replace(b"on: 3", b"on: 5"), "5 axes"),
    "vector": (lambda data: data.replace(b"kinds: domain", b"kinds: vector"), "vector x domain"),
    "colours": (lambda data: data.replace(b"kinds: domain", b"kinds: RGB-color"), "rgb-color"),
    "complex": (lambda data: data.replace(b"kinds: domain", b"kinds: complex"), "complex x domain"),
    "half": (lambda data: data.replace(b"type: short", b"type: float16"), "'float16'"),
    "block": (lambda data: data.replace(b"type: short", b"type: block"), "'block'"),
    "bzip2": (lambda data: data.replace(b"encoding: raw", b"encoding: bzip2"), "'bzip2'"),
    "elsewhere": (lambda data: data.replace(b"encoding", b"data file: /etc/passwd\nencoding"), "another file"),
    "skip": (lambda data: data.replace(b"encoding", b"byte skip: -1\nencoding"), "skips bytes"),
    "not packed": (lambda data: data.replace(b"encoding: raw", b"encoding: gzip"), "too small|damaged|cut off"),
    "zero spacing": (lambda data: data.replace(b"(0,2,0)", b"(0,0,0)"), "no usable affine|ITK does not"),
    "nan spacing": (lambda data: data.replace(b"(0,2,0)", b"(0,nan,0)"), "no usable affine|ITK does not"),
    "nan origin": (lambda data: data.replace(b"(5,6,7)", b"(nan,6,7)"), "no usable affine|ITK does not"),
    "one direction": (lambda data: data.replace(b"(0,2,0)", b"(1,0,0)"), "no usable affine|ITK does not"),
    "odd line": (lambda data: data.replace(b"space: left", b"spice: left"), "ITK does not understand"),
}
BAD_META = {
    "empty": (lambda data: b"", "is empty"),
    "text": (lambda data: b"no volume at all" * 9, "is no MetaImage file"),
    "cut": (lambda data: data[:-3], "too small for its header"),
    "huge": (lambda data: data.replace(b"3 4 5", b"32767 32767 32767"), "too small for its header"),
    "no size": (lambda data: data.replace(b"DimSize = 3 4 5\n", b""), "incomplete or wrong"),
    "nothing": (lambda data: data.replace(b"3 4 5", b"3 0 5"), "valid shape"),
    "5d": (lambda data: data.replace(b"3 4 5", b"3 4 5 1 1").replace(b"NDims = 3", b"NDims = 5"), "5 axes"),
    "vector": (lambda data: b"ElementNumberOfChannels = 3\n" + data, "vectors or colours"),
    "type": (lambda data: data.replace(b"MET_SHORT", b"MET_FLOAT_ARRAY"), "'MET_FLOAT_ARRAY'"),
    "ascii": (lambda data: data.replace(b"BinaryData = True", b"BinaryData = False"), "voxels as text"),
    "zero spacing": (lambda data: data.replace(b"= 1 2 3", b"= 1 0 3"), "zero, negative"),
    "negative spacing": (lambda data: data.replace(b"= 1 2 3", b"= 1 -2 3"), "zero, negative"),
    "nan spacing": (lambda data: data.replace(b"= 1 2 3", b"= 1 nan 3"), "zero, negative"),
    "nan offset": (lambda data: data.replace(b"= 5 6 7", b"= nan 6 7"), "not finite"),
    "flat": (lambda data: data.replace(b"1 0 0 0 1 0 0 0 1", b"1 0 0 1 0 0 0 0 1"), "no usable affine|ITK does not"),
    "elsewhere": (lambda data: data.replace(b"LOCAL", b"/etc/passwd"), "outside of its own folder"),
    "above": (lambda data: data.replace(b"LOCAL", b"../x.raw"), "outside of its own folder"),
    "nowhere": (lambda data: data.replace(b"LOCAL", b""), "does not say which file"),
    "list": (lambda data: data.replace(b"LOCAL", b"LIST"), "several files"),
    "pattern": (lambda data: data.replace(b"LOCAL", b"x%03d.raw 1 5 1"), "several files"),
    "absent": (lambda data: data.replace(b"LOCAL", b"gone.raw"), "cannot be read"),
    "packed": (lambda data: data.replace(b"CompressedData = False", b"CompressedData = True"), "damaged"),
}
BAD = [(f"x.{end}", *bad) for end, table in (("nrrd", BAD_NRRD), ("mha", BAD_META)) for bad in table.values()]


@pytest.mark.parametrize(("name", "edit", "words"), BAD)
def test_bad_file_is_one_sentence(tmp_path: Path, name: str, edit: Any, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(edit((NRRD if name.endswith("nrrd") else META) + BODY))
    with pytest.raises(CaseError, match=words) as caught:
        formats.read_image(formats.lone_image(str(path)))
    assert str(path) in str(caught.value) or "gone.raw" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "head"), [("x.nrrd", NRRD), ("x.mha", META)])
def test_the_unedited_file_is_good(tmp_path: Path, name: str, head: bytes) -> None:
    (tmp_path / name).write_bytes(head + BODY)
    case = formats.read_image(formats.lone_image(str(tmp_path / name)))
    assert np.array_equal(case.voxels, SCAN)
    assert case.geometry.affine[:3, 3].tolist() == [-5, -6, 7]


def packed_files() -> dict[str, bytes]:
    nrrd = NRRD.replace(b"raw", b"gzip") + gzip.compress(BODY)
    return {
        "x.nrrd": nrrd,
        "x.mha": META.replace(b"CompressedData = False", b"CompressedData = True") + zlib.compress(BODY),
    }


@pytest.mark.parametrize("name", ["x.nrrd", "x.mha"])
def test_damage_that_itk_hands_on_is_told(tmp_path: Path, name: str) -> None:
    data = packed_files()[name]
    path = tmp_path / name
    path.write_bytes(data)
    assert np.array_equal(formats.read_image(formats.lone_image(str(path))).voxels, SCAN)
    for place in (-1, -4, -20, -60):
        broken = bytearray(data)
        broken[place] ^= 255
        path.write_bytes(bytes(broken))
        with pytest.raises(CaseError, match=r"damaged|too early|cut off"):
            formats.read_image(formats.lone_image(str(path)))
    for cut in (1, 6, 40):
        path.write_bytes(data[:-cut])
        with pytest.raises(CaseError, match=r"damaged|too early|cut off|too small"):
            formats.read_image(formats.lone_image(str(path)))


def test_voxels_of_an_mhd_may_end_their_file(tmp_path: Path) -> None:
    (tmp_path / "x.mhd").write_bytes(META.replace(b"LOCAL", b"x.raw").replace(b"NDims", b"HeaderSize = -1\nNDims"))
    (tmp_path / "x.raw").write_bytes(b"some header" + BODY)
    assert np.array_equal(formats.read_image(formats.lone_image(str(tmp_path / "x.mhd"))).voxels, SCAN)


def test_a_changed_raw_file_changes_the_fingerprint(tmp_path: Path) -> None:
    path = written(tmp_path / "x.mhd")
    before = source(path).fingerprint()
    (tmp_path / "x.raw").write_bytes(b"other")
    assert source(path).fingerprint() != before


@pytest.mark.parametrize("as_label", [False, True])
def test_voxels_under_another_name_change_the_fingerprint(tmp_path: Path, as_label: bool) -> None:
    (tmp_path / "x.mhd").write_bytes(META.replace(b"LOCAL", b"voxels of x.raw"))
    voxels = tmp_path / "voxels of x.raw"
    voxels.write_bytes(BODY)
    path = str(tmp_path / "x.mhd")
    case = source(written(tmp_path / "y.nrrd"), labels=path) if as_label else source(path)
    before = case.fingerprint()
    assert case.fingerprint() == before
    voxels.write_bytes((SCAN + 1).tobytes())
    os.utime(voxels, ns=(1, 1))
    changed = case.fingerprint()
    assert changed != before
    voxels.unlink()
    assert case.fingerprint() not in (before, changed)


def test_a_header_that_names_other_voxels_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.mhd"
    seen = set()
    for name in ("first.raw", "second.raw"):
        path.write_bytes(META.replace(b"LOCAL", name.encode()))
        (tmp_path / name).write_bytes(BODY)
        for stamp in (1, 2):
            os.utime(tmp_path / name, ns=(stamp, stamp))
            seen.add(source(str(path)).fingerprint())
    assert len(seen) == 4


@pytest.mark.parametrize("told", ["../other.raw", "sub/other.raw", "LIST", "", "LOCAL", "x.raw"])
def test_no_other_file_is_in_the_fingerprint_than_those_that_are_read(tmp_path: Path, told: str) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    path = tmp_path / "in" / "x.mhd"
    path.write_bytes(META.replace(b"LOCAL", told.encode()))
    asked: list[str] = []

    def state_of(file: str) -> tuple[int, int]:
        asked.append(Path(file).name)
        return file_state(file)

    source(str(path)).fingerprint(state_of)
    assert asked == ["x.mhd", "x.raw", "x.zraw"]


def test_nothing_is_read_of_a_header_that_lies(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="without an end"):
        parse_volume_header(b"NRRD0004\n" + b"#" * 200_000, "x.nrrd")


def test_the_affine_is_that_of_nifti(tmp_path: Path, save: Save) -> None:
    affine = affine_of("PSL")
    nifti = save(tmp_path / "x.nii", np.zeros((3, 4, 5), np.int16), affine)
    sitk.WriteImage(sitk.ReadImage(nifti), str(tmp_path / "x.nrrd"))
    assert np.allclose(formats.read_header(source(str(tmp_path / "x.nrrd"))).geometry.affine, affine, atol=1e-5)


def claiming(path: Path, sides: bytes, stored: int) -> str:
    """A packed scan of which only the header is true: it claims ``sides``, and ``stored`` bytes follow."""
    if path.suffix == ".nrrd":
        head = NRRD.replace(b"raw", b"gzip")
    else:
        head = META.replace(b"CompressedData = False", b"CompressedData = True")
    with open(path, "wb") as stream:
        stream.write(head.replace(b"3 4 5", sides))
        stream.truncate(stream.tell() + stored)
    return str(path)


@pytest.mark.parametrize("name", ["x.nrrd", "x.mha"])
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On a machine whose memory would hold it: else it would shape the grid of the others."""
    monkeypatch.setattr(limits, "machine_memory", lambda: 1 << 40)
    path = claiming(tmp_path / name, b"20000 20000 8", 7_000_000)
    for read in (formats.read_header, formats.read_image):
        with pytest.raises(CaseError, match=r"would expand 914 times, to 6\.4 GB"):
            read(source(path))
    less = claiming(tmp_path / name, b"20000 20000 8", 20_000_000)
    assert formats.read_header(source(less)).size == (8, 20000, 20000)


def test_a_claim_beyond_the_memory_is_refused_by_the_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.nrrd")
    monkeypatch.setattr(limits, "machine_memory", lambda: SCAN.nbytes - 1)
    with pytest.raises(CaseError, match="this machine has"):
        formats.read_header(source(path))


def empty_labels(path: Path, planes: int) -> CaseSource:
    """A case whose labels are 1024 x 1024 x ``planes`` zeros, packed into a thousandth, which its image lacks."""
    claim = f"1024 1024 {planes}".encode()
    zeros = bytes(1 << 24)
    if path.suffix == ".nrrd":
        head = NRRD.replace(b"raw", b"gzip").replace(b"short", b"uchar")
        body = gzip.compress(zeros, 9) * (planes // 16)
    else:
        head = META.replace(b"CompressedData = False", b"CompressedData = True").replace(b"MET_SHORT", b"MET_UCHAR")
        packer = isal_zlib.compressobj(1)
        body = b"".join([packer.compress(zeros) for _ in range(planes // 16)]) + packer.flush()
    path.write_bytes(head.replace(b"3 4 5", claim) + body)
    return source(written(path.with_name("x.nrrd")), labels=str(path))


@pytest.mark.parametrize("name", ["l.nrrd", "l.mha"])
@pytest.mark.parametrize("planes", [96, 1600])
def test_label_values_are_gathered_without_holding_the_labels(tmp_path: Path, name: str, planes: int) -> None:
    case = empty_labels(tmp_path / name, planes)
    assert Path(str(case.labels)).stat().st_size < 2_500_000
    tracemalloc.start()
    if planes == 96:
        assert formats.label_values(case) == []
    else:
        with pytest.raises(CaseError, match="would expand"):
            formats.label_values(case)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000


@pytest.mark.parametrize("name", ["l.nrrd", "l.mha"])
def test_labels_on_no_grid_that_expand_without_end_are_refused(tmp_path: Path, name: str) -> None:
    case = empty_labels(tmp_path / name, 1600)
    tracemalloc.start()
    with pytest.raises(CaseError, match="would expand"):
        read_volume_labels(str(case.labels), None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000
