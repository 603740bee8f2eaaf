"""The slices beside a slice, above and below in its case, that a 2.5D net sees with it.

They travel with each row as compressed as the row itself, in two columns of their own, so that rows can be mixed and
blocks cut as those of single slices are. At the ends of a case its last slice stands in for those that are not there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

IMAGES = "beside_images"
"""list<binary>: the compressed images of the neighbours, from the lowest z to the highest, without the slice itself."""

CRCS = "beside_crcs"
"""list<int64>: their checksums."""


def neighbours_of(rows: NDArray[np.int64], count: int, each_side: int) -> NDArray[np.int64]:
    """(n, 2 * each_side) rows beside ``rows``, of a case with ``count`` slices; beyond its ends the last one.

    Args:
        rows: (n,) places in the case.
        count: slices of the case.
        each_side: neighbours below, and as many above.
    """
    steps = np.array([step for step in range(-each_side, each_side + 1) if step], dtype=np.int64)
    near: NDArray[np.int64] = np.clip(rows[:, None] + steps, 0, count - 1)
    return near


def with_neighbours(table: pa.Table, source: pa.Table, places: NDArray[np.int64]) -> pa.Table:
    """``table`` with the columns :data:`IMAGES` and :data:`CRCS`.

    Args:
        table: the n rows that are visited.
        source: rows with the columns ``image`` and ``image_crc``.
        places: (n, k) the rows of ``source`` that stand beside each.
    """
    taken = source.select(["image", "image_crc"]).take(pa.array(places.ravel())).combine_chunks()
    offsets = pa.array(np.arange(len(places) + 1, dtype=np.int32) * places.shape[1])
    for name, column in ((IMAGES, "image"), (CRCS, "image_crc")):
        values = taken[column].chunk(0) if taken.num_rows else pa.array([], taken.schema.field(column).type)
        table = table.append_column(name, pa.ListArray.from_arrays(offsets, values))
    return table


def groups_of(rows: NDArray[np.int64], sizes: Sequence[int]) -> range:
    """The row groups from the first to the last of ``rows``; ``sizes`` are the rows of each group of the part."""
    first, last = np.searchsorted(np.cumsum(sizes), [rows.min(), rows.max()], side="right")
    return range(int(first), int(last) + 1)
