"""The header of a NIfTI-1 or NIfTI-2 file: what lies where, on which grid, and what is odd about it."""

from __future__ import annotations

import math
import operator
import struct
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from segray.case import Geometry
from segray.errors import CaseError
from segray.formats.gzip_bytes import ByteReader

SIZES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
MAGICS = {348: b"n+1\0", 540: b"n+2\0\r\n\x1a\n"}
READABLE = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"})

DISAGREE = 1e-2
"""Voxels by which qform and sform may differ without a note."""

SHEAR = 1e-3
"""Cosine between two axes from which the grid counts as sheared."""

SINGULAR = 1e-6
"""Determinant over the product of the axis lengths below which an affine spans no volume."""


@dataclass(frozen=True)
class NiftiHeader:
    """A parsed header.

    Attributes:
        raw: the 348 or 540 bytes as they lie in the file.
        dtype: the type of a stored voxel, with its byte order.
        offset: where the voxels start, in bytes.
        slope: stored value times slope plus inter is the value.
        inter: see ``slope``.
        geometry: the grid.
        notes: what was repaired or is odd, one sentence each.
        volumes: volumes on this grid that follow one another in the file.
    """

    raw: bytes
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    geometry: Geometry
    notes: tuple[str, ...]
    volumes: int = 1

    @property
    def identity(self) -> bool:
        """True where the stored values are the values."""
        return self.slope == 1.0 and self.inter == 0.0

    @property
    def count(self) -> int:
        """Voxels of one volume."""
        return math.prod(self.geometry.shape)

    @property
    def voxel_bytes(self) -> int:
        """Bytes of one volume once read: 2 a voxel where int16 surely holds it, else at most 4."""
        narrow = self.identity and self.dtype.str[1:] in {"u1", "i1", "i2"}
        return self.count * (2 if narrow else 4)


def read_header(reader: ByteReader, *, most_volumes: int = 1) -> NiftiHeader:
    """Read and check the header at the start of ``reader``.

    Args:
        reader: the file.
        most_volumes: volumes (the fourth axis) that the file may hold.

    Raises:
        CaseError: no NIfTI, a type or shape that holds no CT volume, no usable affine, less data than it claims.
    """
    raw = reader.read(4)
    size = next((s for s in SIZES for order in "<>" if struct.unpack(f"{order}i", raw)[0] == s), None)
    if size is None:
        raise CaseError(f"{reader.name} is no NIfTI file: its first bytes are no NIfTI header.")
    header = parse_header(raw + reader.read(size - 4), reader.name, most_volumes=most_volumes)
    needed = header.offset + header.volumes * header.count * header.dtype.itemsize
    if needed > reader.most:
        raise CaseError(
            f"{reader.name} is too small for its header, which claims {_shown(header.geometry.shape)} voxels.",
            mend="Copy it again from its source.",
        )
    return header


def parse_header(raw: bytes, name: str, *, most_volumes: int = 1) -> NiftiHeader:
    """Check the 348 or 540 bytes of a header. Raises CaseError as :func:`read_header`."""
    size = len(raw)
    if not raw[-len(MAGICS[size]) :] == MAGICS[size] if size == 348 else raw[4:12] != MAGICS[size]:
        raise CaseError(
            f"{name} is an Analyze file or half of a .hdr/.img pair; segray reads single NIfTI files.",
            mend="Convert it to .nii.gz.",
        )
    header = SIZES[size](raw, check=False)
    dtype = _dtype(header, name)
    stored, shape, volumes = _shape(header, name, most_volumes)
    slope, inter = _scaling(header, name)
    affine, notes = _affine(header, shape, name)
    geometry = Geometry(affine=affine, shape=shape, stored_shape=stored, header=_of_one_volume(header, raw, volumes))
    return NiftiHeader(raw, dtype, _offset(header, size, name), slope, inter, geometry, tuple(notes), volumes)


def _of_one_volume(header: Any, raw: bytes, volumes: int) -> bytes:
    """The header that a mask of the case gets: three axes, all else as it is."""
    if volumes == 1:
        return raw
    header["dim"][0] = 3
    header["dim"][4:] = 1
    return bytes(header.binaryblock)


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)


def _dtype(header: Any, name: str) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError):
        dtype = np.dtype("V0")
    if dtype.itemsize == 0:
        raise CaseError(f"{name} has an unknown voxel type (code {int(header['datatype'])}).")
    if dtype.str[1:] in READABLE:
        return dtype
    if dtype.fields is not None:
        kind = "colours (RGB)"
    elif dtype.kind == "c":
        kind = "complex numbers"
    else:
        kind = str(dtype)
    raise CaseError(
        f"{name} holds {kind}; segray reads one real number a voxel.",
        mend="Convert it to int16 or float32 (of complex data: take the magnitude).",
    )


def _shape(header: Any, name: str, most_volumes: int) -> tuple[tuple[int, ...], tuple[int, int, int], int]:
    """The shape that a mask is written in, that of one volume, and the number of volumes."""
    try:
        stored = tuple(int(side) for side in header.get_data_shape())
    except (HeaderDataError, ValueError) as error:
        raise CaseError(f"{name} has a header without a valid shape.") from error
    if len(stored) < 2 or min(stored) < 1:
        raise CaseError(f"{name} holds no volume: its shape is {_shown(stored) or 'empty'}.")
    i, j, k = (*stored, 1)[:3]
    volumes = math.prod(stored[3:])
    if volumes == 1:
        return stored, (i, j, k), 1
    if len(stored) > 4 or volumes > most_volumes:
        room = "one volume" if most_volumes == 1 else f"up to {most_volumes} volumes"
        raise CaseError(
            f"{name} holds {volumes} volumes ({_shown(stored)}); segray reads {room} of such a file.",
            mend="Split it, one file a volume.",
        )
    return (i, j, k), (i, j, k), volumes


def _scaling(header: Any, name: str) -> tuple[float, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not math.isfinite(slope) or slope == 0.0:
        return 1.0, 0.0
    if not math.isfinite(inter):
        raise CaseError(f"{name} has the intensity offset {inter} (scl_inter) in its header.")
    return slope, inter


def _offset(header: Any, size: int, name: str) -> int:
    offset = float(header["vox_offset"])
    if offset == 0.0:
        return size + 4
    if not math.isfinite(offset) or offset < size or offset != int(offset):
        raise CaseError(f"{name} has an impossible voxel offset ({offset:g}) in its header.")
    return int(offset)


def spans_volume(affine: NDArray[np.float64] | None) -> bool:
    """True for an affine of finite numbers whose axes have a length and point in three directions."""
    # Plain floats: on nine numbers each call of numpy takes longer than all of this.
    rows: list[list[float]] = [] if affine is None else affine.tolist()
    if not rows or not all(math.isfinite(value) for row in rows for value in row):
        return False
    (a, b, c, _), (d, e, f, _), (g, h, i, _) = rows[:3]
    lengths = [math.sqrt(x * x + y * y + z * z) for x, y, z in ((a, d, g), (b, e, h), (c, f, i))]
    if not all(0.0 < length < math.inf for length in lengths):
        return False
    determinant = abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    return determinant > SINGULAR * math.prod(lengths)


def _qform(header: Any) -> NDArray[np.float64] | None:
    try:
        with np.errstate(all="ignore"):
            return np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError, np.linalg.LinAlgError):
        return None


def _affine(header: Any, shape: tuple[int, int, int], name: str) -> tuple[NDArray[np.float64], list[str]]:
    """The affine as nibabel chooses it (sform, qform, pixdim), the next one where it spans no volume."""
    forms: list[tuple[str, NDArray[np.float64] | None]] = []
    if int(header["sform_code"]) > 0:
        forms.append(("sform", np.asarray(header.get_sform(), dtype=np.float64)))
    if int(header["qform_code"]) > 0:
        forms.append(("qform", _qform(header)))
    replaced = "The {} is used, because the {} spans no volume."
    for position, (words, affine) in enumerate(forms):
        if affine is not None and spans_volume(affine):
            notes = [replaced.format(words, forms[0][0])] if position else []
            return affine, notes + _oddities(forms, position, affine, shape)
    affine = _pixdim_affine(header, shape)
    if spans_volume(affine):
        if forms:
            return affine, [replaced.format("voxel sizes (pixdim)", forms[0][0])]
        return affine, ["The header gives no orientation; the voxel sizes are used and the axes taken as LAS."]
    raise CaseError(
        f"{name} has no usable affine: its sform, qform and voxel sizes are zero, negative, infinite or flat.",
        mend="Set the voxel sizes in its header.",
    )


def _pixdim_affine(header: Any, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Nibabel's base affine; the missing thickness of a single slice counts as 1 mm, negative sizes as none."""
    zooms = np.array(header["pixdim"][1:4], dtype=np.float64)
    if shape[2] == 1 and zooms[2] == 0.0:
        zooms[2] = 1.0
    if not (zooms > 0).all():
        # A negative size would mirror the axis: the header says nothing that could be trusted.
        zooms[:] = 0.0
    zooms[0] = -zooms[0]
    affine = np.diag([*zooms, 1.0])
    with np.errstate(all="ignore"):
        affine[:3, 3] = -zooms * (np.array(shape) - 1) / 2.0
    return affine


def _oddities(
    forms: list[tuple[str, NDArray[np.float64] | None]],
    chosen: int,
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
) -> list[str]:
    notes = []
    other = forms[1][1] if chosen == 0 and len(forms) == 2 else None
    if other is not None and spans_volume(other):
        # A file that was written in one go has both alike, up to the rounding of the quaternion.
        voxels = grid_distance(affine, other, shape) if not np.array_equal(affine, other) else 0.0
        if voxels > DISAGREE:
            notes.append(f"qform and sform disagree by up to {voxels:.2f} voxels; the sform is used.")
    elif chosen == 0 and len(forms) == 2:
        notes.append("The qform is not valid; the sform is used.")
    cosine = _shear(affine)
    if cosine > SHEAR:
        degrees = math.degrees(math.asin(min(cosine, 1.0)))
        notes.append(f"The axes are sheared by {degrees:.1f} degrees; the grid is used as it is.")
    return notes


def _shear(affine: NDArray[np.float64]) -> float:
    """The largest cosine between two axes of an affine that spans a volume."""
    x, y, z = zip(*affine[:3, :3].tolist(), strict=True)
    return max(
        abs(math.fsum(map(operator.mul, one, two))) / (math.hypot(*one) * math.hypot(*two))
        for one, two in ((x, y), (x, z), (y, z))
    )


def grid_distance(one: NDArray[np.float64], two: NDArray[np.float64], shape: tuple[int, int, int]) -> float:
    """The largest distance, in voxels of ``one``, between the eight corners of the two grids of ``shape``."""
    sides = np.array(shape) - 1
    corners = np.array([[a, b, c, 1] for a in (0, sides[0]) for b in (0, sides[1]) for c in (0, sides[2])], dtype=float)
    moved = np.linalg.solve(one, two @ corners.T).T
    return float(np.abs(moved - corners)[:, :3].max())
