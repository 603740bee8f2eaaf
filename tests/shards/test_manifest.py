"""The manifest and the statistics of intensities."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segray import storage
from segray.case import LabelMap, voxel_statistics
from segray.errors import UsageError
from segray.grid import Grid
from segray.shards.manifest import (
    MANIFEST,
    IntensityStats,
    Manifest,
    PartEntry,
    case_intensity,
    load_manifest,
    pool_intensity,
)

from .conftest import Folder


def test_a_manifest_comes_back(folder: Folder) -> None:
    text = storage.read_text(storage.join(folder.path, MANIFEST))
    assert folder.manifest.to_json() == text
    assert folder.manifest.cases("validation") == ["b"]
    assert folder.manifest.slices == 18
    assert folder.manifest.label_map == LabelMap.of_names(["liver", "lesion"])


def test_ten_thousand_cases_are_a_few_megabytes() -> None:
    parts = [
        PartEntry(f"s{n:05d}", f"patient-{n:05d}", "train", f"part-s{n:05d}.parquet", 10**7, 300, "f" * 64, "r" * 64)
        for n in range(10_000)
    ]
    manifest = Manifest(LabelMap.of_names(["a"]), Grid("native", (8, 8), None, 0.0), [IntensityStats()], parts)
    assert len(manifest.to_json()) < 6_000_000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "damaged"),
        ("[]", "damaged"),
        ("{}", "damaged"),
        ('{"schema_version": 99}', "schema version 99"),
    ],
)
def test_a_bad_manifest_is_told_in_words(folder: Folder, text: str, words: str) -> None:
    storage.write_text(storage.join(folder.path, MANIFEST), text)
    with pytest.raises(UsageError, match=words):
        load_manifest(folder.path)


def test_a_missing_entry_is_told_in_words(folder: Folder) -> None:
    table = json.loads(folder.manifest.to_json())
    del table["parts"][0]["bytes"]
    storage.write_text(storage.join(folder.path, MANIFEST), json.dumps(table))
    with pytest.raises(UsageError, match="damaged"):
        load_manifest(folder.path)


def test_no_shards_names_the_mend(tmp_path: object) -> None:
    with pytest.raises(UsageError, match="segray ingest"):
        load_manifest(str(tmp_path))


def test_statistics_are_those_of_the_labelled_voxels() -> None:
    rng = np.random.default_rng(0)
    voxels = rng.normal(50, 20, (12, 30, 30)).astype(np.int16)
    labels = (rng.random(voxels.shape) > 0.7).astype(np.uint8)
    labels[3] = 0
    stats = pool_intensity([case_intensity(voxels, labels, 1)])
    chosen = voxels[labels > 0].astype(np.float64)
    assert stats.count == chosen.size
    assert stats.mean == pytest.approx(chosen.mean())
    assert stats.sd == pytest.approx(chosen.std())
    assert (stats.low, stats.high) == (chosen.min(), chosen.max())
    assert stats.median == pytest.approx(np.median(chosen), abs=2)
    assert stats.p995 == pytest.approx(np.percentile(chosen, 99.5), abs=8)


def test_samples_are_labelled_voxels_and_fixed_by_the_seed() -> None:
    voxels = np.zeros((4, 9, 9), np.int16)
    labels = np.zeros((4, 9, 9), np.uint8)
    labels[1, 2:4, 2:4] = labels[3, 5, 5] = 1
    voxels[labels > 0] = np.arange(100, 105)
    one, same, other = (case_intensity(voxels, labels, seed) for seed in (1, 1, 2))
    assert set(one.samples) <= set(range(100, 105))
    assert (one.samples == same.samples).all()
    assert (one.samples != other.samples).any()


def test_without_foreground_all_voxels_count() -> None:
    voxels = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    stats = case_intensity(voxels, np.zeros((3, 3, 3), np.uint8), 0)
    assert (stats.count, stats.total, stats.high) == (27, 351.0, 26.0)


def test_pooling_weighs_moments_by_voxels() -> None:
    many = case_intensity(np.full((1, 10, 10), 10, np.int16), np.ones((1, 10, 10), np.uint8), 0)
    few = case_intensity(np.full((1, 5, 5), 50, np.int16), np.ones((1, 5, 5), np.uint8), 0)
    stats = pool_intensity([many, few])
    assert stats.mean == pytest.approx(18.0)
    assert stats.sd == pytest.approx(16.0)
    assert pool_intensity([]) == IntensityStats()


def test_statistics_do_not_depend_on_how_a_case_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    voxels = rng.integers(-1000, 1000, (13, 9, 8)).astype(np.int16)
    labels = (rng.random(voxels.shape) < 0.2).astype(np.uint8)
    labels[4:9] = 0
    whole = case_intensity(voxels, labels, 5)
    inside = voxels[labels > 0].astype(float)
    assert (whole.count, whole.total, whole.low, whole.high) == (inside.size, inside.sum(), inside.min(), inside.max())
    for size in (1, 150, 400):
        monkeypatch.setattr("segray.case.SLAB_VOXELS", size)
        cut = case_intensity(voxels, labels, 5)
        assert (cut.count, cut.total, cut.square) == (whole.count, whole.total, whole.square)
        assert (cut.samples == whole.samples).all()
        assert voxel_statistics(voxels) == pytest.approx((voxels.mean(), voxels.std()))


def test_channels_and_overlap_survive_and_older_shards_are_refused(folder: Folder) -> None:
    stats = [IntensityStats(count=1), IntensityStats(count=2)]
    label_map = LabelMap({"organ": 1, "lesion": 2}, overlapping=True)
    manifest = replace(folder.manifest, intensity=stats, channels=["T1", "T2"], label_map=label_map)
    path = Path(folder.path) / "manifest.json"
    path.write_text(manifest.to_json())
    found = load_manifest(folder.path)
    assert (found.channels, found.in_channels, found.intensity) == (["T1", "T2"], 2, stats)
    assert found.label_map == label_map
    assert folder.manifest.in_channels == 1
    path.write_text(json.dumps(json.loads(manifest.to_json()) | {"schema_version": 1}))
    with pytest.raises(UsageError, match="Run segray ingest again"):
        load_manifest(folder.path)
