"""The text headers of NRRD and MetaImage files: where the voxels lie and how many bytes they take.

SimpleITK reads the geometry. What it would allocate, open or pass on in silence is checked here first: a header may
claim any size, and may name any file of the machine as the one that holds its voxels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segray.errors import CaseError
from segray.formats.gzip_bytes import Packing

MOST_HEADER = 1 << 16
"""Bytes within which a header ends."""

NRRD_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
NRRD_PACKING: dict[str, Packing] = {"raw": "plain", "gzip": "gzip", "gz": "gzip"}
META_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
SPACING = ("elementspacing", "elementsize")
PLACE = ("offset", "position", "origin", "transformmatrix", "orientation", "rotation")
"""Keys of MetaImage for one thing; ITK reads what is no number as 0."""

MEND = "Write it again with SimpleITK or 3D Slicer."


@dataclass(frozen=True)
class VolumeHeader:
    """What a header says about its voxels.

    Attributes:
        text: the header as it lies in the file.
        shape: the sizes (i, j, k), the fastest first; a single slice has k = 1.
        flat: the file stores two axes only.
        dtype: the type of a stored voxel, with its byte order.
        packing: how the voxels are packed.
        offset: where they start in their file; -1: they are its last bytes.
        data_file: the name of the file beside the header that holds them; empty: the same file.
    """

    text: bytes
    shape: tuple[int, int, int]
    flat: bool
    dtype: np.dtype[Any]
    packing: Packing
    offset: int
    data_file: str = ""

    @property
    def bytes(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_volume_header(head: bytes, name: str) -> VolumeHeader:
    """The header at the start of ``head`` (the first 64 KiB of a file); ``name`` says by its ending what it is.

    Raises:
        CaseError: no such header, or one of what segray does not read.
    """
    if not head:
        raise CaseError(f"{name} is empty.", mend="Copy it again from its source.")
    parse = _nrrd if name.lower().endswith(".nrrd") else _meta
    try:
        return parse(head[:MOST_HEADER], name)
    except (KeyError, ValueError, OverflowError) as error:
        raise CaseError(f"{name} has a header that is incomplete or wrong ({error}).", mend=MEND) from error


def data_file_of(head: bytes, name: str) -> str:
    """The file beside a MetaImage header that holds the voxels; empty where they lie behind the header.

    Raises:
        CaseError: no such header, or it names what segray does not open.
    """
    return _data_file(_meta_fields(head, name)[1].get("elementdatafile", ""), name)


def _nrrd(head: bytes, name: str) -> VolumeHeader:
    if not head.startswith(b"NRRD000"):
        raise CaseError(f"{name} is no NRRD file: it does not start as one.")
    ends = [found + len(blank) for blank in (b"\n\n", b"\n\r\n") if (found := head.find(blank)) >= 0]
    if not ends:
        raise CaseError(f"{name} has a header without an end.", mend="Copy it again from its source.")
    text = head[: min(ends)]
    fields = _fields(text, ":")
    for key in ("data file", "datafile"):
        if key in fields:
            raise CaseError(f"{name} names another file for its voxels; segray reads NRRD in one file.", mend=MEND)
    for key in ("byte skip", "byteskip", "line skip", "lineskip"):
        if fields.get(key, "0") != "0":
            raise CaseError(f"{name} skips bytes or lines before its voxels, which segray does not.", mend=MEND)
    encoding = fields["encoding"].lower()
    if encoding not in NRRD_PACKING:
        raise CaseError(f"{name} is encoded as {encoding[:20]!r}; segray reads raw and gzip.", mend=MEND)
    kinds = fields.get("kinds", "").lower().split()
    if any(kind not in ("domain", "space", "???", "none") for kind in kinds):
        raise CaseError(f"{name} holds {' x '.join(kinds)[:60]}; segray reads one real number a voxel.", mend=MEND)
    dtype = _dtype(_nrrd_type(fields["type"], name), fields.get("endian", "little").lower() == "big")
    sides = _sides(fields["sizes"], int(fields["dimension"]), name)
    return VolumeHeader(text, *sides, dtype, NRRD_PACKING[encoding], len(text))


def _nrrd_type(told: str, name: str) -> str:
    code = next((code for code, names in NRRD_TYPES.items() if told.lower() in names), None)
    if code is None:
        raise CaseError(f"{name} holds {told[:30]!r}; segray reads one real number a voxel.", mend=MEND)
    return code


def _meta_fields(head: bytes, name: str) -> tuple[bytes, dict[str, str]]:
    """The header, which ends with the line that names the voxels, and its fields."""
    start = head.find(b"ElementDataFile")
    end = head.find(b"\n", start)
    if start < 0 or (start > 0 and head[start - 1 : start] != b"\n"):
        raise CaseError(f"{name} is no MetaImage file: it names no ElementDataFile.")
    text = head if end < 0 else head[: end + 1]
    return text, _fields(text, "=")


def _meta(head: bytes, name: str) -> VolumeHeader:
    text, fields = _meta_fields(head, name)
    if _true(fields.get("binarydata", "True")) is False:
        raise CaseError(f"{name} holds its voxels as text; segray reads binary ones.", mend=MEND)
    if int(fields.get("elementnumberofchannels", "1")) != 1:
        raise CaseError(f"{name} holds vectors or colours; segray reads one real number a voxel.", mend=MEND)
    told = fields["elementtype"].upper()
    if told not in META_TYPES:
        raise CaseError(f"{name} holds {told[:30]!r}; segray reads one real number a voxel.", mend=MEND)
    big = any(_true(fields.get(key, "False")) for key in ("binarydatabyteordermsb", "elementbyteordermsb"))
    sides = _sides(fields["dimsize"], int(fields["ndims"]), name)
    if not all(0 < step < math.inf for step in _numbers(fields, SPACING)):
        raise CaseError(f"{name} has a voxel spacing that is zero, negative or not finite.", mend="Set its spacing.")
    if not all(map(math.isfinite, _numbers(fields, PLACE))):
        raise CaseError(f"{name} has an offset or orientation that is not finite.", mend="Set it in its header.")
    packing: Packing = "zlib" if _true(fields.get("compresseddata", "False")) else "plain"
    data_file = _data_file(fields["elementdatafile"], name)
    skipped = int(fields.get("headersize", "0"))
    if skipped < -1 or (skipped and not data_file):
        raise CaseError(f"{name} has an impossible HeaderSize ({skipped}).", mend=MEND)
    offset = skipped if data_file else len(text)
    return VolumeHeader(text, *sides, _dtype(META_TYPES[told], big), packing, offset, data_file)


def _numbers(fields: Mapping[str, str], keys: Sequence[str]) -> list[float]:
    return [float(word) for key in keys for word in fields.get(key, "").split()]


def _data_file(told: str, name: str) -> str:
    """Empty for LOCAL, else a file name: a header from elsewhere must not open what lies in other folders."""
    if told.upper() == "LOCAL":
        return ""
    if not told:
        raise CaseError(f"{name} does not say which file holds its voxels.", mend=MEND)
    if told.split()[0].upper() == "LIST" or "%" in told:
        raise CaseError(f"{name} spreads its voxels over several files; segray reads one.", mend=MEND)
    if "/" in told or "\\" in told or told.startswith(".") or "\0" in told:
        raise CaseError(
            f"{name} names voxels outside of its own folder ({told[:60]!r}).", mend="Put it beside the header."
        )
    return told


def _fields(text: bytes, sign: str) -> dict[str, str]:
    """The ``key: value`` lines; keys in small letters, of equal ones the first."""
    fields: dict[str, str] = {}
    for line in text.decode("latin-1").splitlines():
        key, found, value = line.partition(sign)
        if found and not line.startswith("#") and not value.startswith("="):
            fields.setdefault(key.strip().lower(), value.strip())
    return fields


def _true(told: str) -> bool:
    return told[:1] in "TtYy1" and bool(told)


def _dtype(code: str, big: bool) -> np.dtype[Any]:
    return np.dtype(f"{'>' if big else '<'}{code}")


def _sides(told: str, axes: int, name: str) -> tuple[tuple[int, int, int], bool]:
    """The sizes (i, j, k), and whether only two of them are stored."""
    sides = [int(word) for word in told.split()]
    if len(sides) != axes or not sides or min(sides) < 1:
        raise CaseError(f"{name} has a header without a valid shape.", mend=MEND)
    if axes not in (2, 3):
        shown = "x".join(str(side) for side in sides[:8])
        raise CaseError(f"{name} has {axes} axes ({shown}); segray reads volumes of three.", mend="Split it.")
    i, j, k = (*sides, 1)[:3]
    return (i, j, k), axes == 2
