from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from segray.case import LabelMap
from segray.errors import CaseError
from segray.evaluation import counting
from segray.evaluation.statistics import structure_statistics


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_volume_and_mean_equal_masked_numpy(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    monkeypatch.setattr(counting, "CHUNK", 53)
    rng = np.random.default_rng(1)
    voxels = rng.integers(0, 200, (5, 6, 7)).astype(dtype)
    labels = np.repeat(rng.integers(0, 4, (5, 6, 1)), 7, axis=2).astype(np.uint8)
    labels[labels == 2] = 0
    found = structure_statistics(voxels, labels, 4, 0.25)
    for channel in (1, 3):
        inside = voxels[labels == channel].astype(np.float64)
        assert found.volume_ml[channel - 1] == inside.size * 0.25
        assert found.mean_hu[channel - 1] == pytest.approx(inside.mean(), rel=1e-12)
    assert found.volume_ml[1] == 0
    assert math.isnan(found.mean_hu[1])


def test_negative_hu_of_a_turned_view() -> None:
    voxels = np.asfortranarray(np.full((3, 4, 5), -1024, np.int16))[::-1]
    labels = np.ones((3, 4, 5), np.uint16)[:, ::-1]
    found = structure_statistics(voxels, labels, 2, 1.0)
    assert found.mean_hu.tolist() == [-1024.0]
    assert found.voxels.tolist() == [60]


def test_row_names_the_structures() -> None:
    found = structure_statistics(np.zeros((1, 1, 2), np.int16), np.array([[[0, 1]]], np.uint8), 3, 2.0)
    row = found.as_row(LabelMap.of_names(["liver", "gut"]))
    assert list(row) == ["volume_ml_liver", "volume_ml_gut", "mean_hu_liver", "mean_hu_gut"]
    assert row["volume_ml_liver"] == 2.0


def test_a_mask_of_another_shape_or_value_is_refused() -> None:
    voxels = np.zeros((2, 2, 2), np.int16)
    with pytest.raises(CaseError, match="shape"):
        structure_statistics(voxels, np.zeros((2, 2, 3), np.uint8), 2, 1.0)
    with pytest.raises(CaseError, match="index 9"):
        structure_statistics(voxels, np.full((2, 2, 2), 9, np.uint8), 2, 1.0)


@pytest.mark.parametrize("structures", [2, 20])
def test_overlapping_structures_share_their_voxels(monkeypatch: pytest.MonkeyPatch, structures: int) -> None:
    monkeypatch.setattr(counting, "CHUNK", 53)
    rng = np.random.default_rng(2)
    voxels = rng.integers(-900, 200, (5, 6, 7)).astype(np.int16)
    fields = np.repeat(rng.integers(0, 1 << structures, (5, 6, 1), dtype=np.uint32), 7, axis=2)
    fields &= ~np.uint32(2)
    found = structure_statistics(voxels, fields, structures, 0.5, overlapping=True)
    assert len(found.voxels) == structures
    for number in range(structures):
        inside = voxels[fields >> np.uint32(number) & 1 > 0].astype(np.float64)
        assert found.volume_ml[number] == inside.size * 0.5
        assert (number == 1 and math.isnan(found.mean_hu[1])) or found.mean_hu[number] == pytest.approx(inside.mean())
    with pytest.raises(CaseError, match="mask holds"):
        structure_statistics(voxels, np.full_like(fields, 1 << structures), structures, 1.0, overlapping=True)
