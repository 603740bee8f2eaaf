"""The feed of a training straight from the cases' files, against the same feed from shards.

    python benchmarks/live_feed.py [--cases 12] [--epochs 12] [--small]

CT phantoms as NIfTI files (a CT and 8 masks a case) on the default grid: once ingested, once planned (all of an ingest
but the pixels). Then the batches of an epoch feed, from its first call to the last batch: (a) from shards, (b) from the
files, every case read again in every epoch, (c) from the files with the cache of each reading process, which holds all
of a set as small as this one. No training step runs beside the feed.

Predicted: (b) has the speed of an ingest, since it does the same work but for the writing; some tens of slices/s a
core with 8 masks a case. (c) nears the shards once every process has met every case. Measured:
results/live_feed.json: (b) 350 slices/s on 2 cores, more than predicted; (c) 460 and far from the 1,290 of the
shards, probably since up to eight processes read, each with a cache of its own.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
from machine import write_result

from segray import formats
from segray.config import Config, load_config
from segray.phantoms import make_phantoms
from segray.pipelines import feed as feed_module
from segray.pipelines import live
from segray.pipelines.feed import EpochFeed
from segray.pipelines.ingest import ingest, ingest_cases
from segray.pipelines.runtime import ray_session
from segray.shards.cache import ShardCache
from segray.shards.index import SliceIndex, Visit, load_index
from segray.shards.manifest import load_manifest
from segray.shards.reader import ReadVisit


def read_cold(folder: str, visit: Visit) -> pa.Table:
    """As from files, in a process that keeps the last case alone."""
    if live.CASES.limit:
        live.CASES = live.CaseCache(0)
    return live.read_live_visit(folder, visit)


def read_warm(folder: str, visit: Visit) -> pa.Table:
    """As from files, in a process that keeps what it read last."""
    if not live.CASES.limit:
        live.CASES = live.CaseCache(live.CACHE_BYTES)
    return live.read_live_visit(folder, visit)


def rate(folder: str, config: Config, read: ReadVisit | None = None) -> tuple[int, float]:
    """Slices and seconds of all epochs of a feed."""
    before = live.visit_reader

    def chosen(index: SliceIndex, cache: ShardCache | None) -> ReadVisit:
        return read or before(index, cache)

    with mock.patch.object(feed_module, "visit_reader", chosen):
        begin = time.perf_counter()
        feed = EpochFeed(folder, load_index(folder, load_manifest(folder)), config, 0, 1, 0)
        slices = sum(len(b.images) for epoch in range(1, config.train.epochs + 1) for b in feed.epoch(epoch))
        feed.close()
        return slices, time.perf_counter() - begin


def measure(work: Path, config: Config) -> dict[str, Any]:
    scans, shards, plan, warm = (str(work / name) for name in ("scans", "shards", "plan", "warm"))
    ingest(scans, warm, config)  # Ray starts its processes, and they import
    begin = time.perf_counter()
    ingest(scans, shards, config)
    ingested = time.perf_counter() - begin
    begin = time.perf_counter()
    ingest_cases(scans, formats.discover(scans, config.ingest), plan, config, pixels=False)
    planned = time.perf_counter() - begin
    found = {"ingest s": ingested, "plan s": planned}
    for name, folder, read in (
        ("shards", shards, None),
        ("files", plan, read_cold),
        ("files, cached", plan, read_warm),
    ):
        slices, seconds = rate(folder, config, read)
        found[f"{name}: slices/s"] = slices / seconds
    manifest = load_manifest(plan)
    return {
        "slices an epoch": slices // config.train.epochs,
        "canvas": list(manifest.grid.size),
        "epochs": config.train.epochs,
        "shards MiB": round(load_manifest(shards).bytes / 2**20, 1),
        "plan MiB": round(manifest.bytes / 2**20, 2),
        "found": {name: round(value, 1) for name, value in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--small", action="store_true", help="3 cases, nothing written: for CI")
    arguments = parser.parse_args()
    cases, epochs = (3, 1) if arguments.small else (arguments.cases, arguments.epochs)
    config = load_config(None, [f"train.epochs={epochs}", "sampling.mode=all", "ingest.split.validation=0"])
    with tempfile.TemporaryDirectory() as folder:
        make_phantoms(f"{folder}/scans", cases=cases, broken=False)
        with ray_session(config.ray):
            result = measure(Path(folder), config)
    for name, value in result["found"].items():
        print(f"{name:28s} {value:10.1f}")
    if not arguments.small:
        write_result("live_feed", result)


if __name__ == "__main__":
    main()
