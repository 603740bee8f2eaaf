"""Files that hold no usable case: each is told in one sentence, none with a traceback or a gigabyte."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from made_niftis import Array, affine_of

from segray import formats
from segray.errors import CaseError
from segray.formats.source import CaseSource


def file_of(array: Array, edit: Callable[[Any], None] = lambda header: None, size: int = 348) -> bytes:
    """An uncompressed NIfTI file whose header was edited byte by byte."""
    kind: Any = nib.Nifti1Image if size == 348 else nib.Nifti2Image
    data = bytearray(kind(array, affine_of("RAS")).to_bytes())
    header = kind.header_class(bytes(data[:size]), check=False)
    edit(header)
    data[:size] = header.binaryblock
    return bytes(data)


def fields(**values: Any) -> Callable[[Any], None]:
    def edit(header: Any) -> None:
        for name, value in values.items():
            header[name] = value

    return edit


def no_space(header: Any) -> None:
    header["pixdim"] = 0
    header["sform_code"] = header["qform_code"] = 0


def nan_affine(header: Any) -> None:
    header["srow_x"] = np.nan
    header["qform_code"] = 0
    header["pixdim"][1:4] = np.nan


SCAN = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
HUGE = [3, 32767, 32767, 32767, 1, 1, 1, 1]
RGB = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])

BAD = {
    "empty": (b"", "is empty"),
    "text": (b"hello world, this is no volume" * 20, "is no NIfTI file"),
    "short": (file_of(SCAN)[:200], "ends too early"),
    "cut": (file_of(SCAN)[:-10], "too small for its header|ends too early"),
    "huge": (file_of(SCAN, fields(dim=HUGE)), "too small for its header"),
    "rgb": (file_of(RGB), r"colours \(RGB\)"),
    "complex": (file_of(SCAN.astype(np.complex64)), "complex numbers"),
    "long double": (file_of(SCAN, fields(datatype=1536)), "float128|unknown voxel type"),
    "binary": (file_of(SCAN, fields(datatype=1)), "unknown voxel type"),
    "unknown type": (file_of(SCAN, fields(datatype=999)), "unknown voxel type"),
    "4d": (file_of(np.zeros((3, 4, 5, 40), np.int16)), "40 volumes"),
    "5d": (file_of(np.zeros((3, 4, 5, 1, 3), np.int16)), "3 volumes"),
    "1d": (file_of(SCAN, fields(dim=[1, 60, 1, 1, 1, 1, 1, 1])), "holds no volume"),
    "no axis": (file_of(SCAN, fields(dim=[3, 3, 0, 5, 1, 1, 1, 1])), "holds no volume"),
    "negative": (file_of(SCAN, fields(dim=[3, -3, 4, 5, 1, 1, 1, 1])), "shape"),
    "no space": (file_of(SCAN, no_space), "no usable affine"),
    "nan affine": (file_of(SCAN, nan_affine), "no usable affine"),
    "offset": (file_of(SCAN, fields(vox_offset=100)), "voxel offset"),
    "nan offset": (file_of(SCAN, fields(vox_offset=np.nan)), "voxel offset"),
    "far offset": (file_of(SCAN, fields(vox_offset=1e30)), "too small for its header"),
    "inter": (file_of(SCAN, fields(scl_slope=1, scl_inter=np.inf)), "scl_inter"),
    "pair": (file_of(SCAN, fields(magic=b"ni1")), r"\.hdr/\.img"),
    "nifti-2 pair": (file_of(SCAN, fields(magic=b"ni2"), 540), r"\.hdr/\.img"),
    "all nan": (file_of(np.full((3, 4, 5), np.nan, np.float32)), "no finite voxel"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_one_sentence(tmp_path: Path, name: str, packed: bool) -> None:
    data, words = BAD[name]
    path = tmp_path / ("x.nii.gz" if packed else "x.nii")
    path.write_bytes(gzip.compress(data) if packed and data else data)
    with pytest.raises(CaseError, match=words) as caught:
        formats.read_image(formats.lone_image(str(path)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_unedited_file_is_good(tmp_path: Path) -> None:
    (tmp_path / "x.nii").write_bytes(file_of(SCAN))
    assert formats.read_image(formats.lone_image(str(tmp_path / "x.nii"))).geometry.shape == (3, 4, 5)


def test_claims_of_a_small_file_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(file_of(SCAN, fields(dim=HUGE))))
    tracemalloc.start()
    with pytest.raises(CaseError, match="32767x32767x32767"):
        formats.read_image(formats.lone_image(str(path)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


def test_wrong_checksum_is_told(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(file_of(SCAN)))
    data[-6] ^= 255
    (tmp_path / "x.nii.gz").write_bytes(bytes(data))
    with pytest.raises(CaseError, match="damaged"):
        formats.read_image(formats.lone_image(str(tmp_path / "x.nii.gz")))


@pytest.mark.parametrize("cut", range(1, 200, 7))
def test_a_file_cut_anywhere_is_told(tmp_path: Path, cut: int) -> None:
    data = gzip.compress(file_of(np.random.default_rng(0).integers(0, 99, (4, 4, 4)).astype(np.int16)))
    (tmp_path / "x.nii.gz").write_bytes(data[:-cut])
    with pytest.raises(CaseError):
        formats.read_image(formats.lone_image(str(tmp_path / "x.nii.gz")))


def test_random_bytes_in_a_header_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = file_of(SCAN)
    for trial in range(300):
        data = bytearray(good)
        for at in rng.integers(4, 344, 12):
            data[at] = rng.integers(0, 256)
        path = tmp_path / f"{trial}.nii"
        path.write_bytes(bytes(data))
        try:
            formats.read_image(formats.lone_image(str(path)))
        except CaseError:
            continue


def test_absent_image_is_told() -> None:
    for reading in (formats.read_header, lambda source: formats.read_case(source, None)):
        with pytest.raises(CaseError, match="cannot be read"):
            reading(CaseSource("x", "/nowhere/x.nii.gz"))
