"""Pixels to compressed bytes and back: one blosc2 chunk a slice, with a checksum over the compressed bytes."""

from __future__ import annotations

from typing import Any, Literal

import blosc2
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from segray.shards import ShardError

Codec = Literal["zstd", "lz4"]

DTYPES = ("int16", "float32", "uint8", "uint16", "uint32")
"""The pixel types that a shard may hold."""

BLOCK_BYTES = 128 * 1024
"""blosc2 block: larger than the L1 default; measured 10 % smaller and faster for 512 x 512 int16 CT."""

MEND = "Delete the part and run segray ingest again."

_CODECS = {"zstd": blosc2.Codec.ZSTD, "lz4": blosc2.Codec.LZ4}
_ONE_THREAD = {"nthreads": 1}


def encode_pixels(pixels: NDArray[Any], codec: Codec = "zstd", level: int = 1) -> bytes:
    """Compress an array.

    int16 and float32 are bit-shuffled, which beats the byte shuffle on noisy CT in size and speed; labels lie in runs
    and compress best as they are.

    Args:
        pixels: (H, W) or (c, H, W), of one of :data:`DTYPES`.
        codec: blosc2 codec.
        level: 1 (fast) to 9 (small).

    Raises:
        ValueError: a pixel type that shards do not hold.
    """
    flat = np.ascontiguousarray(pixels).reshape(-1)
    data: bytes = blosc2.compress2(flat, **_parameters(pixels.dtype, codec, level))
    return data


def encode_slices(pixels: NDArray[Any], codec: Codec = "zstd", level: int = 1) -> list[bytes]:
    """As :func:`encode_pixels` for each slice of (z, H, W) or (z, c, H, W), with one compressor for all of them.

    The bytes are the same. On slices of 128 x 128 the setting up of a compressor takes as long as the compression.
    """
    if not pixels.size:
        return [encode_pixels(plane, codec, level) for plane in pixels]
    parameters = _parameters(pixels.dtype, codec, level)
    chunks = blosc2.SChunk(chunksize=pixels[0].nbytes, cparams=parameters)
    for plane in pixels:
        chunks.append_data(np.ascontiguousarray(plane).reshape(-1))
    return [chunks.get_chunk(z) for z in range(len(pixels))]


def _parameters(dtype: np.dtype[Any], codec: Codec, level: int) -> dict[str, Any]:
    if dtype.name not in DTYPES:
        raise ValueError(f"shards hold {', '.join(DTYPES)}, not {dtype.name}")
    return {
        "codec": _CODECS[codec],
        "clevel": level,
        "typesize": dtype.itemsize,
        "blocksize": BLOCK_BYTES,
        "splitmode": blosc2.SplitMode.NEVER_SPLIT,
        "filters": [blosc2.Filter.NOFILTER if dtype.kind == "u" else blosc2.Filter.BITSHUFFLE],
        "filters_meta": [0],
        **_ONE_THREAD,
    }


def checksum(data: bytes | memoryview) -> int:
    """CRC-32 of compressed bytes."""
    return int(isal_zlib.crc32(data))


def decoded_bytes(data: bytes | memoryview) -> int:
    """The size of what a chunk says it holds. Raises ShardError where the bytes are no blosc2 chunk."""
    try:
        return int(blosc2.get_cbuffer_sizes(data)[0])
    except (RuntimeError, ValueError, TypeError) as error:
        raise ShardError(f"The pixels cannot be decompressed ({error}).", mend=MEND) from error


def decode_pixels_into(data: bytes | memoryview, out: NDArray[Any], crc: int | None = None) -> None:
    """Decompress into the contiguous array ``out``; the GIL is released meanwhile.

    Raises:
        ShardError: the checksum or the size is wrong, or the bytes are no blosc2 chunk.
    """
    if crc is not None and checksum(data) != crc:
        raise ShardError("The checksum is wrong: the file was damaged.", mend=MEND)
    size = decoded_bytes(data)
    if size != out.nbytes:
        raise ShardError(f"{size} bytes are stored where {out.nbytes} are due.", mend=MEND)
    try:
        blosc2.decompress2(data, dst=out, **_ONE_THREAD)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ShardError(f"The pixels cannot be decompressed ({error}).", mend=MEND) from error
