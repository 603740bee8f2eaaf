"""The probabilities of a case as one NIfTI file: the crop in which there are any, a volume a structure.

The affine is that of the crop, so that every viewer lays it where it belongs, and the header scales what is stored back
to 0 to 1. What segray needs to put the crop back on the case's grid stands in a header extension of the same file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from segray import storage
from segray.case import Geometry, Volume
from segray.errors import CaseError, SegrayError
from segray.formats import gzip_bytes
from segray.formats.limits import machine_memory, shown_bytes
from segray.formats.nifti import header_of
from segray.formats.nifti_header import SIZES, read_header
from segray.formats.nifti_voxels import file_view, slabs, stored_spans

Stored = Literal["uint8", "uint16"]
"""How a probability is kept: to 1/510 in a byte, or to 1/131070 in two."""

THRESHOLD = 0.01
"""Probabilities up to this one are kept as 0: they cost most of the file and decide nothing."""

COMMENT = 6
"""The code of a header extension of plain text (NIfTI-1 standard)."""

KEY = "segray probabilities"
"""How segray's extension begins."""

EXTENDED = b"\1\0\0\0"
"""What follows a header that has an extension (NIfTI-1 standard)."""

MOST_STRUCTURES = 32767
"""Volumes that fit into the fourth side of a NIfTI-1 file."""


@dataclass(frozen=True)
class Probabilities:
    """The probabilities of a case, cropped.

    Attributes:
        crop: (structures, z, y, x), LPS, as they are stored: times :attr:`scale` they are probabilities.
        offset: the (z, y, x) of the crop's first voxel on the grid of the case.
        geometry: the grid of the case.
        names: of the structures.
        threshold: what is not above it is kept as 0.
    """

    crop: Volume
    offset: tuple[int, int, int]
    geometry: Geometry
    names: tuple[str, ...]
    threshold: float

    @property
    def scale(self) -> float:
        """The probability of a stored 1."""
        return 1.0 / np.iinfo(self.crop.dtype).max

    def whole(self, name: str) -> NDArray[np.float32]:
        """The probabilities of a structure (z, y, x) on the grid of the case, 0 around the crop."""
        volume = np.zeros(self.geometry.size, np.float32)
        box = tuple(slice(a, a + side) for a, side in zip(self.offset, self.crop.shape[1:], strict=True))
        volume[box] = self.crop[self.names.index(name)] * np.float32(self.scale)
        return volume


class ProbabilityCrop:
    """Takes the probabilities of a case slab by slab, and keeps of each what lies in the box of those that count.

    Args:
        names: of the structures; the background is none of them.
        size: (z, y, x) of the case.
        stored: how a probability is kept.
        threshold: probabilities that are not above it are kept as 0.

    In memory are the crops of the slabs, 1 or 2 bytes a structure and voxel, and while they are put together no second
    time all of them.
    """

    def __init__(
        self,
        names: Sequence[str],
        size: tuple[int, int, int],
        *,
        stored: Stored = "uint8",
        threshold: float = THRESHOLD,
    ) -> None:
        self._names = tuple(names)
        self._size = size
        self._dtype = np.dtype(stored)
        self._threshold = threshold
        self._pieces: list[tuple[tuple[int, int, int], Volume]] = []

    def add(self, start: int, slab: Volume) -> None:
        """Take (n, structures, y, x) probabilities of the slices from ``start`` on, in any order of slabs.

        Args:
            start: the first slice.
            slab: as :func:`quantised` takes it. It may be used again afterwards.

        Raises:
            SegrayError: another number of structures, or another size.
        """
        if slab.shape[1:] != (len(self._names), *self._size[1:]) or not 0 <= start <= self._size[0] - len(slab):
            raise SegrayError(
                f"Probabilities of shape {slab.shape} from slice {start} on do not lie in {len(self._names)} "
                f"structures of size {self._size}."
            )
        known = _known(slab)
        counts = ~_small(known.max(axis=1), self._threshold)
        lines = [np.flatnonzero(counts.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        if len(lines[0]):
            z, y, x = (slice(int(line[0]), int(line[-1]) + 1) for line in lines)
            piece = quantised(known[z, :, y, x], self._dtype, self._threshold)
            self._pieces.append(((start + z.start, y.start, x.start), np.moveaxis(piece, 1, 0)))

    def join(self) -> tuple[Volume, tuple[int, int, int]]:
        """(structures, z, y, x) as stored, and the (z, y, x) of its first voxel; afterwards it is empty.

        Where no probability is above the threshold, it is the first voxel of the case.
        """
        first, end = [0, 0, 0], [1, 1, 1]
        if self._pieces:
            first = np.min([at for at, _ in self._pieces], axis=0).tolist()
            end = np.max([np.add(at, piece.shape[1:]) for at, piece in self._pieces], axis=0).tolist()
        crop = np.zeros((len(self._names), *(b - a for a, b in zip(first, end, strict=True))), self._dtype)
        while self._pieces:
            at, piece = self._pieces.pop()
            z, y, x = (slice(a - b, a - b + side) for a, b, side in zip(at, first, piece.shape[1:], strict=True))
            crop[:, z, y, x] = piece
        return crop, (first[0], first[1], first[2])


def quantised(values: Volume, dtype: np.dtype[Any], threshold: float) -> Volume:
    """Probabilities as the nearest multiples of 1/255 or 1/65535 (ties to the even one); 0 up to the threshold.

    Args:
        values: uint8 or uint16 whose highest value is 1, or floats; of those what lies beyond 0 and 1 counts as 0 or 1,
            and NaN as 0.
        dtype: uint8 or uint16.
        threshold: a probability.
    """
    known = _known(values)
    stored = known
    if known.dtype != dtype:
        share = known if known.dtype.kind == "f" else known / np.float32(np.iinfo(known.dtype).max)
        stored = np.rint(share * np.float32(np.iinfo(dtype).max)).astype(dtype)
    return np.asarray(stored * ~_small(known, threshold))


def _known(values: Volume) -> Volume:
    """Integers as they are, floats as float32 from 0 to 1."""
    if values.dtype in (np.uint8, np.uint16):
        return values
    return np.clip(np.nan_to_num(values.astype(np.float32), nan=0.0), 0.0, 1.0)


def _small(known: Volume, threshold: float) -> NDArray[np.bool_]:
    """Where a probability is kept as 0."""
    if known.dtype.kind == "f":
        return np.asarray(known <= np.float32(threshold))
    return np.asarray(known <= int(threshold * np.iinfo(known.dtype).max))


def write_probabilities(
    path: str,
    probabilities: Volume,
    offset: tuple[int, int, int],
    geometry: Geometry,
    names: Sequence[str],
    *,
    stored: Stored = "uint8",
    threshold: float = THRESHOLD,
) -> None:
    """Write a crop of probabilities as ``.nii.gz`` (or ``.nii``), (i, j, k, structures), whole or not at all.

    Args:
        path: the file.
        probabilities: (structures, z, y, x), LPS, as :meth:`ProbabilityCrop.join` has them, or of another type as
            :func:`quantised` takes them.
        offset: the (z, y, x) of the crop's first voxel on the grid.
        geometry: the grid of the case.
        names: of the structures.
        stored: how a probability is kept.
        threshold: what is not above it is kept as 0.

    Raises:
        SegrayError: the crop reaches beyond the grid, has other structures than ``names``, or cannot be written.
    """
    shape = probabilities.shape
    if len(shape) != 4 or shape[0] != len(names) or not _lies_in(shape[1:], offset, geometry):
        raise SegrayError(f"{path}: probabilities of shape {shape} at {offset} do not lie on the grid {geometry.size}.")
    dtype = np.dtype(stored)
    small = _cropped(geometry, offset, shape[1:])
    kept = {"names": list(names), "offset": list(offset), "threshold": threshold, "geometry": geometry.to_json()}
    header = _header(small, dtype, len(names), kept)
    parts = (slab for volume in probabilities for slab in _slabs(quantised(volume, dtype, threshold), small))
    storage.write_bytes(path, gzip_bytes.file_bytes(path, [chain([header], parts)]))


def read_probabilities(path: str) -> Probabilities:
    """What :func:`write_probabilities` wrote. Raises CaseError: damaged, or not written by segray."""
    reader = gzip_bytes.open_bytes(path)
    header = read_header(reader, most_volumes=MOST_STRUCTURES)
    kept = _kept(path, reader.read(header.offset - len(header.raw)))
    try:
        names, threshold = tuple(str(name) for name in kept["names"]), float(kept["threshold"])
        z, y, x = (int(place) for place in kept["offset"])
        geometry = Geometry.from_json(kept["geometry"])
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(path) from error
    if header.voxel_bytes * header.volumes > machine_memory():
        raise CaseError(f"{path} claims {shown_bytes(header.voxel_bytes * header.volumes)}, more than there is memory.")
    crop = np.empty((header.volumes, *header.geometry.size), header.dtype.newbyteorder("="))
    if header.volumes != len(names) or header.dtype.kind != "u" or not _lies_in(crop.shape[1:], (z, y, x), geometry):
        raise _foreign(path)
    i, j, k = header.geometry.shape
    # All volumes follow each other as the planes of one tall volume do.
    tall = replace(header, offset=len(header.raw), geometry=replace(header.geometry, shape=(i, j, k * len(names))))
    views = [file_view(volume, header.geometry) for volume in crop]
    for where, stored in slabs(reader, tall):
        for at in range(where.start, where.stop):
            views[at // k][:, :, at % k] = stored[:, :, at - where.start]
    return Probabilities(crop, (z, y, x), geometry, names, threshold)


def _lies_in(shape: Sequence[int], offset: Sequence[int], geometry: Geometry) -> bool:
    return all(0 <= a <= size - side for a, side, size in zip(offset, shape, geometry.size, strict=True))


def _slabs(volume: Volume, geometry: Geometry) -> Iterator[Volume]:
    return chain.from_iterable(stored_spans(volume, geometry))


def _cropped(geometry: Geometry, offset: Sequence[int], size: Sequence[int]) -> Geometry:
    """The grid of the crop, its axes in the order of the file that the case came in."""
    ends = np.array([[*offset, 1], [*(a + side - 1 for a, side in zip(offset, size, strict=True)), 1]], np.float64)
    stored = np.rint(np.linalg.solve(geometry.affine, geometry.lps_affine @ ends.T))[:3]
    start = stored.min(axis=1)
    i, j, k = (int(side) for side in stored.max(axis=1) - start + 1)
    header = None if geometry.header is None else _moved(geometry, start, (i, j, k))
    return Geometry(_shifted(geometry.affine, start), (i, j, k), (), header)


def _shifted(affine: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
    moved = np.array(affine, np.float64)
    moved[:3, 3] += moved[:3, :3] @ start
    return moved


def _moved(geometry: Geometry, start: NDArray[np.float64], shape: tuple[int, int, int]) -> bytes:
    """The header with both its forms moved to the voxel ``start``."""
    raw = geometry.header or b""
    header = SIZES[len(raw)](raw, check=False)
    header.set_data_shape(shape)
    if int(header["sform_code"]) > 0:
        header.set_sform(_shifted(header.get_sform(), start), code=int(header["sform_code"]))
    if int(header["qform_code"]) > 0:
        try:
            place = _shifted(header.get_qform(), start)[:3, 3]
        except (HeaderDataError, ValueError, np.linalg.LinAlgError):
            header["qform_code"] = 0
        else:
            header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = place
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        # Without either form the place of a grid would follow from its shape.
        header.set_sform(_shifted(geometry.affine, start), code=1)
    return bytes(header.binaryblock)


def _header(geometry: Geometry, dtype: np.dtype[Any], volumes: int, kept: dict[str, Any]) -> bytes:
    """The header with the scale of the values and, as an extension, what is ``kept`` beside them."""
    raw = header_of(geometry, dtype, volumes)[: -len(EXTENDED)]
    text = f"{KEY} {json.dumps(kept)}".encode()
    text += b"\0" * (-(len(text) + 8) % 16)
    header = SIZES[len(raw)](raw, check=False)
    header["scl_slope"], header["cal_max"] = 1.0 / np.iinfo(dtype).max, 1.0
    header["vox_offset"] = len(raw) + len(EXTENDED) + 8 + len(text)
    return bytes(header.binaryblock) + EXTENDED + struct.pack("<ii", 8 + len(text), COMMENT) + text


def _kept(path: str, extension: bytes) -> dict[str, Any]:
    if extension[:4] != EXTENDED or not extension[12:].startswith(KEY.encode()):
        raise _foreign(path)
    try:
        kept = json.loads(extension[12 + len(KEY) :].rstrip(b"\0").decode())
    except (ValueError, RecursionError) as error:
        raise _foreign(path) from error
    if not isinstance(kept, dict):
        raise _foreign(path)
    return kept


def _foreign(path: str) -> CaseError:
    return CaseError(f"{path} is no file of probabilities that segray wrote.")
