"""DICOM files whose elements are deflated as a whole: inflated by segray, since pydicom would do so without limit."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from isal import isal_zlib
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from segray.errors import CaseError
from segray.formats.limits import BOMB_BYTES, BOMB_RATIO, shown_bytes

HEADER_BYTES = 1 << 27
"""Bytes that come before the pixels of a deflated file at most; contours of hundreds of structures are less."""

STEP = 1 << 20
"""Bytes that are inflated at once."""

WINDOW = -15
"""zlib's name for a stream without header or checksum."""

MEND = "If it is whole, save it uncompressed, for example with gdcmconv --raw."

_TRANSFER_SYNTAX = 0x00020010
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()
_PLAIN = ExplicitVRLittleEndian.encode().ljust(len(_DEFLATED), b"\0")


class Inflated:
    """The elements of a deflated file as a plain one.

    Args:
        file: stands behind the group of its transfer syntax, where :func:`is_deflated` leaves it.
        path: for messages.
        pixels: False: what comes behind the first :data:`HEADER_BYTES` is not inflated.

    Raises:
        CaseError: it expands as no file does.
        EOFError: it is cut.
    """

    def __init__(self, file: BinaryIO, path: str, *, pixels: bool) -> None:
        self._path = path
        start = file.tell()
        stored = file.seek(0, io.SEEK_END)
        self._most = max(BOMB_BYTES, stored * BOMB_RATIO) if pixels else HEADER_BYTES
        file.seek(0)
        self.file = io.BytesIO()
        self.file.write(file.read(start).replace(_DEFLATED, _PLAIN))
        self._whole = self._inflate(file)
        if pixels and not self._whole:
            raise self._bomb()
        self.file.seek(0)

    def check(self) -> None:
        """Refuse a file of which more was asked for than is inflated. Raises CaseError."""
        if not self._whole and self.file.tell() >= self._most:
            raise self._bomb()

    def _inflate(self, file: BinaryIO) -> bool:
        """True where that was all of it."""
        stream = isal_zlib.decompressobj(WINDOW)
        while not stream.eof and self.file.tell() < self._most:
            packed = stream.unconsumed_tail or file.read(STEP)
            piece = stream.decompress(packed, STEP)
            if not piece and not packed:
                raise EOFError("its packed data end too early")
            self.file.write(piece)
        return stream.eof

    def _bomb(self) -> CaseError:
        return CaseError(
            f"{self._path} is deflated and expands to more than {shown_bytes(self._most)}, so it is left alone.",
            mend=MEND,
        )


def is_deflated(file: BinaryIO) -> bool:
    """Whether all behind the first group of elements is deflated; where it is, the file stands there, else at 0."""
    read_preamble(file, force=True)
    first: Any = read_dataset(file, False, True, stop_when=_behind_first_group)
    syntax = first.get_item(_TRANSFER_SYNTAX) if _TRANSFER_SYNTAX in first else None
    if syntax is not None and bytes(syntax.value or b"").strip(b"\0 ") == _DEFLATED:
        return True
    file.seek(0)
    return False


def _behind_first_group(tag: int, _vr: str | None, _length: int) -> bool:
    return tag >> 16 != 2
