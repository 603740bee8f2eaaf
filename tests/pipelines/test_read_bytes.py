"""What an epoch reads of the shards' files: each worker its own part, and with a cache each row group once."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from train_here import train_here

from segray import storage
from segray.case import LabelMap
from segray.config import Config, load_config
from segray.grid import Grid
from segray.pipelines.feed import DIRECT_BYTES, EpochFeed
from segray.pipelines.inference_trial import HeldOutCases
from segray.pipelines.train import train
from segray.shards.cache import ShardCache
from segray.shards.index import build_index, load_index
from segray.shards.manifest import (
    INDEX,
    MANIFEST,
    Manifest,
    PartEntry,
    case_intensity,
    load_manifest,
    pool_intensity,
)
from segray.shards.tally import counting
from segray.shards.writer import CaseSlices, write_part

MIB = 2**20
FOOTER = 70_000
"""More than what pyarrow reads at the end of a file when it opens it."""

SPLITS = ("train", "train", "train", "validation")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases of noise, which does not compress: the parts are as large as their voxels, 3 MiB each."""
    folder = tmp_path_factory.mktemp("noise") / "shards"
    parts, stats = [], []
    for number, split in enumerate(SPLITS):
        images = np.random.default_rng(number).integers(-32768, 32767, (24, 256, 256)).astype("int16")
        labels = np.zeros(images.shape, "uint8")
        labels[:, 100:150, 100:150] = 1
        intensity = case_intensity(images, labels, number)
        case = CaseSlices(
            f"c{number}", images, labels, (5.0, 1.0, 1.0), 0.0, [0.0], [1.0], [intensity], "print", "recipe", []
        )
        facts = write_part(str(folder), case, rows_per_group=4)
        parts.append(
            PartEntry(
                facts.case_id,
                facts.case_id,
                split,
                facts.file,
                facts.bytes,
                24,
                "print",
                "recipe",
                content=facts.content,
            )
        )
        stats.append(intensity)
    grid = Grid("native", (256, 256), None, -1024.0)
    manifest = Manifest(LabelMap.of_names(["square"]), grid, [pool_intensity(stats)], parts)
    storage.write_bytes(str(folder / INDEX), build_index(str(folder), parts))
    storage.write_text(str(folder / MANIFEST), manifest.to_json())
    return folder


def _config(shards: Path, run: Path, *more: str) -> Config:
    settings = ("net.features=[2,4]", "train.batch_size=16", "train.epochs=3", "train.cpus_per_worker=1")
    trackers = "train.trackers=[]"
    return load_config(None, [*settings, trackers, f"train.shards={shards}", f"train.run={run}", *more])


def _feed(config: Config, rank: int = 0, world: int = 1, *, direct: bool = True) -> EpochFeed:
    folder = str(config.train.shards)
    return EpochFeed(folder, load_index(folder, load_manifest(folder)), config, rank, world, 0, direct=direct)


def _read(feed: EpochFeed, epoch: int) -> int:
    """Bytes that an epoch read."""
    slices = sum(len(batch.images) for batch in feed.epoch(epoch))
    assert slices > 0
    return feed.taken().bytes


def _bytes(shards: Path, split: str) -> int:
    return sum(part.bytes for part in load_manifest(str(shards)).parts if part.split == split)


def _mib(run: Path) -> list[float]:
    return [float(row["read_mib"]) for row in csv.DictReader((run / "metrics.csv").open())]


def test_each_worker_reads_its_own_part(shards: Path, tmp_path: Path) -> None:
    config = _config(shards, tmp_path)
    feeds = [_feed(config, rank, 2) for rank in range(2)]
    due = _bytes(shards, "train")
    for epoch in (1, 2):
        found = [_read(feed, epoch) for feed in feeds]
        # A row group that the cut goes through is read by both, and each opens the files.
        assert 0.97 * due < sum(found) < due + due / 18 + 6 * FOOTER
        assert all(0.45 * due < one < 0.62 * due for one in found)


def test_workers_of_a_node_share_its_cache(shards: Path, tmp_path: Path) -> None:
    config = _config(shards, tmp_path, "train.cache_gib=1", f"train.cache_folder={tmp_path}")
    feeds = [_feed(config, rank, 2) for rank in range(2)]
    due = _bytes(shards, "train")
    first, second, third = (sum(_read(feed, epoch) for feed in feeds) for epoch in (1, 2, 3))
    assert 0.97 * due < first + second < due + 6 * FOOTER
    # What the first worker had read ahead for its second epoch before the other one began.
    assert second <= DIRECT_BYTES + 6 * FOOTER
    assert third == 0


def test_a_cache_that_cannot_be_is_said_and_the_slices_come(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    feed = _feed(_config(shards, tmp_path, "train.cache_gib=1", f"train.cache_folder={tmp_path}/file"))
    slices = sum(len(batch.images) for batch in feed.epoch(1))
    assert slices == 72
    (words,) = feed.taken().notes
    assert "is off (Not a directory)" in words


def test_cases_of_a_sweep_over_predictions_come_from_the_cache(shards: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with counting():
            cases = list(HeldOutCases(str(shards), ShardCache(str(tmp_path), 10**9)))
    assert [case.case_id for case in cases] == ["c3"]
    storage.write_bytes(str(tmp_path / "copy" / MANIFEST), (shards / MANIFEST).read_bytes())
    storage.write_bytes(str(tmp_path / "copy" / INDEX), (shards / INDEX).read_bytes())
    (again,) = HeldOutCases(str(tmp_path / "copy"), ShardCache(str(tmp_path), 10**9))
    assert (again.voxels == cases[0].voxels).all()
    assert again.statistics == cases[0].statistics


@pytest.mark.ray
@pytest.mark.long
def test_trials_of_a_node_read_the_shards_once(shards: Path, tmp_path: Path, embedded_ray: None) -> None:
    """Training and validation of a lone worker, which reads by itself."""
    due = (_bytes(shards, "train") + _bytes(shards, "validation")) / MIB
    cache = ("train.cache_gib=1", f"train.cache_folder={tmp_path}", "train.validate_every=1")
    train_here(_config(shards, tmp_path / "first", *cache))
    assert _mib(tmp_path / "first")[0] == pytest.approx(due, rel=0.05)
    assert _mib(tmp_path / "first")[1:] == [0.0, 0.0]
    train_here(_config(shards, tmp_path / "second", *cache, "seed=7"))
    assert _mib(tmp_path / "second") == [0.0, 0.0, 0.0]


@pytest.mark.ray
@pytest.mark.long
def test_two_workers_tell_what_they_read_in_other_processes(shards: Path, tmp_path: Path, embedded_ray: None) -> None:
    """Ray Data reads in processes of its own; what they read ends in a row of metrics.csv."""
    due = (_bytes(shards, "train") + _bytes(shards, "validation")) / MIB
    train(_config(shards, tmp_path / "run", "train.workers=2", "train.epochs=2"))
    # Up to four processes open each of four files.
    assert all(0.97 * due < mib < 1.06 * due + 16 * FOOTER / MIB for mib in _mib(tmp_path / "run"))
    lines = [line for line in (tmp_path / "run" / "run.log").read_text().splitlines() if "by worker, MiB" in line]
    each = [float(mib) for mib in lines[0].rpartition("MiB: ")[2].split(", ")]
    assert sum(each) == pytest.approx(_mib(tmp_path / "run")[0], abs=0.02)
    assert all(0.35 * due < mib < 0.8 * due for mib in each)
    feed = _feed(_config(shards, tmp_path, "train.cache_gib=1", f"train.cache_folder={tmp_path}"), direct=False)
    trained = _bytes(shards, "train")
    assert trained * 0.97 < _read(feed, 1) < trained + 8 * FOOTER
    assert [_read(feed, epoch) for epoch in (2, 3)] == [0, 0]
    feed.close()
