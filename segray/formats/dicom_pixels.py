"""The pixels of a series: decoded, rescaled slice by slice, stacked in order."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from segray.case import Volume
from segray.errors import CaseError
from segray.formats.dicom_file import MEND, Dataset, read_dataset
from segray.formats.dicom_geometry import Stack
from segray.formats.dicom_slices import SliceHeader
from segray.formats.limits import machine_memory
from segray.formats.note import Note

PLUGINS = {
    **dict.fromkeys((JPEG2000, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL), "pylibjpeg"),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), "pyjpegls"),
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), "gdcm"),
    # Not pylibjpeg's: it is Rust that panics on damaged data, past every `except Exception`.
    RLELossless: "pydicom",
}
"""Which library of pydicom's decodes a transfer syntax; empty: pydicom itself."""

TOO_LONG = "The decoded RLE segment contains non-conformant padding"
"""pydicom cuts such a segment to its size and warns; nothing says that what it keeps are the pixels."""

AIR = -1024
"""HU that pixels without data get in a CT."""


def read_pixels(slices: Sequence[SliceHeader], stack: Stack, name: str) -> tuple[Volume, list[str]]:
    """The voxels (z, y, x), LPS, int16 where all values are integers in range, else float32; and notes.

    Raises:
        CaseError: no pixels, a cut file, different slices at one position, more than fits into memory.
    """
    files = _Files()
    filling = _Filling(slices, stack, name)
    dropped = 0
    for place, group in enumerate(stack.groups):
        stored = files.stored(slices[group[0]])
        for other in group[1:]:
            if not np.array_equal(stored, files.stored(slices[other])):
                raise CaseError(
                    f"{name} has different slices at one position: {slices[group[0]].path} and {slices[other].path}.",
                    mend="Put the phases or reconstructions into series of their own.",
                )
            dropped += 1
        filling.put(place, stored, slices[group[0]], files.dataset)
    notes = filling.notes()
    if dropped:
        sentence = f"{dropped} slices lie there twice, with the same pixels; one of each is used."
        notes.append(Note(sentence, "twice"))
    return stack.geometry.to_lps(filling.volume.reshape(-1)), notes


def decoded(dataset: Dataset, path: str, frame: int) -> NDArray[Any]:
    """The stored values (rows, columns) of a frame (-1: the only one), with BitsStored and sign applied.

    Raises:
        CaseError: no pixels, cut, or packed in a way that cannot be unpacked.
    """
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise CaseError(f"{path} holds no pixels.", mend="Export it again with its pixel data.")
    syntax = _syntax(dataset)
    if syntax == JPEGExtended12Bit and dataset.get("BitsStored", 8) > 8:
        raise CaseError(
            f"{path} is packed as lossy JPEG of 12 bits, which segray does not unpack.",
            mend="Unpack it first, for example with gdcmconv --raw.",
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=TOO_LONG)
            pixels = pixel_array(dataset, index=None if frame < 0 else frame, decoding_plugin=PLUGINS.get(syntax, ""))
    except (MemoryError, CaseError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:150]
        raise CaseError(f"The pixels of {path} cannot be decoded ({words}).", mend=MEND) from error
    return np.asarray(pixels)


def _syntax(dataset: Dataset) -> str:
    """The transfer syntax; old files without a header of their own have none, and are not compressed."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return str(dataset.file_meta.TransferSyntaxUID)


class _Files:
    """Files as they are read, the last one kept: the frames of a multi-frame file follow each other."""

    def __init__(self) -> None:
        self._path = ""
        self.dataset: Dataset = None

    def stored(self, header: SliceHeader) -> NDArray[Any]:
        if header.path != self._path:
            self.dataset = read_dataset(header.path, pixels=True)
            self._path = header.path
        pixels = decoded(self.dataset, header.path, header.frame)
        if pixels.shape != (header.rows, header.columns):
            raise CaseError(f"{header.path} holds pixels of another size than its header says.", mend=MEND)
        return pixels


class _Filling:
    """The volume (slice, row, column), int16 as long as that holds all values."""

    def __init__(self, slices: Sequence[SliceHeader], stack: Stack, name: str) -> None:
        columns, rows, count = stack.geometry.shape
        integral = all(one.is_integral or one.table for one in slices)
        dtype = np.dtype(np.int16 if integral else np.float32)
        if columns * rows * count * dtype.itemsize > machine_memory():
            raise CaseError(f"{name} has {columns}x{rows}x{count} voxels, more than this machine's memory holds.")
        self.volume: Volume = np.empty((count, rows, columns), dtype)
        self._padded = 0
        self._inverted = any(one.inverted for one in slices)

    def put(self, place: int, stored: NDArray[Any], header: SliceHeader, dataset: Dataset) -> None:
        values = _rescaled(stored, header, dataset)
        if header.padding is not None and header.modality == "CT":
            self._pad(values, stored, header)
        if self.volume.dtype == np.int16 and not _fits(values):
            self.volume = self.volume.astype(np.float32)
        self.volume[place] = values

    def _pad(self, values: NDArray[Any], stored: NDArray[Any], header: SliceHeader) -> None:
        lowest, highest = header.padding or (0, 0)
        outside = (stored >= lowest) & (stored <= highest) & (values < AIR)
        values[outside] = AIR
        self._padded += int(np.count_nonzero(outside))

    def notes(self) -> list[str]:
        notes = []
        if self._padded:
            notes.append(f"{self._padded:,} pixels hold no data (PixelPaddingValue); they count as {AIR} HU.")
        if self._inverted:
            notes.append("MONOCHROME1 says how a screen shows the image; the values are used as they are.")
        return notes


def _rescaled(stored: NDArray[Any], header: SliceHeader, dataset: Dataset) -> NDArray[Any]:
    if header.table:
        return np.array(apply_modality_lut(stored, dataset))
    if header.is_integral and stored.dtype.kind in "iu":
        return stored.astype(np.int64) * int(header.slope) + int(header.intercept)
    return stored.astype(np.float64) * header.slope + header.intercept


def _fits(values: NDArray[Any]) -> bool:
    if values.dtype.kind not in "iu":
        return False
    limits = np.iinfo(np.int16)
    return bool(limits.min <= values.min() and values.max() <= limits.max)
