"""Shards through Ray Data to batches, against the same reader in this process and against typed tensor columns.

    python benchmarks/ray_feed.py [--slices 2048] [--passes 4] [--small]

The same 512x512 slices (see shard_reading.py) are read (a) by segray's reader in this process on all cores, (b) by
segray's stream: Ray Data tasks bring compressed row groups, the consumer decodes on all cores, and (c) from typed
tensor columns through `iter_torch_batches`, as a table library stores arrays. All three count slices from the first
batch on, so that the start of a pipeline is left out: steady state. In turn in each round; medians, ratios paired
within a round.

Predicted: the stream costs one more copy of the compressed bytes (0.2 MB a slice), one Ray task a 64 MiB and the
object store's bookkeeping a block: 10 to 25 % of the in-process rate on the same cores. Measured:
results/ray_feed.json: 0.71, median of 3 rounds, and 0.70 of 5 rounds on another machine. While the block size was
chosen, single runs gave 0.37 to 0.63 with 16 MiB, 0.32 to 0.43 with 32, and 0.59 and 0.63 with 64, the size kept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from machine import write_result
from ray.data.extensions import ArrowTensorArray
from shard_reading import BATCH, CASE_SLICES, GROUP, Shards, phantom

from segray.config import RayConfig
from segray.pipelines.runtime import ray_session
from segray.pipelines.stream import spans_of, stream_tables
from segray.shards.reader import decode_groups, iterate_batches, slices_of

TARGETS = {"share of in-process": 0.65, "times typed columns": 3.0}
THREADS = len(os.sched_getaffinity(0))


def rows(tables: Iterator[pa.Table]) -> Iterator[Any]:
    for table in tables:
        yield from slices_of(table)


def steady_rate(sizes: Iterator[int]) -> tuple[float, float]:
    """(slices/s from the first batch on, seconds to the first batch)."""
    begin = time.perf_counter()
    next(sizes)
    first = time.perf_counter()
    seen = sum(sizes)
    return seen / (time.perf_counter() - first), first - begin


def write_typed(folder: Path, cases: list[Any]) -> str:
    folder.mkdir()
    for number, (images, labels) in enumerate(cases):
        table = pa.table({"image": ArrowTensorArray.from_numpy(images), "labels": ArrowTensorArray.from_numpy(labels)})
        pq.write_table(
            table, folder / f"{number}.parquet", row_group_size=GROUP, compression="zstd", compression_level=1
        )
    return str(folder)


def measure(folder: Path, slices: int, passes: int, rounds: int) -> dict[str, Any]:
    case_slices = min(CASE_SLICES, slices)
    few = [phantom(case_slices, seed) for seed in range(min(4, slices // case_slices))]
    cases = [few[number % len(few)] for number in range(slices // case_slices)]
    shards = Shards(folder / "shards", cases, "zstd")
    typed = write_typed(folder / "typed", cases)
    visits = shards.visits * passes
    bytes_a_row = shards.bytes / (len(cases) * case_slices)
    found = []
    for _ in range(rounds):
        own, _ = steady_rate(len(b.images) for b in iterate_batches(shards.folder, visits, BATCH, threads=THREADS))
        tables = stream_tables(shards.folder, spans_of(visits, bytes_a_row))
        through, start = steady_rate(len(b.images) for b in decode_groups(rows(tables), BATCH, THREADS))
        columns, columns_start = steady_rate(
            len(batch["image"]) for batch in ray.data.read_parquet(typed).iter_torch_batches(batch_size=BATCH)
        )
        found.append(
            {
                "in-process slices/s": own,
                "Ray Data slices/s": through,
                "typed columns slices/s": columns,
                "share of in-process": through / own,
                "times typed columns": through / columns,
                "first batch s": start,
                "first batch typed s": columns_start,
            }
        )
    medians = {name: round(statistics.median(row[name] for row in found), 3) for name in found[0]}
    return {"slices": slices * passes, "threads": THREADS, "rounds": rounds, "medians": medians, "targets": TARGETS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=2048)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="128 slices, one round, nothing written: for CI")
    arguments = parser.parse_args()
    slices, passes, rounds = (128, 1, 1) if arguments.small else (arguments.slices, arguments.passes, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder, ray_session(RayConfig(object_store_mib=1024)):
        result = measure(Path(folder), slices, passes, rounds)
    for name, value in result["medians"].items():
        print(f"{name:28s} {value:10.3f}" + (f"   (target {TARGETS[name]})" if name in TARGETS else ""))
    if not arguments.small:
        write_result("ray_feed", result)


if __name__ == "__main__":
    main()
