"""The rows that cases travel in between the stages of a prediction."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from segray.pipelines.predict_rows import SCHEMA, one_row, volume_of, with_values

VOXELS = np.arange(-60, 60, dtype=np.int16).reshape(4, 5, 6)


def test_voxels_are_a_view_of_the_rows_memory() -> None:
    """A case of gigabytes must not be copied by each stage that looks at it."""
    table = one_row(SCHEMA, {"case_id": "a", "voxels": VOXELS})
    found = volume_of(table, "voxels", "<i2", VOXELS.shape)
    assert np.array_equal(found, VOXELS)
    assert np.shares_memory(found, VOXELS)
    assert not found.flags.writeable


@pytest.mark.parametrize("around", [0, 1, 3])
def test_a_row_is_found_among_others_and_beside_empty_chunks(around: int) -> None:
    other = one_row(SCHEMA, {"case_id": "b", "voxels": VOXELS[::-1].copy()})
    table = one_row(SCHEMA, {"case_id": "a", "voxels": VOXELS})
    together = pa.concat_tables([*[other] * around, table, other]).combine_chunks().slice(around, 1)
    with_empty = pa.concat_tables([other.slice(0, 0), together, other.slice(1)])
    for one in (together, with_empty):
        assert np.array_equal(volume_of(one, "voxels", "<i2", VOXELS.shape), VOXELS)


def test_a_replaced_column_leaves_the_others_where_they_are() -> None:
    labels = np.ones(VOXELS.shape, np.uint8)
    table = with_values(one_row(SCHEMA, {"case_id": "a", "voxels": VOXELS}), {"labels": labels})
    assert np.shares_memory(volume_of(table, "voxels", "<i2", VOXELS.shape), VOXELS)
    assert np.shares_memory(volume_of(table, "labels", "|u1", VOXELS.shape), labels)
