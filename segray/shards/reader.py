"""Rows of shards to batches of pixels: compressed until the last moment, decoded on several threads."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segray import storage
from segray.case import Volume
from segray.shards import ShardError
from segray.shards.codec import decode_pixels_into
from segray.shards.index import SliceIndex, Visit
from segray.shards.schema import PIXEL_COLUMNS, check_schema

OPEN_FILES = 64


@dataclass(frozen=True, slots=True)
class CompressedSlice:
    """One row with its pixels still compressed."""

    case_id: str
    z: int
    height: int
    width: int
    dtype: str
    image: memoryview | bytes
    image_crc: int
    labels: memoryview | bytes | None
    labels_crc: int
    labels_dtype: str | None
    mean: float
    sd: float

    @property
    def bytes(self) -> int:
        """Compressed size."""
        return len(self.image) + (len(self.labels) if self.labels is not None else 0)

    def own(self) -> CompressedSlice:
        """The same row with bytes of its own, so that the block it came from can be freed."""
        labels = None if self.labels is None else bytes(self.labels)
        return replace(self, image=bytes(self.image), labels=labels)


@dataclass(frozen=True, slots=True)
class SliceBatch:
    """A dense batch.

    Attributes:
        images: (n, H, W) int16 (or uint8, uint16) where all slices have it, else float32; not normalised.
        labels: (n, H, W) channel indices, uint8 or uint16; 0 where a slice has no labels.
        mean: (n,) float32, mean of the voxels of the slice's case.
        sd: (n,) float32.
        case_ids: n case ids.
        z: (n,) place of the slice in its case.
    """

    images: NDArray[Any]
    labels: NDArray[Any]
    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    case_ids: list[str]
    z: NDArray[np.int32]


class _OpenParts(threading.local):
    """The Parquet files that a thread has open, the oldest closed first."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, pq.ParquetFile] = OrderedDict()

    def get(self, path: str, visit: Visit) -> pq.ParquetFile:
        """The open file at ``path``; its size and schema were checked when it was opened."""
        key = f"{path}:{_stamp(path)}:{visit.bytes}"
        file = self._files.pop(key, None)
        if file is None:
            fs, inner = storage.filesystem(path)
            source = pa.memory_map(inner) if not storage.is_remote(path) else fs.open_input_file(inner)
            size = int(source.size())
            if visit.bytes not in (0, size):
                raise ShardError(
                    f"{visit.part} has {size} bytes, the manifest says {visit.bytes}.", mend="Run segray ingest again."
                )
            file = pq.ParquetFile(source, pre_buffer=False)
            check_schema(file.schema_arrow, visit.part)
        self._files[key] = file
        while len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)
        return file


_PARTS = _OpenParts()


def _stamp(path: str) -> int:
    """A part that was written again is another file."""
    return 0 if storage.is_remote(path) else os.stat(path).st_mtime_ns


def read_visit(folder: str, visit: Visit) -> pa.Table:
    """The compressed rows of a visit, columns :data:`PIXEL_COLUMNS`. Raises ShardError where the part is damaged."""
    path = storage.join(storage.absolute(folder), visit.part)
    try:
        file = _PARTS.get(path, visit)
        table = file.read_row_group(visit.group, columns=PIXEL_COLUMNS, use_threads=False)
        if visit.rows != tuple(range(table.num_rows)):
            table = table.take(list(visit.rows))
    except (OSError, pa.ArrowException, IndexError) as error:
        raise ShardError(f"{visit.part} cannot be read ({error}).", mend="Run segray ingest again.") from error
    return table


def slices_of(table: pa.Table) -> Iterator[CompressedSlice]:
    """The rows of a table; pixels are views of its buffers."""
    for batch in table.to_batches():
        columns = {name: batch.column(name) for name in PIXEL_COLUMNS}
        images, labels = _views(columns["image"]), _views(columns["labels"])
        plain = [columns[name].to_pylist() for name in PIXEL_COLUMNS if name not in ("image", "labels")]
        for (case_id, z, height, width, dtype, crc, labels_crc, labels_dtype, mean, sd), image, label in zip(
            zip(*plain, strict=True), images, labels, strict=True
        ):
            yield CompressedSlice(
                case_id, z, height, width, dtype, image, crc, label, labels_crc or 0, labels_dtype, mean, sd
            )


def _views(column: pa.Array) -> list[Any]:
    """The values of a binary column as memory views, None where null."""
    offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)[
        column.offset : column.offset + len(column) + 1
    ].tolist()
    data = column.buffers()[2]
    view = memoryview(data) if data is not None else memoryview(b"")
    found = [view[start:end] for start, end in pairwise(offsets)]
    if column.null_count:
        return [piece if valid else None for piece, valid in zip(found, column.is_valid().to_pylist(), strict=True)]
    return found


class Mixer:
    """A bounded buffer of compressed slices that gives them back in random order, fixed by the seed.

    Args:
        limit: bytes to hold; the larger, the better neighbours in a row group are torn apart.
        seed: of the order.
    """

    def __init__(self, limit: int, seed: Sequence[int]) -> None:
        self._limit = limit
        self._rng = np.random.default_rng(list(seed))
        self._held: list[CompressedSlice] = []
        self._bytes = 0

    def mix(self, slices: Iterable[CompressedSlice]) -> Iterator[CompressedSlice]:
        """All of ``slices``, mixed."""
        for one in slices:
            self._held.append(one.own())
            self._bytes += one.bytes
            while self._bytes > self._limit:
                yield self._pick()
        while self._held:
            yield self._pick()

    def _pick(self) -> CompressedSlice:
        number = int(self._rng.integers(len(self._held)))
        self._held[number], self._held[-1] = self._held[-1], self._held[number]
        picked = self._held.pop()
        self._bytes -= picked.bytes
        return picked


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="decode")


def decode_batch(slices: Sequence[CompressedSlice], threads: int = 1) -> SliceBatch:
    """Decompress slices into one dense batch; blosc2 releases the GIL, so ``threads`` decode side by side.

    Raises:
        ShardError: a slice is damaged, or the slices differ in size.
    """
    first = slices[0]
    shape = (len(slices), first.height, first.width)
    dtypes = {one.dtype for one in slices}
    images = np.empty(shape, dtype=dtypes.pop() if len(dtypes) == 1 else "float32")
    wide = any(one.labels_dtype == "uint16" for one in slices)
    labels = np.empty(shape, dtype="uint16" if wide else "uint8")

    def decode(number: int) -> None:
        _decode_slice(slices[number], images[number], labels[number])

    if threads > 1:
        list(_pool(threads).map(decode, range(len(slices))))
    else:
        for number in range(len(slices)):
            decode(number)
    return SliceBatch(
        images,
        labels,
        np.array([one.mean for one in slices], dtype=np.float32),
        np.array([one.sd for one in slices], dtype=np.float32),
        [one.case_id for one in slices],
        np.array([one.z for one in slices], dtype=np.int32),
    )


def _decode_slice(one: CompressedSlice, image: NDArray[Any], labels: NDArray[Any]) -> None:
    if (one.height, one.width) != image.shape:
        raise ShardError(f"{_where(one)} is {one.height}x{one.width}, its batch {image.shape}.")
    try:
        _decode_as(one.image, one.dtype, one.image_crc, image)
        if one.labels is None or one.labels_dtype is None:
            labels[...] = 0
        else:
            _decode_as(one.labels, one.labels_dtype, one.labels_crc, labels)
    except ShardError as error:
        raise ShardError(f"{_where(one)}: {error.message}", mend=error.mend) from error


def _decode_as(data: memoryview | bytes, dtype: str, crc: int, out: NDArray[Any]) -> None:
    if out.dtype == dtype:
        decode_pixels_into(data, out, crc)
        return
    narrow = np.empty(out.shape, dtype=dtype)
    decode_pixels_into(data, narrow, crc)
    out[...] = narrow


def _where(one: CompressedSlice) -> str:
    return f"part-{one.case_id}.parquet, case {one.case_id}, slice {one.z}"


def iterate_batches(
    folder: str, visits: Sequence[Visit], batch_size: int, *, threads: int = 1, mixer: Mixer | None = None
) -> Iterator[SliceBatch]:
    """Batches of ``batch_size`` (the last may be smaller) in this process; the next row group is read meanwhile."""

    def rows() -> Iterator[CompressedSlice]:
        with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
            ahead = [pool.submit(read_visit, folder, visit) for visit in visits[:2]]
            for number in range(len(visits)):
                table = ahead.pop(0).result()
                if number + 2 < len(visits):
                    ahead.append(pool.submit(read_visit, folder, visits[number + 2]))
                yield from slices_of(table)

    stream = mixer.mix(rows()) if mixer is not None else rows()
    yield from decode_groups(stream, batch_size, threads)


def decode_groups(stream: Iterator[CompressedSlice], batch_size: int, threads: int) -> Iterator[SliceBatch]:
    """Decode a stream of slices, ``batch_size`` at a time."""
    waiting: list[CompressedSlice] = []
    for one in stream:
        waiting.append(one)
        if len(waiting) == batch_size:
            yield decode_batch(waiting, threads)
            waiting = []
    if waiting:
        yield decode_batch(waiting, threads)


def read_case_volume(
    folder: str, index: SliceIndex, case_id: str, z0: int = 0, z1: int | None = None, *, threads: int = 1
) -> tuple[Volume, Volume]:
    """A 3D block, or a 2.5D stack, of a case: images and labels (z, H, W) for slices z0 to z1 (exclusive).

    Only the row groups that hold these slices are read. Raises ShardError where the case has no such slice.
    """
    number = next((position for position, part in enumerate(index.parts) if part.case_id == case_id), -1)
    mine = index.part == number
    wanted = np.flatnonzero(mine & (index.z >= z0) & (index.z < (index.part.size if z1 is None else z1)))
    rows = [one for visit in index.visits(wanted) for one in slices_of(read_visit(folder, visit))]
    if not rows:
        raise ShardError(f"The case {case_id} has no slices {z0} to {z1}.")
    batch = decode_batch(rows, threads)
    return batch.images, batch.labels
