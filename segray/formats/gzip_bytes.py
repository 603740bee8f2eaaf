"""Gzip in and out with ISA-L, and plain files behind the same reader."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from segray import storage
from segray.errors import CaseError, SegrayError
from segray.formats.folder import file_state

Packing = Literal["plain", "gzip", "zlib"]

GZIP_MAGIC = b"\x1f\x8b"

MAX_RATIO = 1032
"""DEFLATE expands at most 1032 times: 258 bytes from two bits (RFC 1951, section 3.2.5)."""

GZIP_WINDOW = 31
"""zlib's name for a gzip header and a window of 32 KiB (16 + 15 bits)."""

HEAD_BYTES = 1 << 16
"""Compressed bytes read to see a header; header extensions lie behind what is asked for."""


DAMAGE: Any = (gzip.BadGzipFile, isal_zlib.IsalError)
"""What isal raises for a damaged file; its stubs do not say that these are exceptions."""


class _ZlibStream:
    """A zlib stream that fills buffers, as isal's raw gzip reader does."""

    def __init__(self, data: memoryview) -> None:
        self._stream = isal_zlib.decompressobj()
        self._rest: Any = data

    def readinto(self, target: memoryview) -> int:
        """Fill ``target`` as far as one step goes; 0 at the end. Raises EOFError where the stream is cut off."""
        while not self._stream.eof:
            piece = self._stream.decompress(self._rest, len(target))
            self._rest = self._stream.unconsumed_tail
            if piece:
                target[: len(piece)] = piece
                return len(piece)
            if not self._rest and not self._stream.eof:
                raise EOFError
        return 0


class ByteReader:
    """The inflated bytes of one file, front to back, into buffers that the caller has sized.

    Nothing is inflated beyond what is asked for, so a small file that expands without end costs no memory.

    Args:
        name: the path, for messages.
        data: the file as it lies on the disk; inflated where it is packed.
        size: bytes of the whole file where ``data`` is only its head; None: ``data`` is all.
        packing: how the bytes are packed; None: gzip where they start as gzip does, else plain.

    Raises:
        CaseError: an empty file, a name that ends in .gz with other content, damage.
    """

    def __init__(
        self, name: str, data: bytes | memoryview, *, size: int | None = None, packing: Packing | None = None
    ) -> None:
        if not len(data):
            raise CaseError(f"{name} is empty.", mend="Copy it again from its source.")
        self.name = name
        is_gzip = packing == "gzip" or (packing is None and bytes(data[:2]) == GZIP_MAGIC)
        if name.endswith(".gz") and not is_gzip:
            raise CaseError(f"{name} is not gzip, although its name ends in .gz.", mend="Rename or compress it.")
        self._data = memoryview(data)
        self._at = 0
        # isal's public IGzipFile copies every read once more; its raw reader fills the caller's buffer.
        raw_reader: Any = isal_zlib._GzipReader
        self._inflater: Any = raw_reader(data, HEAD_BYTES) if is_gzip else None
        if packing == "zlib":
            self._inflater = _ZlibStream(self._data)
        self.packed = self._inflater is not None
        self.stored = len(data) if size is None else size
        """Bytes of the whole file on the disk."""
        self.most = self.stored * MAX_RATIO if self.packed else self.stored
        """The most bytes that can come out."""

    def read_into(self, buffer: NDArray[np.uint8]) -> None:
        """Fill a one-dimensional byte array. Raises CaseError where the file ends before or is damaged."""
        count = len(buffer)
        if self._inflater is None:
            piece = self._data[self._at : self._at + count]
            buffer[: len(piece)] = np.frombuffer(piece, np.uint8)
            done = len(piece)
            self._at += done
        else:
            done = self._inflate_into(buffer.data)
        if done < count:
            raise CaseError(
                f"{self.name} ends too early: {count - done:,} bytes of its voxels or header are missing.",
                mend="Copy it again from its source.",
            )

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises CaseError as :meth:`read_into`."""
        buffer = np.empty(count, np.uint8)
        self.read_into(buffer)
        return buffer.tobytes()

    def finish(self) -> None:
        """Check the checksum where the data end here. Raises CaseError on a wrong one."""
        if self._inflater is not None:
            self._inflate_into(memoryview(bytearray(1)))

    def _inflate_into(self, target: memoryview) -> int:
        done = 0
        try:
            while done < len(target):
                got = self._inflater.readinto(target[done:])
                if got == 0:
                    break
                done += got
        except EOFError as error:
            raise CaseError(f"{self.name} is cut off: its packed data end too early.", mend="Copy it again.") from error
        except DAMAGE as error:
            raise CaseError(f"{self.name} is damaged ({error}).", mend="Copy it again from its source.") from error
        return done


def open_bytes(path: str) -> ByteReader:
    """The whole file at ``path``, ready to be inflated. Raises CaseError where it cannot be read."""
    return ByteReader(path, load(path))


def open_head(path: str) -> ByteReader:
    """The first bytes of the file at ``path``, enough for a header; it knows the file's size. Raises CaseError."""
    try:
        head = storage.read_head(path, HEAD_BYTES)
        return ByteReader(path, head, size=file_state(path)[0] if len(head) == HEAD_BYTES else None)
    except CaseError:
        raise
    except (SegrayError, OSError) as error:
        raise CaseError(str(error)) from error


def load(path: str) -> bytes:
    """The bytes of the file at ``path`` as they lie on the disk. Raises CaseError where it cannot be read."""
    try:
        return storage.read_bytes(path)
    except (SegrayError, OSError) as error:
        raise CaseError(str(error)) from error


def compress(*parts: bytes | NDArray[Any]) -> bytes:
    """One gzip file of all parts (C-ordered) in turn, at ISA-L's level 1: on masks smaller and faster than zlib's."""
    return compress_all(parts)


def compress_all(parts: Iterable[bytes | NDArray[Any]]) -> bytes:
    """As :func:`compress`; parts that are made as they are asked for are never in memory together."""
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, GZIP_WINDOW)
    pieces = [packer.compress(part if isinstance(part, bytes) else part.data) for part in parts]
    return b"".join([*pieces, packer.flush()])
