"""Whether a PNG holds all rows that its header claims: Pillow fills what is missing with zeros, without a word."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from isal import isal_zlib

SIGNATURE_BYTES = 8
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by the colour type of the header."""

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, and the steps of both, of the passes of interlaced files (PNG, section 8.2)."""

STEP = 1 << 20


def lacks_rows(stream: BinaryIO) -> bool:
    """True where the packed rows of a PNG inflate to less than its header claims; at most that much is inflated.

    Raises:
        IsalError: its packed data are damaged.
    """
    stream.seek(SIGNATURE_BYTES)
    wanted = 0
    inflater = isal_zlib.decompressobj()
    for name, data in _chunks(stream):
        if name == b"IHDR":
            wanted = _row_bytes(data)
        elif name == b"IDAT":
            wanted -= _inflated(inflater, data, wanted)
            if wanted <= 0 or inflater.eof:
                break
    return wanted > 0


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    while len(head := stream.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        yield name, stream.read(length)
        stream.read(4)


def _inflated(inflater: isal_zlib.Decompress, data: bytes, most: int) -> int:
    """How many bytes the next packed data inflate to, counted up to ``most``."""
    done = 0
    while done < most and not inflater.eof:
        piece = inflater.decompress(data, STEP)
        done += len(piece)
        data = inflater.unconsumed_tail
        if not piece and not data:
            break
    return done


def _row_bytes(header: bytes) -> int:
    """Bytes of all rows, each with the byte that names its filter."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", header[:13])
    bits = depth * SAMPLES.get(kind, 1)
    passes = PASSES if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, right, down in passes:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total
