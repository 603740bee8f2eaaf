"""Overlapping labels as a 4D NIfTI file: one volume of 0 and 1 a structure, in the order of the label map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np

from segray import storage
from segray.case import MOST_OVERLAPPING, Geometry, Volume
from segray.errors import CaseError, SegrayError
from segray.formats import gzip_bytes
from segray.formats.gzip_bytes import ByteReader
from segray.formats.label_grid import match_grids
from segray.formats.nifti import header_of
from segray.formats.nifti_header import SIZES, NiftiHeader, parse_header
from segray.formats.nifti_voxels import file_view, slabs, stored_spans

STORED = np.dtype(np.uint8)


def write_nifti_bits(path: str, bits: Volume, geometry: Geometry, structures: int) -> None:
    """Write a bit field (z, y, x) as (i, j, k, structures) of uint8 on the grid of the case, whole or not at all.

    Raises:
        SegrayError: the bits have another shape than the grid, or cannot be written.
    """
    if bits.shape != geometry.size:
        raise SegrayError(f"{path}: labels of shape {bits.shape} do not lie on the grid {geometry.size}.")
    header = header_of(geometry, STORED, structures)
    parts: list[Iterable[gzip_bytes.Part]] = [[header], *(_parts(bits, geometry, at) for at in range(structures))]
    storage.write_bytes(path, gzip_bytes.file_bytes(path, [chain.from_iterable(parts)]))


def _parts(bits: Volume, geometry: Geometry, number: int) -> Iterator[Volume]:
    """The volume of a structure, a few planes in memory at a time."""
    for slab in chain.from_iterable(stored_spans(bits, geometry)):
        yield (slab >> number & 1).astype(STORED, copy=False)


def count_volumes(path: str) -> int:
    """The volumes of a NIfTI file; 1 for what is no NIfTI or holds no volume. Raises CaseError: it cannot be read."""
    reader = gzip_bytes.open_head(path)
    raw = reader.read(4)
    size = _header_size(raw)
    return _volumes(raw + reader.read(size - 4)) if size else 1


def read_nifti_bits(path: str, geometry: Geometry | None = None) -> tuple[Volume, Geometry]:
    """The bit field (z, y, x), LPS, of a file of :func:`write_nifti_bits`, and its grid.

    Any voxel that is not 0 belongs to its structure.

    Args:
        path: the file.
        geometry: the grid of its image, on which it must lie; None: its own.

    Raises:
        CaseError: damaged, more than 32 volumes, no integers, or another grid.
    """
    reader = gzip_bytes.open_bytes(path)
    header, volumes = _read_header(reader)
    if geometry is not None and match_grids(geometry, header.geometry, path).same_order:
        header = replace(header, geometry=geometry)
    bits = np.zeros(header.geometry.size, np.min_scalar_type((1 << volumes) - 1))
    target = file_view(bits, header.geometry)
    i, j, k = header.geometry.shape
    # All volumes follow each other as the planes of one tall volume do.
    tall = replace(header, geometry=replace(header.geometry, shape=(i, j, k * volumes)))
    for where, stored in slabs(reader, tall):
        for at in range(where.start, where.stop):
            number, plane = divmod(at, k)
            inside = stored[:, :, at - where.start] != 0
            target[:, :, plane] |= inside * bits.dtype.type(1 << number)
    return bits, header.geometry


def _header_size(raw: bytes) -> int:
    """348 or 540 by the first four bytes of a file, in either byte order; 0 for anything else."""
    return next((size for size in SIZES if raw in (size.to_bytes(4, "little"), size.to_bytes(4, "big"))), 0)


def _volumes(raw: bytes) -> int:
    sides = SIZES[len(raw)](raw, check=False)["dim"].tolist()
    return int(np.prod([max(side, 1) for side in sides[4 : sides[0] + 1]], dtype=np.int64)) if sides[0] > 3 else 1


def _read_header(reader: ByteReader) -> tuple[NiftiHeader, int]:
    """The header of one volume, behind which the reader stands, and the number of volumes."""
    raw = reader.read(4)
    size = _header_size(raw)
    if not size:
        raise CaseError(f"{reader.name} is no NIfTI file: its first bytes are no NIfTI header.")
    raw += reader.read(size - 4)
    volumes = _volumes(raw)
    if volumes > MOST_OVERLAPPING:
        raise CaseError(f"{reader.name} holds {volumes} volumes; segray keeps at most {MOST_OVERLAPPING} structures.")
    single = SIZES[size](raw, check=False)
    single["dim"][0] = 3
    single["dim"][4:] = 1
    header = parse_header(bytes(single.binaryblock), reader.name)
    needed = header.offset + header.count * header.dtype.itemsize * volumes
    if reader.most is not None and needed > reader.most:
        raise CaseError(f"{reader.name} is too small for its header.", mend="Copy it again from its source.")
    return header, volumes
