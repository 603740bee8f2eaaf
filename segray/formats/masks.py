"""One label volume from the binary masks of a case (TotalSegmentator layout), one mask in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segray.case import Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.formats import gzip_bytes
from segray.formats.gzip_bytes import ByteReader
from segray.formats.label_grid import Match, match_grids
from segray.formats.nifti_header import NiftiHeader, read_header
from segray.formats.nifti_voxels import file_view
from segray.formats.turning import contiguous

BLOCK = 1 << 20
"""Voxels whose indices are held at a time (8 bytes each)."""

NIFTI1_BYTES = 348
"""Bytes of a NIfTI-1 header."""

STEP = 1 << 16
"""Voxels looked at together when the empty end of a mask is skipped."""

Overlap = Literal["smallest", "refuse"]


def stack_masks(
    masks: Mapping[str, str], label_map: LabelMap, geometry: Geometry, *, overlap: str = "smallest"
) -> tuple[Volume, list[str]]:
    """The label values (z, y, x), LPS, of the masks on the image's grid ``geometry``, and notes.

    Any nonzero voxel belongs to its structure. A voxel in several masks goes to the structure with the fewest voxels,
    of equal ones to the first of the label map, whatever the order of the files.

    Raises:
        CaseError: a mask cannot be read or lies on another grid; masks overlap and ``overlap`` is ``refuse``.
    """
    canvas = _Canvas(label_map, geometry, refuse=overlap == "refuse")
    reader = _MaskReader(geometry)
    for name in label_map.names:
        if name in masks:
            flat = reader.read(masks[name])
            if flat is not None:
                canvas.paint(name, flat)
    return contiguous(canvas.volume()), canvas.notes() + reader.notes


class _Canvas:
    """Labels in the order of the file, and how many voxels each structure claimed."""

    def __init__(self, label_map: LabelMap, geometry: Geometry, *, refuse: bool) -> None:
        self._map = label_map
        self._geometry = geometry
        self._refuse = refuse
        self._labels = np.zeros(int(np.prod(geometry.shape)), label_map.dtype)
        self._claimed: dict[str, int] = {}
        self._lost = np.zeros(max(label_map.values.values()) + 1, np.int64)
        # Background outranks nothing: its count is above any other.
        self._counts = np.full(len(self._lost), np.iinfo(np.int64).max)

    def paint(self, name: str, flat: NDArray[np.uint8]) -> None:
        """Give the nonzero voxels of a mask to ``name`` where no smaller structure has them."""
        first = int(np.argmax(flat.view(np.bool_)))
        if not flat[first]:
            self._claimed[name] = 0
            return
        last = _last_block(flat)
        value = self._map.values[name]
        if last - first <= BLOCK:
            where = _nonzero(flat, first, last)
            self._claim(name, len(where))
            self._paint_piece(name, value, where)
            return
        self._claim(name, int(np.count_nonzero(flat[first:last])))
        for start in range(first, last, BLOCK):
            self._paint_piece(name, value, _nonzero(flat, start, min(start + BLOCK, last)))

    def _claim(self, name: str, count: int) -> None:
        self._claimed[name] = count
        self._counts[self._map.values[name]] = count

    def _paint_piece(self, name: str, value: int, where: NDArray[np.intp]) -> None:
        before = self._labels[where]
        if before.any():
            if self._refuse:
                other = self._name_of(int(before[before != 0][0]))
                raise CaseError(
                    f"The masks of {other} and {name} overlap, and ingest.overlap is refuse.",
                    mend="Set ingest.overlap=smallest, or keep fewer structures.",
                )
            # Names come in the order of the label map, so on a tie the one that is there stays.
            wins = self._counts[before] > self._counts[value]
            self._lost[value] += int(len(wins) - np.count_nonzero(wins))
            self._lost += np.bincount(before[wins & (before != 0)], minlength=len(self._lost))
            where = where[wins]
        self._labels[where] = value

    def _name_of(self, value: int) -> str:
        return next(name for name, known in self._map.values.items() if known == value)

    def volume(self) -> Volume:
        """The labels as a (z, y, x) view."""
        return self._geometry.to_lps(self._labels)

    def notes(self) -> list[str]:
        """What was lost to smaller structures."""
        lost = {name: int(self._lost[value]) for name, value in self._map.values.items() if self._lost[value]}
        if not lost:
            return []
        most = sorted(lost, key=lambda name: -lost[name])
        shown = ", ".join(f"{name} gave {lost[name]:,}" for name in most[:4])
        more = f" and {len(most) - 4} more" if len(most) > 4 else ""
        gone = [name for name in most if lost[name] == self._claimed[name]]
        words = [f"Masks overlap in {sum(lost.values()):,} voxels; the smaller structure has them: {shown}{more}."]
        if gone:
            words.append(f"Smaller structures cover all of {', '.join(gone[:4])}.")
        return words


def _last_block(flat: NDArray[np.uint8]) -> int:
    """An index behind the last nonzero voxel, at most STEP too far."""
    stop = len(flat)
    while stop > STEP and not flat[stop - STEP : stop].view(np.bool_).any():
        stop -= STEP
    return stop


def _nonzero(flat: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.intp]:
    """The indices of nonzero voxels from ``start`` to ``stop``."""
    block = flat[start:stop]
    # numpy counts the bytes of a bool array: others than 0 and 1 must never be in a view.
    ones = block.view(np.bool_) if int(block.max()) <= 1 else block != 0
    found = np.flatnonzero(ones)
    found += start
    return found


class _MaskReader:
    """Reads the masks of one case into one buffer; a header seen before is not parsed again."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._known: dict[bytes, tuple[NiftiHeader, Match]] = {}
        self._empty: set[bytes] = set()
        self._buffer = np.empty(0, np.uint8)
        self.notes: list[str] = []

    def read(self, path: str) -> NDArray[np.uint8] | None:
        """One byte a voxel in the order of the image's file, nonzero inside; None for a mask known to be empty."""
        data = gzip_bytes.load(path)
        body = _body(data)
        if body in self._empty:
            return None
        reader, header, match = self._open(path, data)
        reader.read(header.offset - len(header.raw))
        stored = self._stored(reader, header)
        if header.dtype.itemsize > 1 or not header.identity:
            stored = _inside(stored, header)
        if len(body) * 512 < len(stored) and not stored.any():
            self._empty.add(body)
            return None
        return stored if match.same_order else self._turned(stored, header.geometry)

    def _open(self, path: str, data: bytes) -> tuple[ByteReader, NiftiHeader, Match]:
        reader = ByteReader(path, data)
        known = self._known.get(reader.read(NIFTI1_BYTES))
        if known is not None:
            return reader, *known
        reader = ByteReader(path, data)
        header = read_header(reader)
        match = match_grids(self._geometry, header.geometry, path)
        self.notes.extend(note for note in (*header.notes, *match.notes) if note not in self.notes)
        self._known[header.raw] = header, match
        return reader, header, match

    def _stored(self, reader: ByteReader, header: NiftiHeader) -> NDArray[Any]:
        needed = header.count * header.dtype.itemsize
        if len(self._buffer) < needed:
            self._buffer = np.empty(needed, np.uint8)
        reader.read_into(self._buffer[:needed])
        reader.finish()
        return self._buffer[:needed].view(np.uint8 if header.dtype.itemsize == 1 else header.dtype)

    def _turned(self, stored: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
        volume = contiguous(geometry.to_lps(stored))
        return np.asarray(contiguous(file_view(volume, self._geometry).T).reshape(-1))


def _body(data: bytes) -> bytes:
    """The compressed bytes behind the gzip header, without name and time, so that equal contents are equal."""
    if len(data) > 10 and data[3] == 8:
        return data[data.find(b"\0", 10) + 1 :]
    return data[10:] if len(data) > 10 and data[3] == 0 else data


def _inside(stored: NDArray[Any], header: NiftiHeader) -> NDArray[np.uint8]:
    """1 where a stored value is neither 0 nor NaN after scaling."""
    inside = np.empty(len(stored), np.bool_)
    for start in range(0, len(stored), BLOCK):
        block = stored[start : start + BLOCK]
        if not header.identity:
            block = block.astype(np.float32) * np.float32(header.slope) + np.float32(header.inter)
        inside[start : start + BLOCK] = (block != 0) & (block == block)
    return inside.view(np.uint8)
