"""The voxels of a NIfTI file, streamed a slab at a time into a (z, y, x) LPS volume of the right type.

A slab is inflated into a small buffer, checked, scaled and turned while the cache holds it, so a volume is in memory
once, in its final type, and no float64 volume exists on the way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.case import Geometry, Volume
from segray.errors import CaseError
from segray.formats.gzip_bytes import ByteReader
from segray.formats.limits import check_label_size
from segray.formats.nifti_header import NiftiHeader
from segray.formats.turning import copy_turned

SLAB_BYTES = 1 << 19
"""Bytes of a slab: a share of the second-level cache."""

TURNED_PLANES = 32
"""Planes of a slab where the file's slowest axis is not z: each becomes a run of the turned volume."""

WRITTEN_PLANES = 64
"""Planes of a written slab where z is not the slowest axis of the file: what shares a cache line is read once."""

SPANS = 4
"""Threads that pack one volume."""

SPAN_BYTES = 1 << 23
"""Bytes from which a thread more pays."""

INT16 = np.iinfo(np.int16)


def slabs(reader: ByteReader, header: NiftiHeader, *, last: bool = True) -> Iterator[tuple[slice, Volume]]:
    """The stored voxels as (slice along k, (i, j, planes) array); the array is used again for the next slab.

    The reader stands behind the fixed header. ``last=False``: another volume follows in the same file.
    Raises CaseError where the file ends early or is damaged.
    """
    reader.read(header.offset - len(header.raw))
    i, j, k = header.geometry.shape
    plane = i * j * header.dtype.itemsize
    planes = max(1, SLAB_BYTES // plane)
    if header.geometry.size[0] != k:
        planes = max(planes, TURNED_PLANES)
    buffer = np.empty(min(planes, k) * plane, np.uint8)
    for start in range(0, k, planes):
        stop = min(start + planes, k)
        piece = buffer[: (stop - start) * plane]
        reader.read_into(piece)
        yield slice(start, stop), piece.view(header.dtype).reshape((i, j, stop - start), order="F")
    if last:
        reader.finish()


def file_view(volume: Volume, geometry: Geometry) -> Volume:
    """A (z, y, x) volume as a writable (i, j, k) view in the order of the file."""
    return replace(geometry, stored_shape=()).from_lps(volume)


def stored_spans(volume: Volume, geometry: Geometry) -> list[Iterator[Volume]]:
    """A (z, y, x) volume as the C-ordered, little-endian (planes, j, i) arrays that follow one another in the file.

    A large volume comes in a few spans, which threads may make and pack at the same time. In each an array is made in a
    buffer that the next one uses again, while the cache holds it: a turned copy of the whole volume would be written to
    memory and read again.
    """
    turned = file_view(volume, geometry).T
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    count = max(1, min(SPANS, cores, volume.nbytes // SPAN_BYTES, len(turned)))
    least = WRITTEN_PLANES if geometry.size[0] != len(turned) else 1
    return [_stored_slabs(part, least) for part in np.array_split(turned, count)]


def _stored_slabs(turned: Volume, least: int) -> Iterator[Volume]:
    dtype = turned.dtype.newbyteorder("<")
    count, rows, columns = turned.shape
    planes = max(least, SLAB_BYTES // (rows * columns * dtype.itemsize))
    ready = turned.flags.c_contiguous and turned.dtype == dtype
    buffer = None if ready else np.empty((min(planes, count), rows, columns), dtype)
    for start in range(0, count, planes):
        piece = turned[start : start + planes]
        if buffer is not None:
            copy_turned(buffer[: len(piece)], piece)
        yield piece if buffer is None else buffer[: len(piece)]


def read_voxels(reader: ByteReader, header: NiftiHeader, *, last: bool = True) -> tuple[Volume, list[str]]:
    """The voxels (z, y, x), LPS: int16 where all are integers in its range, else float32; and notes.

    Voxels that are not finite become the lowest finite value, with a note. ``last`` as in :func:`slabs`.

    Raises:
        CaseError: the file ends early or is damaged, or no voxel is finite.
    """
    geometry = header.geometry
    volume: Volume = np.empty(geometry.size, np.int16)
    target = file_view(volume, geometry)
    for where, stored in slabs(reader, header, last=last):
        narrow = _as_int16(stored, header) if volume.dtype == np.int16 else None
        if narrow is None and volume.dtype == np.int16:
            volume = volume.astype(np.float32)
            target = file_view(volume, geometry)
        copy_turned(target[:, :, where], scaled(stored, header) if narrow is None else narrow)
    if volume.dtype == np.int16:
        return volume, []
    return _mend(volume, reader.name)


def scaled(stored: Volume, header: NiftiHeader) -> NDArray[np.float32]:
    """Stored values as float32 values: times the slope, plus the intercept."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float32)
        if not header.identity:
            values *= np.float32(header.slope)
            values += np.float32(header.inter)
    return values


def _as_int16(stored: Volume, header: NiftiHeader) -> Volume | None:
    """The slab's values where int16 holds them exactly, else None."""
    if not header.identity or stored.dtype.kind == "f":
        return exact_int16(scaled(stored, header))
    if np.can_cast(stored.dtype, np.int16):
        return stored.astype(np.int16, copy=False)
    fits = int(stored.max()) <= INT16.max and int(stored.min()) >= INT16.min
    return stored.astype(np.int16) if fits else None


def exact_int16(values: NDArray[np.float32]) -> NDArray[np.int16] | None:
    """Float values as int16 where all are integers in its range, else None."""
    with np.errstate(invalid="ignore"):
        if not (float(values.min()) >= INT16.min and float(values.max()) <= INT16.max):
            return None
        narrow = values.astype(np.int16)
    return narrow if bool((narrow == values).all()) else None


def _mend(volume: NDArray[np.float32], name: str) -> tuple[Volume, list[str]]:
    """Replace what is not finite; int16 after all where only that stood against it."""
    broken = sum(int(plane.size - np.count_nonzero(np.isfinite(plane))) for plane in volume)
    if not broken:
        return volume, []
    if broken == volume.size:
        raise CaseError(f"{name} holds no finite voxel, only NaN or infinity.")
    lowest = min(float(np.min(plane, initial=np.inf, where=np.isfinite(plane))) for plane in volume)
    for plane in volume:
        plane[~np.isfinite(plane)] = lowest
    note = f"{broken:,} voxels were NaN or infinite; they became the lowest value, {lowest:g}."
    if all(exact_int16(plane) is not None for plane in volume):
        return volume.astype(np.int16), [note]
    return volume, [note]


def read_label_voxels(reader: ByteReader, header: NiftiHeader) -> Volume:
    """Label values (z, y, x), LPS, as uint8, or uint16 where one is above 255; integers never become floats.

    Raises:
        CaseError: a value that is no integer, negative or above 65535; damage.
    """
    volume: Volume = np.zeros(header.geometry.size, np.uint8)
    target = file_view(volume, header.geometry)
    for where, stored in slabs(reader, header):
        values, highest = label_integers(stored, header, reader.name)
        if highest > 255 and volume.dtype == np.uint8:
            volume = volume.astype(np.uint16)
            target = file_view(volume, header.geometry)
        copy_turned(target[:, :, where], values)
    return volume


def label_values(reader: ByteReader, header: NiftiHeader) -> list[int]:
    """The label values without background, sorted, of a volume that is never in memory as a whole.

    Raises:
        CaseError: as :func:`read_label_voxels`; labels that expand beyond all that labels do.
    """
    check_label_size(reader, header.count, header.dtype.itemsize)
    seen = np.zeros(65536, np.bool_)
    for _, stored in slabs(reader, header):
        values, highest = label_integers(stored, header, reader.name)
        flat = values.reshape(-1, order="F")
        if highest > 0:
            seen[np.unique(flat) if highest > 255 else np.flatnonzero(np.bincount(flat))] = True
    seen[0] = False
    return [int(value) for value in np.flatnonzero(seen)]


def label_integers(stored: Volume, header: NiftiHeader, name: str) -> tuple[NDArray[Any], int]:
    """A slab as unsigned or signed integers from 0 to 65535, and the highest. Raises CaseError otherwise."""
    values: NDArray[Any] = stored
    if not header.identity:
        values = values.astype(np.float64) * header.slope + header.inter
    lowest, highest = values.min(), values.max()
    if not (lowest >= 0 and highest <= 65535):
        found = lowest if not lowest >= 0 else highest
        raise CaseError(f"{name} holds the label {found:g}; labels lie between 0 and 65535.")
    if values.dtype.kind == "f":
        whole = values.astype(np.uint16)
        if not bool((whole == values).all()):
            odd = float(values[whole != values].flat[0])
            raise CaseError(
                f"{name} holds {odd:g}, which is no integer, so it is no label volume.",
                mend="Was it resampled with interpolation? Use nearest neighbour.",
            )
        values = whole
    return values, int(highest)
