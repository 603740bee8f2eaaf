"""Gzip in and out with ISA-L, and plain files behind the same reader."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Literal

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from segray import storage
from segray.errors import CaseError, SegrayError
from segray.formats.folder import file_state

Packing = Literal["plain", "gzip", "zlib"]

Part = bytes | NDArray[Any]
"""Bytes of a file, or a C-ordered array whose bytes they are."""

GZIP_MAGIC = b"\x1f\x8b"

MAX_RATIO = 1032
"""DEFLATE expands at most 1032 times: 258 bytes from two bits (RFC 1951, section 3.2.5)."""

DEFLATE_WINDOW = -15
"""zlib's name for a window of 32 KiB without a header."""

GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\x04\xff"
"""Magic, deflate, no name, no time, packed fast, any system (RFC 1952, section 2.3)."""

ZERO_RUN = 1 << 16
"""Zeros from which a piece that was packed before pays: fewer are packed as they are."""

LONGEST_ZEROS = 1 << 20
SHORTEST_ZEROS = 1 << 12
"""Zeros of the longest and the shortest such piece; powers of two between them make every run."""

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


class Packer:
    """One gzip file, made piece by piece at ISA-L's level 1: on masks smaller and faster than zlib's.

    A long run of zeros is a piece that was packed before, so that it costs neither reading nor packing, and a mask of a
    small structure little more than its voxels. Such pieces fit anywhere, and parts that threads packed apart from each
    other fit behind one another, since each ends at a full byte and the next refers to nothing before it (RFC 1951;
    zlib calls it a full flush).
    """

    def __init__(self) -> None:
        self._deflate = _deflater()
        self._pieces: list[bytes] = []
        self._checksum = 0
        self._length = 0
        self._open = False

    def add(self, part: Part) -> None:
        """Append bytes, or a C-ordered array, which may be used again afterwards."""
        data = memoryview(part) if isinstance(part, bytes) else part.reshape(-1).view(np.uint8).data
        if len(data) >= ZERO_RUN and not np.frombuffer(data, np.bool_).any():
            self.zeros(len(data))
        else:
            self._pack(data)

    def zeros(self, count: int) -> None:
        """Append ``count`` bytes of 0."""
        rest = count
        if count >= ZERO_RUN:
            self._end_piece()
            size = LONGEST_ZEROS
            while size >= SHORTEST_ZEROS:
                packed, checksum = _zeros(size)
                for _ in range(rest // size):
                    self._pieces.append(packed)
                    self._checksum = isal_zlib.crc32_combine(self._checksum, checksum, size)
                rest, size = rest % size, size // 2
        self._length += count - rest
        self._pack(memoryview(bytes(rest)))

    def append(self, other: Packer) -> None:
        """Append all that another one was given."""
        self._end_piece()
        other._end_piece()
        self._pieces += other._pieces
        self._checksum = isal_zlib.crc32_combine(self._checksum, other._checksum, other._length)
        self._length += other._length

    def finish(self) -> bytes:
        """The whole file."""
        tail = struct.pack("<II", self._checksum, self._length & 0xFFFFFFFF)
        return b"".join([GZIP_HEAD, *self._pieces, self._deflate.flush(), tail])

    def _pack(self, data: memoryview) -> None:
        if len(data):
            self._pieces.append(self._deflate.compress(data))
            self._checksum = isal_zlib.crc32(data, self._checksum)
            self._length += len(data)
            self._open = True

    def _end_piece(self) -> None:
        if self._open:
            self._pieces.append(self._deflate.flush(isal_zlib.Z_FULL_FLUSH))
            self._open = False


def _deflater() -> Any:
    return isal_zlib.compressobj(1, isal_zlib.DEFLATED, DEFLATE_WINDOW)


@cache
def _zeros(count: int) -> tuple[bytes, int]:
    """``count`` zeros packed up to a full byte, as short as can be since it is done once, and their checksum."""
    zeros = bytes(count)
    packer = zlib.compressobj(9, zlib.DEFLATED, DEFLATE_WINDOW)
    return packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH), zlib.crc32(zeros)


def compress(*parts: Part) -> bytes:
    """One gzip file of all parts (C-ordered) in turn."""
    return compress_all([parts])


def compress_all(spans: Sequence[Iterable[Part]]) -> bytes:
    """One gzip file of all parts (C-ordered) of all spans in turn; spans are made and packed beside one another.

    A part is packed before the next one of its span is asked for, so that few are in memory together.
    """
    first, *others = _packed(spans)
    for other in others:
        first.append(other)
    return first.finish()


def file_bytes(path: str, spans: Sequence[Iterable[Part]]) -> bytes:
    """The bytes of a file of all parts (C-ordered) of all spans in turn, packed where its name ends in .gz."""
    if path.endswith(".gz"):
        return compress_all(spans)
    return b"".join(part if isinstance(part, bytes) else part.tobytes() for span in spans for part in span)


def _packed(spans: Sequence[Iterable[Part]]) -> list[Packer]:
    if len(spans) == 1:
        return [_packed_span(spans[0])]
    with ThreadPoolExecutor(len(spans)) as pool:
        return list(pool.map(_packed_span, spans))


def _packed_span(parts: Iterable[Part]) -> Packer:
    packer = Packer()
    for part in parts:
        packer.add(part)
    return packer
