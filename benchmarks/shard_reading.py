"""Shards to dense batches for a device, in this process, on one core: slices a second against plain Parquet.

    python benchmarks/shard_reading.py [--slices 2048] [--small]

CT-like phantoms of 512x512 int16 with noise of sd 15 and a uint8 label slice each are written as segray's shards (zstd
and lz4), as Parquet with the pixels in a binary column (zstd-1), and as Parquet with typed tensor columns (lists of
fixed size, zstd-1: what a table library makes of an array column). All are read in a new order of row groups into
(16, 512, 512) batches of images and labels, in turn in each round; medians, and ratios paired within a round. "float32"
adds the normalisation of a window to [-1, 1] on the CPU, which on a GPU the device does.

Predicted from decoding alone, before the reader was measured (blosc2, one core): byte shuffle + zstd-1 0.30 ms an
image, bit shuffle + zstd-1 in blocks of 128 KiB without split 0.29 ms and 1 to 8 % smaller, bit shuffle + lz4 0.12 ms
and 5 to 19 % larger; labels 0.045 ms, both checksums 0.004 ms: so at most 2,900 slices/s for zstd and 5,900 for lz4 if
reading cost nothing. What came: 2,100 to 2,700 for zstd, 3,100 to 3,300 for lz4, on a shared machine. The copy out of
Parquet and the page faults of new batches cost 0.1 ms a slice, so lz4 gains less than its decoder promises. The bit
shuffle became the default: smaller, and not slower.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from machine import write_result
from numpy.typing import NDArray
from scipy import ndimage

from segray.nets.normalise import Normalisation
from segray.shards.index import Visit
from segray.shards.manifest import case_intensity
from segray.shards.reader import iterate_batches
from segray.shards.writer import CaseSlices, part_name, write_part

SIDE = 512
CASE_SLICES = 128
GROUP = 32
BATCH = 16
TARGETS = {"int16 slices/s": 1300, "float32 slices/s": 950, "times typed columns": 3.0}

Batch = tuple[NDArray[Any], NDArray[Any]]


def phantom(slices: int, seed: int) -> Batch:
    """(z, y, x) int16 images and uint8 labels: a body with lungs, organs and noise in air, 30 labels of many sizes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    body = ((x - 256) / 190) ** 2 + ((y - 256) / 140) ** 2 < 1
    images = np.empty((slices, SIDE, SIDE), np.int16)
    labels = np.zeros((slices, SIDE, SIDE), np.uint8)
    texture = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), 8)
    texture *= 40 / texture.std()
    for image, label in zip(images, labels, strict=True):
        drift = 4 * rng.normal(size=2)
        hu = np.where(body, 40 + texture, -1000.0)
        for centre in (170, 340):
            lung = ((x - centre - drift[0]) / 60) ** 2 + ((y - 240 - drift[1]) / 80) ** 2 < 1
            hu[lung] = -850 + texture[lung]
        for number in range(1, 31):
            cx, cy, radius = rng.integers(100, 400), rng.integers(150, 360), rng.integers(5, 40)
            label[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = number
        noise = rng.normal(0, 15, hu.shape)
        image[:] = np.clip(np.rint(hu + noise), -1024, 3071)
    return images, labels


class Shards:
    """segray's own, with one codec."""

    def __init__(self, folder: Path, cases: list[Batch], codec: str) -> None:
        self.folder = str(folder)
        self.bytes = 0
        self.visits: list[Visit] = []
        for number, (images, labels) in enumerate(cases):
            name = f"case{number:03d}"
            stats = case_intensity(images, labels, number)
            case = CaseSlices(name, images, labels, (5.0, 1.0, 1.0), 0.0, [0.0], [1.0], [stats], "-", "-", [])
            facts = write_part(self.folder, case, rows_per_group=GROUP, codec=codec)  # type: ignore[arg-type]
            self.bytes += facts.bytes
            self.visits += [
                Visit(part_name(name), group, tuple(range(min(GROUP, len(images) - group * GROUP))))
                for group in range(-(-len(images) // GROUP))
            ]

    def batches(self, order: NDArray[np.int64]) -> Iterator[Batch]:
        for batch in iterate_batches(self.folder, [self.visits[number] for number in order], BATCH):
            yield batch.images, batch.labels


class PlainParquet:
    """What pyarrow makes of it: pixels in binary or in typed columns, compressed by Parquet."""

    def __init__(self, folder: Path, cases: list[Batch], typed: bool) -> None:
        self.typed = typed
        self.bytes = 0
        self.groups: list[tuple[Path, int]] = []
        folder.mkdir()
        for number, (images, labels) in enumerate(cases):
            path = folder / f"{number}.parquet"
            table = pa.table({"image": self._column(images, pa.int16()), "labels": self._column(labels, pa.uint8())})
            pq.write_table(
                table, path, row_group_size=GROUP, compression="zstd", compression_level=1, use_dictionary=False
            )
            self.bytes += path.stat().st_size
            self.groups += [(path, group) for group in range(-(-len(images) // GROUP))]

    def _column(self, planes: NDArray[Any], kind: pa.DataType) -> pa.Array:
        if self.typed:
            return pa.FixedSizeListArray.from_arrays(pa.array(planes.reshape(-1), kind), SIDE * SIDE)
        return pa.array([plane.tobytes() for plane in planes], pa.binary())

    def batches(self, order: NDArray[np.int64]) -> Iterator[Batch]:
        for number in order:
            path, group = self.groups[number]
            table = pq.ParquetFile(path, memory_map=True).read_row_group(group, use_threads=False)
            for start in range(0, table.num_rows, BATCH):
                part = table.slice(start, BATCH).combine_chunks()
                yield self._planes(part["image"], np.int16), self._planes(part["labels"], np.uint8)

    def _planes(self, column: pa.ChunkedArray, dtype: type) -> NDArray[Any]:
        array = column.chunk(0)
        if self.typed:
            flat: NDArray[Any] = array.flatten().to_numpy(zero_copy_only=True)
        else:
            start, end = array.offset * SIDE * SIDE, (array.offset + len(array)) * SIDE * SIDE
            flat = np.frombuffer(array.buffers()[2], dtype)[start:end]
        return flat.reshape(-1, SIDE, SIDE).copy()


def rate(batches: Iterator[Batch], slices: int, then: Callable[[Batch], Any] | None = None) -> float:
    """Slices a second to see all batches."""
    begin = time.perf_counter()
    seen = 0
    for batch in batches:
        seen += len(batch[0])
        if then is not None:
            then(batch)
    if seen != slices:
        raise AssertionError(f"{seen} slices came instead of {slices}")
    return slices / (time.perf_counter() - begin)


def normalised(batch: Batch) -> torch.Tensor:
    """(n, 1, H, W) float32 in [-1, 1]."""
    images = torch.from_numpy(batch[0])
    zeros = torch.zeros(len(images))
    return Normalisation("window", -1000.0, 1000.0).apply(images, zeros, zeros + 1)


def measure(folder: Path, slices: int, rounds: int) -> dict[str, Any]:
    """Write all stores, check that they hold the same, and read them in turn."""
    case_slices = min(CASE_SLICES, slices)
    cases = [phantom(case_slices, seed) for seed in range(min(4, slices // case_slices))]
    cases = [cases[number % len(cases)] for number in range(slices // case_slices)]
    total = sum(len(images) for images, _ in cases)
    raw = total * SIDE * SIDE * 3
    shards = {codec: Shards(folder / codec, cases, codec) for codec in ("zstd", "lz4")}
    plain = {
        "binary": PlainParquet(folder / "binary", cases, False),
        "typed": PlainParquet(folder / "typed", cases, True),
    }
    first = np.arange(total // GROUP)
    for left, right in zip(shards["zstd"].batches(first), plain["typed"].batches(first), strict=True):
        if not all((a == b).all() for a, b in zip(left, right, strict=True)):
            raise AssertionError("the stores differ")
    rows = []
    for number in range(rounds):
        order = np.random.default_rng(number).permutation(total // GROUP)
        rows.append(
            {
                "int16 slices/s": rate(shards["zstd"].batches(order), total),
                "float32 slices/s": rate(shards["zstd"].batches(order), total, normalised),
                "int16 slices/s, lz4": rate(shards["lz4"].batches(order), total),
                "typed columns slices/s": rate(plain["typed"].batches(order), total),
                "binary column slices/s": rate(plain["binary"].batches(order), total),
            }
        )
        own = rows[-1]["int16 slices/s"]
        rows[-1]["times typed columns"] = own / rows[-1]["typed columns slices/s"]
        rows[-1]["times binary column"] = own / rows[-1]["binary column slices/s"]
    medians = {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}
    sizes = {name: store.bytes for stores in (shards, plain) for name, store in stores.items()}
    ratios = {name: round(raw / size, 2) for name, size in sizes.items()}
    return {"slices": total, "rounds": rounds, "medians": medians, "compression": ratios, "targets": TARGETS}


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="64 slices, one round, nothing written: for CI")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    slices, rounds = (64, 1) if arguments.small else (arguments.slices, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), slices, rounds)
    for name, value in result["medians"].items():
        print(f"{name:28s} {value:10.2f}" + (f"   (target {TARGETS[name]})" if name in TARGETS else ""))
    print("compression, images and labels together:", result["compression"])
    if not arguments.small:
        write_result("shard_reading", result)


if __name__ == "__main__":
    main()
