"""Rows of shards to batches of pixels: compressed until the last moment, decoded on several threads."""

from __future__ import annotations

import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segray import storage
from segray.case import Volume
from segray.shards import ShardError
from segray.shards.beside import CRCS, IMAGES, groups_of, neighbours_of, with_neighbours
from segray.shards.cache import ShardCache
from segray.shards.codec import DTYPES, MEND, checksum, decode_pixels_into, decoded_bytes
from segray.shards.index import SliceIndex, Visit
from segray.shards.schema import HOLLOW, PIXEL_COLUMNS, ROW, check_schema, content_of
from segray.shards.tally import CountedFile, count

OPEN_FILES = 64

MOST_BYTES = 1 << 29
"""Bytes of one slice, all its channels: 16,384 x 16,384 pixels of int16."""

CACHED_COLUMNS = [*PIXEL_COLUMNS, "spacing"]
"""What a cache keeps of a row group."""

GROUPS = b"segray.groups"
"""Key in the metadata of a row group's table: the rows of every row group of its part."""

ReadVisit = Callable[[str, Visit], pa.Table]
"""Folder and visit to compressed rows, as :func:`read_visit` gives them."""


@dataclass(frozen=True, slots=True)
class CompressedSlice:
    """One row with its pixels still compressed."""

    case_id: str
    z: int
    height: int
    width: int
    channels: int
    dtype: str
    image: memoryview | bytes
    image_crc: int
    labels: memoryview | bytes | None
    labels_crc: int
    labels_dtype: str | None
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    beside: tuple[memoryview | bytes, ...] = ()
    beside_crcs: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W), or (c, H, W) with several channels."""
        plane = (self.height, self.width)
        return plane if self.channels == 1 else (self.channels, *plane)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape with the slices beside it as further channels, of each slice all channels together."""
        if not self.beside:
            return self.shape
        return ((1 + len(self.beside)) * self.channels, self.height, self.width)

    @property
    def bytes(self) -> int:
        """Compressed size."""
        return len(self.image) + (len(self.labels) if self.labels is not None else 0) + sum(map(len, self.beside))

    def own(self) -> CompressedSlice:
        """The same row with bytes of its own, so that the block it came from can be freed."""
        labels = None if self.labels is None else bytes(self.labels)
        return replace(self, image=bytes(self.image), labels=labels, beside=tuple(map(bytes, self.beside)))


@dataclass(frozen=True, slots=True)
class SliceBatch:
    """A dense batch.

    Attributes:
        images: (n, H, W), or (n, c, H, W) with several channels; int16 (or uint8, uint16) where all slices have it,
            else float32; not normalised. With k slices beside each one (n, (k + 1) * c, H, W), from the lowest z up.
        labels: (n, H, W) channel indices, uint8 or uint16, or bit fields up to uint32; 0 where a slice has no labels.
            Of 3D patches (n, D, H, W), beside images (n, D * c, H, W) (:mod:`segray.shards.stacks`).
        mean: (n,) float32, mean of the voxels of the slice's case; (n, c) with several channels.
        sd: as ``mean``.
        case_ids: n case ids.
        z: (n,) place of the slice in its case.
    """

    images: NDArray[Any]
    labels: NDArray[Any]
    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    case_ids: list[str]
    z: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _OpenPart:
    """A Parquet file, what counts the bytes read of it, and the rows of each of its row groups."""

    file: pq.ParquetFile
    source: CountedFile
    groups: tuple[int, ...]


class _OpenParts(threading.local):
    """The Parquet files that a thread has open, the oldest closed first."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, _OpenPart] = OrderedDict()

    def get(self, path: str, visit: Visit) -> _OpenPart:
        """The open file at ``path``; its size, schema and content were checked when it was opened."""
        key = f"{path}:{_stamp(path)}:{visit.bytes}:{visit.content}"
        part = self._files.pop(key, None) or _open(path, visit)
        self._files[key] = part
        while len(self._files) > OPEN_FILES:
            self._files.popitem(last=False)
        return part


def _open(path: str, visit: Visit) -> _OpenPart:
    fs, inner = storage.filesystem(path)
    remote = storage.is_remote(path)
    source = fs.open_input_file(inner) if remote else pa.memory_map(inner)
    size = int(source.size())
    if visit.bytes not in (0, size):
        raise ShardError(
            f"{visit.part} has {size} bytes, the manifest says {visit.bytes}.", mend="Run segray ingest again."
        )
    counted = CountedFile(source)
    # From a store the columns of a row group come in one request instead of one each.
    file = pq.ParquetFile(pa.PythonFile(counted, mode="r"), pre_buffer=remote)
    check_schema(file.schema_arrow, visit.part)
    metadata = file.schema_arrow.metadata or {}
    if HOLLOW in metadata:
        raise ShardError(f"{visit.part} holds no pixels.", mend="Run segray ingest to write shards that do.")
    if visit.content and content_of(metadata) != visit.content:
        raise ShardError(f"{visit.part} holds other rows than the manifest says.", mend="Run segray ingest again.")
    groups = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    return _OpenPart(file, counted, tuple(groups))


_PARTS = _OpenParts()


def _stamp(path: str) -> int:
    """A part that was written again is another file."""
    return 0 if storage.is_remote(path) else os.stat(path).st_mtime_ns


def read_visit(folder: str, visit: Visit, cache: ShardCache | None = None) -> pa.Table:
    """The compressed rows of a visit, columns :data:`PIXEL_COLUMNS` and those of :mod:`segray.shards.beside`.

    What it reads of the part itself, not of the cache, is counted in the :mod:`segray.shards.tally`.

    Args:
        folder: the shard folder.
        visit: what to read.
        cache: keeps the row groups that are read, and has those that were.

    Raises:
        ShardError: the part is damaged.
    """
    group = _group_reader(folder, visit, cache)
    with _damage_named(visit):
        whole = group(visit.group, PIXEL_COLUMNS)
        table = whole if visit.rows == tuple(range(whole.num_rows)) else whole.take(list(visit.rows))
        if visit.beside:
            table = _with_neighbours(table, whole, visit, group)
    return table.replace_schema_metadata(None)


@contextmanager
def _damage_named(visit: Visit) -> Iterator[None]:
    """What pyarrow says of a part, as a ShardError that names it."""
    try:
        yield
    except (OSError, pa.ArrowException, IndexError, UnicodeDecodeError) as error:
        raise ShardError(f"{visit.part} cannot be read ({error}).", mend="Run segray ingest again.") from error


ReadGroup = Callable[[int, list[str]], pa.Table]
"""Number of a row group and columns to its rows."""


def _group_reader(folder: str, visit: Visit, cache: ShardCache | None) -> ReadGroup:
    """What reads row groups of the part of a visit."""
    path = storage.join(storage.absolute(folder), visit.part)

    def fetch(number: int, columns: list[str]) -> pa.Table:
        part = _PARTS.get(path, visit)
        try:
            table = part.file.read_row_group(number, columns=columns, use_threads=False)
        finally:
            count(part.source.taken())
        return table.replace_schema_metadata({GROUPS: json.dumps(part.groups)})

    def from_cache(number: int, columns: list[str]) -> pa.Table:
        if cache is None:
            return fetch(number, columns)
        table = cache.table(_identity(path, visit, number), lambda: fetch(number, CACHED_COLUMNS), _is_whole)
        return table.select(columns)

    return from_cache


def _is_whole(table: pa.Table) -> bool:
    """Whether all pixels fit their checksums: a part that is mended has the identity of the damaged one."""
    for batch in table.to_batches():
        for name in ("image", "labels"):
            told = batch.column(f"{name}_crc").to_pylist()
            found = [None if data is None else checksum(data) for data in _views(batch.column(name))]
            if found != told:
                return False
    return True


def _identity(path: str, visit: Visit, number: int) -> list[str | int]:
    """What tells a row group from all others: by its content, wherever it lies.

    Parts of an older segray do not tell their content: those are known by address and time, for which the storage is
    asked each time.
    """
    content = visit.content
    if not content:
        # Imported where it is needed: a reading process has no other use for the room of formats.
        from segray.formats.folder import file_state

        content = f"{path}:{file_state(path)}"
    return [visit.part, visit.bytes, content, number]


LOST = -1
"""The place of a slice that could not be read."""


def lost_rows(visit: Visit) -> pa.Table:
    """Rows without pixels in the place of those of a visit that cannot be read; decoding them is an error."""
    count = len(visit.rows)
    known = {"case_id": visit.part.removeprefix("part-").removesuffix(".parquet"), "z": LOST, "image": b""}
    columns = {name: pa.array([known.get(name)] * count, type=ROW.field(name).type) for name in PIXEL_COLUMNS}
    if visit.beside:
        for name, like in ((IMAGES, "image"), (CRCS, "image_crc")):
            columns[name] = pa.array([[]] * count, type=pa.list_(ROW.field(like).type))
    return pa.table(columns)


def _with_neighbours(table: pa.Table, whole: pa.Table, visit: Visit, group: ReadGroup) -> pa.Table:
    """``table``, rows of the row group ``whole``, with the slices beside them out of that and others of the part."""
    sizes = json.loads(whole.schema.metadata[GROUPS])
    rows = np.array(visit.rows, dtype=np.int64) + sum(sizes[: visit.group])
    near = neighbours_of(rows, sum(sizes), visit.beside)
    groups = groups_of(near, sizes)
    columns = ["image", "image_crc"]
    source = pa.concat_tables(
        [whole.select(columns) if number == visit.group else group(number, columns) for number in groups]
    )
    return with_neighbours(table, source, near - sum(sizes[: groups[0]]))


def slices_of(table: pa.Table) -> Iterator[CompressedSlice]:
    """The rows of a table; pixels are views of its buffers."""
    for batch in table.to_batches():
        columns = {name: batch.column(name) for name in PIXEL_COLUMNS}
        images, labels = _views(columns["image"]), _views(columns["labels"])
        beside = _beside(batch)
        try:
            plain = [columns[name].to_pylist() for name in PIXEL_COLUMNS if name not in ("image", "labels")]
        except UnicodeDecodeError as error:
            raise ShardError("A part holds text that is no UTF-8.", mend=MEND) from error
        for (case_id, z, *shape, dtype, crc, labels_crc, labels_dtype, mean, sd), image, label, (near, crcs) in zip(
            zip(*plain, strict=True), images, labels, beside, strict=True
        ):
            height, width, channels = shape
            yield CompressedSlice(
                case_id,
                z,
                height,
                width,
                channels,
                dtype,
                image,
                crc,
                label,
                labels_crc or 0,
                labels_dtype,
                tuple(mean or ()),
                tuple(sd or ()),
                near,
                crcs,
            )


def _beside(batch: pa.RecordBatch) -> list[tuple[tuple[Any, ...], tuple[int, ...]]]:
    """Views of the compressed neighbours of each row, and their checksums."""
    if IMAGES not in batch.schema.names:
        return [((), ())] * batch.num_rows
    images, crcs = _views(batch.column(IMAGES).flatten()), batch.column(CRCS).to_pylist()
    size = len(images) // max(batch.num_rows, 1)
    return [(tuple(images[size * row : size * (row + 1)]), tuple(found)) for row, found in enumerate(crcs)]


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


class Compressed(Protocol):
    """What can wait in a :class:`Mixer`: a slice or a stack of them."""

    @property
    def bytes(self) -> int:
        """Compressed size."""

    def own(self) -> Self:
        """The same with bytes of its own."""


Held = TypeVar("Held", bound=Compressed)


class Mixer(Generic[Held]):
    """A bounded buffer of compressed slices, or stacks, that gives them back in random order, fixed by the seed.

    Args:
        limit: bytes to hold; the larger, the better neighbours in a row group are torn apart.
        seed: of the order.
    """

    def __init__(self, limit: int, seed: Sequence[int]) -> None:
        self._limit = limit
        self._rng = np.random.default_rng(list(seed))
        self._held: list[Held] = []
        self._bytes = 0

    def mix(self, slices: Iterable[Held]) -> Iterator[Held]:
        """All of ``slices``, mixed."""
        for one in slices:
            self._held.append(one.own())
            self._bytes += one.bytes
            while self._bytes > self._limit:
                yield self._pick()
        while self._held:
            yield self._pick()

    def _pick(self) -> Held:
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
    for one in slices:
        _check(one, first)
    shape = (len(slices), *first.input_shape)
    dtypes = {one.dtype for one in slices}
    images = np.empty(shape, dtype=dtypes.pop() if len(dtypes) == 1 else "float32")
    label_dtypes = {one.labels_dtype for one in slices if one.labels_dtype}
    labels = np.empty((len(slices), first.height, first.width), dtype=np.result_type("uint8", *label_dtypes))

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
        _moments([one.mean for one in slices], first.channels),
        _moments([one.sd for one in slices], first.channels),
        [one.case_id for one in slices],
        np.array([one.z for one in slices], dtype=np.int32),
    )


def _moments(values: Sequence[tuple[float, ...]], channels: int) -> NDArray[np.float32]:
    """(n,), or (n, c) with several channels."""
    return np.array(values, dtype=np.float32).reshape((len(values),) if channels == 1 else (len(values), channels))


def _check(one: CompressedSlice, first: CompressedSlice) -> None:
    """Refuse a row before its claims cost memory: a part from elsewhere may say anything. Raises ShardError."""
    # Columns of a Parquet file may hold nulls, whatever the types say.
    known: list[Any] = [one.case_id, one.z, one.height, one.width, one.channels, one.image, one.image_crc]
    complete = None not in known and None not in (*one.mean, *one.sd)
    if not complete or len(one.mean) != one.channels or len(one.sd) != one.channels or min(one.shape) < 1:
        raise ShardError(f"{_where(one)} is incomplete.", mend=MEND)
    if one.shape != first.shape or len(one.beside) != len(first.beside) or len(one.beside) != len(one.beside_crcs):
        raise ShardError(f"{_where(one)} is {'x'.join(map(str, one.shape))}, its batch {first.shape}.")
    images = [(image, one.dtype) for image in (one.image, *one.beside)]
    for data, dtype in (*images, (one.labels, one.labels_dtype)):
        if data is None:  # only labels, or a neighbour without bytes: that fails when it is decoded
            continue
        if dtype not in DTYPES:
            raise ShardError(f"{_where(one)} holds pixels of the type {str(dtype)[:20]!r}.", mend=MEND)
        due = math.prod(one.shape[-2:] if data is one.labels else one.shape) * np.dtype(dtype).itemsize
        if due > MOST_BYTES or due != decoded_bytes(data):
            raise ShardError(f"{_where(one)} does not hold the {due} bytes that it claims.", mend=MEND)


def _decode_slice(one: CompressedSlice, image: NDArray[Any], labels: NDArray[Any]) -> None:
    try:
        if not one.beside:
            _decode_as(one.image, one.dtype, one.image_crc, image)
        else:
            _decode_stack(one, image)
        if one.labels is None or one.labels_dtype is None:
            labels[...] = 0
        else:
            _decode_as(one.labels, one.labels_dtype, one.labels_crc, labels)
    except ShardError as error:
        raise ShardError(f"{_where(one)}: {error.message}", mend=error.mend) from error


def _decode_stack(one: CompressedSlice, stack: NDArray[Any]) -> None:
    """The slice in the middle of its neighbours: (s * c, H, W)."""
    middle = len(one.beside) // 2
    images = [*one.beside[:middle], one.image, *one.beside[middle:]]
    crcs = [*one.beside_crcs[:middle], one.image_crc, *one.beside_crcs[middle:]]
    planes = stack.reshape(len(images), *one.shape)
    for number, (image, crc) in enumerate(zip(images, crcs, strict=True)):
        if number and crc == crcs[number - 1] and image == images[number - 1]:
            planes[number] = planes[number - 1]  # beyond the ends of a case the same slice comes again
        else:
            _decode_as(image, one.dtype, crc, planes[number])


def _decode_as(data: memoryview | bytes, dtype: str, crc: int, out: NDArray[Any]) -> None:
    if out.dtype == dtype:
        decode_pixels_into(data, out, crc)
        return
    narrow = np.empty(out.shape, dtype=dtype)
    decode_pixels_into(data, narrow, crc)
    out[...] = narrow


def _where(one: CompressedSlice) -> str:
    if one.z == LOST:
        return f"part-{one.case_id}.parquet, case {one.case_id}, of which a row group cannot be read,"
    return f"part-{one.case_id}.parquet, case {one.case_id}, slice {one.z}"


def iterate_batches(
    folder: str,
    visits: Sequence[Visit],
    batch_size: int,
    *,
    threads: int = 1,
    mixer: Mixer[CompressedSlice] | None = None,
    read: ReadVisit = read_visit,
) -> Iterator[SliceBatch]:
    """Batches of ``batch_size`` (the last may be smaller) in this process; the next row group is read meanwhile."""

    def rows() -> Iterator[CompressedSlice]:
        with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
            ahead = [pool.submit(read, folder, visit) for visit in visits[:2]]
            for number in range(len(visits)):
                table = ahead.pop(0).result()
                if number + 2 < len(visits):
                    ahead.append(pool.submit(read, folder, visits[number + 2]))
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
    folder: str,
    index: SliceIndex,
    case_id: str,
    z0: int = 0,
    z1: int | None = None,
    *,
    threads: int = 1,
    cache: ShardCache | None = None,
) -> tuple[Volume, Volume]:
    """A 3D block, or a 2.5D stack, of a case: images and labels (z, H, W) for slices z0 to z1 (exclusive).

    The images of several channels are (z, c, H, W).
    Only the row groups that hold these slices are read. Raises ShardError where the case has no such slice.
    """
    number = next((position for position, part in enumerate(index.parts) if part.case_id == case_id), -1)
    mine = index.part == number
    wanted = np.flatnonzero(mine & (index.z >= z0) & (index.z < (index.part.size if z1 is None else z1)))
    rows = [one for visit in index.visits(wanted) for one in slices_of(read_visit(folder, visit, cache))]
    if not rows:
        raise ShardError(f"The case {case_id} has no slices {z0} to {z1}.")
    batch = decode_batch(rows, threads)
    return batch.images, batch.labels


def case_spacing(
    folder: str, index: SliceIndex, case_id: str, cache: ShardCache | None = None
) -> tuple[float, float, float]:
    """The (z, y, x) spacing in mm of a case's slices. Raises ShardError where the case has none, or is damaged."""
    (spacing,) = _case_values(folder, index, case_id, cache, ["spacing"])
    z, y, x = spacing
    return float(z), float(y), float(x)


def case_statistics(
    folder: str, index: SliceIndex, case_id: str, cache: ShardCache | None = None
) -> tuple[list[float], list[float]]:
    """Mean and sd of the voxels of a case before the grid, an entry a channel. Raises ShardError as for the spacing."""
    mean, sd = _case_values(folder, index, case_id, cache, ["case_mean", "case_sd"])
    return list(mean), list(sd)


def _case_values(
    folder: str, index: SliceIndex, case_id: str, cache: ShardCache | None, columns: list[str]
) -> list[list[float]]:
    """What all slices of a case have alike, from the first of them."""
    number = next((position for position, part in enumerate(index.parts) if part.case_id == case_id), -1)
    mine = np.flatnonzero(index.part == number)
    if not len(mine):
        raise ShardError(f"The case {case_id} has no slices.")
    visit = index.visits(mine)[0]
    with _damage_named(visit):
        rows = _group_reader(folder, visit, cache)(visit.group, columns)
        return [rows.column(name)[0].as_py() for name in columns]
