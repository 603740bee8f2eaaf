"""What an epoch costs a store: seconds and bytes from s3://, with and without the cache of the node, 1 and 2 workers.

    python benchmarks/shard_cache.py [--cases 16] [--epochs 3] [--small]

CT-like phantoms of 512x512 as shards on an S3 server (moto, the one of the tests, on this machine), and as the same
shards in a local folder. Each worker is an epoch feed that reads by itself, as in a trial of a sweep; two workers take
turns, an epoch each. Bytes are those that the reader asked of the files, as in the column read_mib of metrics.csv.
Nothing is trained. The seconds from s3:// are those of moto, a server in Python without a network in between, which
computes on the same cores: a real store answers later and sends faster.

Predicted: without a cache every epoch reads the training parts once, whether one worker reads them or two, and some
64 KiB more for every file that a worker opens. With a cache that holds them the first epoch reads the same and the
others nothing, in the time of a local folder or less, since a mapped row group is not copied out of Parquet. With one
of half their size the epochs after the first read half. Seen with --small on a machine under full load: just these
bytes (42 MiB an epoch, then 0, of half 21); seconds then mean nothing.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from machine import write_result
from shard_reading import phantom

from segray import storage
from segray.case import LabelMap
from segray.config import Config, load_config
from segray.grid import Grid
from segray.pipelines.feed import EpochFeed
from segray.shards.index import build_index, load_index
from segray.shards.manifest import INDEX, MANIFEST, Manifest, PartEntry, case_intensity, load_manifest, pool_intensity
from segray.shards.writer import CaseSlices, write_part

MOTO = Path(__file__).resolve().parents[1] / ".venv-moto" / "bin" / "moto_server"
GROUP = 32
MIB = 2**20


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server of this machine with an empty bucket, whose URI it gives; this process reaches it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    os.environ |= {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    command = [str(MOTO), "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        urllib.request.urlopen(urllib.request.Request(f"{address}/benchmark", method="PUT"), timeout=60).close()
        yield "s3://benchmark"
    finally:
        server.terminate()
        server.wait(10)


def write_shards(folder: str, cases: int, slices: int) -> None:
    """Shards of ``cases`` cases, of which four differ, with ``slices`` slices each; all of them to train on."""
    different = [phantom(slices, seed) for seed in range(min(4, cases))]
    stats = [case_intensity(images, labels, seed) for seed, (images, labels) in enumerate(different)]
    parts = []
    for number in range(cases):
        images, labels = different[number % len(different)]
        intensity = stats[number % len(different)]
        name = f"case{number:03d}"
        case = CaseSlices(name, images, labels, (5.0, 1.0, 1.0), 0.0, [0.0], [1.0], [intensity], "-", "-", [])
        facts = write_part(folder, case, rows_per_group=GROUP)
        entry = PartEntry(name, name, "train", facts.file, facts.bytes, slices, "-", "-", content=facts.content)
        parts.append(entry)
    grid = Grid("native", images.shape[1:], None, -1024.0)
    manifest = Manifest(LabelMap.of_names([f"s{n}" for n in range(30)]), grid, [pool_intensity(stats)], parts)
    storage.write_bytes(storage.join(folder, INDEX), build_index(folder, parts))
    storage.write_text(storage.join(folder, MANIFEST), manifest.to_json())


def epochs_of(config: Config, workers: int) -> list[dict[str, Any]]:
    """Seconds and MiB of each epoch, over all workers, and the MiB of each."""
    folder = str(config.train.shards)
    index = load_index(folder, load_manifest(folder))
    feeds = [EpochFeed(folder, index, config, rank, workers, 0, direct=True) for rank in range(workers)]
    found = []
    for epoch in range(1, config.train.epochs + 1):
        begin = time.perf_counter()
        slices = sum(len(batch.images) for feed in feeds for batch in feed.epoch(epoch))
        seconds = time.perf_counter() - begin
        if slices != index.part.size:
            raise AssertionError(f"{slices} slices came instead of {index.part.size}")
        each = [feed.taken() for feed in feeds]
        if notes := [words for tally in each for words in tally.notes]:
            raise AssertionError(notes[0])
        mib = [round(tally.bytes / MIB, 2) for tally in each]
        found.append({"s": round(seconds, 2), "MiB": round(sum(mib), 2), "MiB of each worker": mib})
    return found


def measure(work: Path, home: str, cases: int, slices: int, epochs: int) -> dict[str, Any]:
    shards = {"local": str(work / "shards"), "s3": f"{home}/shards"}
    for folder in shards.values():
        write_shards(folder, cases, slices)
    size = load_manifest(shards["local"]).bytes
    whole, half = 2 * size / 2**30, size / 2 / 2**30
    found: dict[str, Any] = {}
    for name, place, workers, gib in (
        ("local, 1 worker", "local", 1, 0.0),
        ("s3, 1 worker", "s3", 1, 0.0),
        ("s3, 2 workers", "s3", 2, 0.0),
        ("s3, 1 worker, cache", "s3", 1, whole),
        ("s3, 2 workers, cache", "s3", 2, whole),
        ("s3, 1 worker, cache of half", "s3", 1, half),
    ):
        with tempfile.TemporaryDirectory(dir=work) as cache:
            settings = {"shards": shards[place], "epochs": epochs, "cache_gib": gib, "cache_folder": cache}
            config = load_config(None, [f"train.{key}={value}" for key, value in settings.items()])
            config = config.model_copy(update={"sampling": config.sampling.model_copy(update={"mode": "all"})})
            found[name] = epochs_of(config, workers)
        for number, row in enumerate(found[name], start=1):
            print(f"{name:30s} epoch {number}: {row['s']:8.2f} s {row['MiB']:9.2f} MiB  {row['MiB of each worker']}")
    return {"shards MiB": round(size / MIB, 2), "cases": cases, "slices": cases * slices, "epochs": found}


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=16)
    parser.add_argument("--slices", type=int, default=128, help="slices a case")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="3 cases of 64 slices, nothing written: for CI")
    arguments = parser.parse_args()
    cases, slices = (3, 64) if arguments.small else (arguments.cases, arguments.slices)
    with tempfile.TemporaryDirectory() as work, s3_server() as home:
        result = measure(Path(work), home, cases, slices, arguments.epochs)
    print("shards:", result["shards MiB"], "MiB")
    if not arguments.small:
        write_result("shard_cache", result)


if __name__ == "__main__":
    main()
