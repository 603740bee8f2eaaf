"""One label volume from the binary masks of a case (TotalSegmentator layout), one mask in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.case import Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.formats import gzip_bytes
from segray.formats.gzip_bytes import ByteReader
from segray.formats.label_grid import Match, match_grids
from segray.formats.nifti_header import NiftiHeader, read_header
from segray.formats.nifti_voxels import file_view
from segray.formats.turning import contiguous, copy_turned

WORD = 8
"""Voxels that are looked at together, one byte each: most words of most masks are empty."""

BLOCK = 1 << 18
"""Words whose indices are held at a time (8 bytes each)."""

STEP = 1 << 12
"""Words whose maximum is taken, to see where a mask begins and ends."""

ONES = np.uint64(0x0101010101010101)
"""A word of voxels that are all 1."""

NIFTI1_BYTES = 348
"""Bytes of a NIfTI-1 header."""


def stack_masks(
    masks: Mapping[str, str], label_map: LabelMap, geometry: Geometry, *, overlap: str = "smallest"
) -> tuple[Volume, list[str]]:
    """The label values (z, y, x), LPS, of the masks on the image's grid ``geometry``, and notes.

    Any nonzero voxel belongs to its structure. A voxel in several masks goes to the structure with the fewest voxels,
    of equal ones to the first of the label map, whatever the order of the files. With ``overlap="keep"`` it belongs to
    all of them: the result is a bit field, bit k for structure k of ``label_map.names``.

    Raises:
        CaseError: a mask cannot be read or lies on another grid; masks overlap and ``overlap`` is ``refuse``.
    """
    keep = overlap == "keep"
    canvas = _BitCanvas(label_map, geometry) if keep else _Canvas(label_map, geometry, refuse=overlap == "refuse")
    reader = _MaskReader(geometry)
    for name in label_map.names:
        if name in masks:
            flat = reader.read(masks[name])
            if flat is not None and not canvas.paint(name, flat):
                reader.remember_empty()
    return contiguous(canvas.volume()), canvas.notes() + reader.notes


class _Canvas:
    """Labels in the order of the file, and how many voxels each structure claimed."""

    def __init__(self, label_map: LabelMap, geometry: Geometry, *, refuse: bool) -> None:
        self._map = label_map
        self._geometry = geometry
        self._refuse = refuse
        self._count = int(np.prod(geometry.shape))
        self._labels = np.zeros(padded(self._count), label_map.dtype)
        self._claimed: dict[str, int] = {}
        self._lost = np.zeros(max(label_map.values.values()) + 1, np.int64)
        # Background outranks nothing: its count is above any other.
        self._counts = np.full(len(self._lost), np.iinfo(np.int64).max)

    def paint(self, name: str, flat: NDArray[np.uint8]) -> bool:
        """Give the nonzero voxels of a padded mask to ``name`` where no smaller structure has them; False if none."""
        words = flat.view(np.uint64)
        value = self._map.values[name]
        known = list(_pieces(words)) if len(words) <= BLOCK else None
        count = sum(int(np.bitwise_count(ones).sum()) for _, ones in known or _pieces(words))
        self._claimed[name] = count
        self._counts[value] = count
        for where, ones in known or _pieces(words):
            if self._labels.dtype != np.uint8 or not self._paint_free(value, where, ones):
                self._paint_voxels(name, value, _voxels(where, ones))
        return count > 0

    def _paint_free(self, value: int, where: NDArray[np.intp], ones: NDArray[np.uint64]) -> bool:
        """Paint whole words where no voxel has a label yet; False where one has."""
        labels = self._labels.view(np.uint64)
        before = labels[where]
        if (before & (ones * np.uint64(255))).any():
            return False
        labels[where] = before | (ones * np.uint64(value))
        return True

    def _paint_voxels(self, name: str, value: int, where: NDArray[np.intp]) -> None:
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
        return self._geometry.to_lps(self._labels[: self._count])

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


class _BitCanvas:
    """Bit fields in the order of the file: no voxel is lost to another structure."""

    def __init__(self, label_map: LabelMap, geometry: Geometry) -> None:
        self._bits = {name: 1 << number for number, name in enumerate(replace(label_map, overlapping=True).names)}
        self._geometry = geometry
        self._count = int(np.prod(geometry.shape))
        self._labels = np.zeros(padded(self._count), np.min_scalar_type(max(self._bits.values())))

    def paint(self, name: str, flat: NDArray[np.uint8]) -> bool:
        """Set the bit of ``name`` in the nonzero voxels of a padded mask; False if there are none."""
        some = False
        for where, ones in _pieces(flat.view(np.uint64)):
            some = some or len(where) > 0
            if self._labels.dtype == np.uint8:
                self._labels.view(np.uint64)[where] |= ones * np.uint64(self._bits[name])
            else:
                self._labels[_voxels(where, ones)] |= self._labels.dtype.type(self._bits[name])
        return some

    def volume(self) -> Volume:
        """The bit fields as a (z, y, x) view."""
        return self._geometry.to_lps(self._labels[: self._count])

    def notes(self) -> list[str]:
        """Nothing is lost, so there is nothing to tell."""
        return []


def padded(count: int) -> int:
    """``count`` voxels in whole words."""
    return -(-count // WORD) * WORD


def _pieces(words: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint64]]]:
    """The indices of the words that are not empty, and the words with 1 for every nonzero voxel, by blocks."""
    first, last = _reach(words)
    for start in range(first, last, BLOCK):
        block = words[start : min(start + BLOCK, last)]
        where = np.flatnonzero(block != 0)
        ones = block[where]
        if np.bitwise_or.reduce(ones, initial=np.uint64(0)) & ~ONES:
            ones = (ones.view(np.uint8) != 0).view(np.uint64)
        where += start
        yield where, ones


def _reach(words: NDArray[np.uint64]) -> tuple[int, int]:
    """The range that holds all words that are not empty, in whole steps: a maximum is much faster than a search."""
    whole = len(words) // STEP
    full = np.flatnonzero(words[: whole * STEP].reshape(whole, STEP).max(axis=1, initial=0))
    rest = bool(words[whole * STEP :].any())
    if len(full) == 0:
        return (whole * STEP, len(words)) if rest else (0, 0)
    return int(full[0]) * STEP, len(words) if rest else (int(full[-1]) + 1) * STEP


def _voxels(where: NDArray[np.intp], ones: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The indices of the voxels that are 1 in the words at ``where``."""
    found = np.flatnonzero(ones.view(np.bool_))
    return where[found // WORD] * WORD + found % WORD


class _MaskReader:
    """Reads the masks of one case into one buffer; a header seen before is not parsed again."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._known: dict[bytes, tuple[NiftiHeader, Match]] = {}
        self._empty: set[bytes] = set()
        self._body = b""
        self._buffer = np.empty(0, np.uint8)
        self.notes: list[str] = []

    def read(self, path: str) -> NDArray[np.uint8] | None:
        """One byte a voxel in the order of the image's file, nonzero inside, padded with zeros to whole words.

        The array is used again for the next mask. None for a mask with the bytes of one that was empty.
        """
        data = gzip_bytes.load(path)
        self._body = _body(data)
        if self._body in self._empty:
            return None
        reader, header, match = self._open(path, data)
        reader.read(header.offset - len(header.raw))
        self._read_stored(reader, header)
        if header.dtype.itemsize > 1 or not header.identity:
            flat = _inside(self._buffer[: header.count * header.dtype.itemsize].view(header.dtype), header)
        else:
            flat = self._buffer[: padded(header.count)]
        return flat if match.same_order else self._turned(flat[: header.count], header.geometry)

    def remember_empty(self) -> None:
        """Note that the mask read last holds no voxel."""
        self._empty.add(self._body)

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

    def _read_stored(self, reader: ByteReader, header: NiftiHeader) -> None:
        """Fill the buffer with the stored voxels, and zeros up to whole words."""
        needed = header.count * header.dtype.itemsize
        if len(self._buffer) < padded(needed):
            self._buffer = np.empty(padded(needed), np.uint8)
        reader.read_into(self._buffer[:needed])
        self._buffer[needed : padded(needed)] = 0
        reader.finish()

    def _turned(self, stored: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
        """The voxels in the order of the image's file, padded."""
        volume = contiguous(geometry.to_lps(stored))
        flat = np.zeros(padded(len(stored)), np.uint8)
        copy_turned(flat[: len(stored)].reshape(self._geometry.shape, order="F"), file_view(volume, self._geometry))
        return flat


def _body(data: bytes) -> bytes:
    """The compressed bytes behind the gzip header, without name and time, so that equal contents are equal."""
    if len(data) > 10 and data[3] == 8:
        return data[data.find(b"\0", 10) + 1 :]
    return data[10:] if len(data) > 10 and data[3] == 0 else data


def _inside(stored: NDArray[Any], header: NiftiHeader) -> NDArray[np.uint8]:
    """1 where a stored value is neither 0 nor NaN after scaling, padded with zeros to whole words."""
    inside = np.zeros(padded(len(stored)), np.bool_)
    step = BLOCK * WORD
    for start in range(0, len(stored), step):
        block = stored[start : start + step]
        if not header.identity:
            block = block.astype(np.float32) * np.float32(header.slope) + np.float32(header.inter)
        inside[start : start + len(block)] = (block != 0) & (block == block)
    return inside.view(np.uint8)
