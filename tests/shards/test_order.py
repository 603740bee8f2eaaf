"""The order of an epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segray.config import SamplingConfig
from segray.errors import UsageError
from segray.shards.index import SliceIndex, Visit
from segray.shards.manifest import PartEntry
from segray.shards.order import batch_sizes, epoch_slices, plan_epoch, split_visits, steps_of_epoch

ALL = SamplingConfig(mode="all")
GROUP = 5


def made(parts: int = 6, slices: int = 13, present: dict[int, list[int]] | None = None) -> SliceIndex:
    """Parts of equal length; ``present`` says which labels lie in a slice, by default label 1 in every third."""
    entries = [
        PartEntry(f"c{n}", f"c{n}", "validation" if n == 0 else "train", f"part-c{n}.parquet", 1, slices, "", "")
        for n in range(parts)
    ]
    z = np.tile(np.arange(slices, dtype=np.int32), parts)
    count = z.size
    lists = [(present or {}).get(n, [1] if present is None and n % 3 == 0 else []) for n in range(count)]
    foreground = np.array([10 * len(one) for one in lists], dtype=np.int32)
    values = np.array([label for one in lists for label in one], dtype=np.int32)
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    part = np.repeat(np.arange(parts, dtype=np.int32), slices)
    return SliceIndex(entries, part, z // GROUP, z % GROUP, z, foreground, (values, offsets))


def rows(visits: list[Visit]) -> list[tuple[str, int]]:
    return [(visit.part, visit.group * GROUP + row) for visit in visits for row in visit.rows]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_all_visits_every_training_slice_once_over_all_workers(world: int) -> None:
    index = made()
    visits = plan_epoch(index, ALL, seed=1, epoch=1)
    seen = Counter(row for rank in range(world) for row in rows(split_visits(visits, rank, world)))
    assert set(seen.values()) == {1}
    assert set(seen) == {(f"part-c{n}.parquet", z) for n in range(1, 6) for z in range(13)}


def test_each_epoch_has_another_order_which_the_seed_fixes() -> None:
    index = made()
    first = plan_epoch(index, ALL, seed=1, epoch=1)
    assert first == plan_epoch(index, ALL, seed=1, epoch=1)
    assert first != plan_epoch(index, ALL, seed=1, epoch=2)
    assert first != plan_epoch(index, ALL, seed=2, epoch=1)


def test_the_sampler_too_is_fixed_by_seed_and_epoch() -> None:
    index = made()
    for mode in ("foreground", "balanced"):
        sampling = SamplingConfig(mode=mode)  # type: ignore[arg-type]
        assert plan_epoch(index, sampling, 1, 4) == plan_epoch(index, sampling, 1, 4)
        assert rows(plan_epoch(index, sampling, 1, 4)) != rows(plan_epoch(index, sampling, 1, 5))


def test_foreground_thins_the_background_anew_each_epoch() -> None:
    index = made()
    shown = {n for n in index.slices_of("train") if index.foreground[n]}
    drawn = []
    for epoch in range(1, 4):
        seen = rows(plan_epoch(index, SamplingConfig(mode="foreground", foreground_share=0.8), 1, epoch))
        numbers = {int(part[6:-8]) * 13 + z for part, z in seen}
        assert len(numbers) == len(seen)
        assert shown <= numbers
        assert len(shown) / len(numbers) >= 0.8
        drawn.append(frozenset(numbers - shown))
    assert len(set(drawn)) == 3
    assert len({len(one) for one in drawn}) == 1


def test_without_foreground_all_slices_come() -> None:
    index = made(present={0: []})
    for mode in ("foreground", "balanced"):
        assert len(rows(plan_epoch(index, SamplingConfig(mode=mode), 1, 1))) == 65  # type: ignore[arg-type]


def test_balanced_brings_rare_structures_more_often() -> None:
    present = {n: [1] for n in range(13, 78)}
    present[20] = [1, 2]
    index = made(present=present)
    sampling = SamplingConfig(mode="balanced")
    counts = Counter(row for epoch in range(20) for row in rows(plan_epoch(index, sampling, 1, epoch)))
    assert sum(counts.values()) == 20 * 65
    rare = counts["part-c1.parquet", 7]
    common = np.mean([count for row, count in counts.items() if row != ("part-c1.parquet", 7)])
    assert rare / common == pytest.approx(65**0.5, rel=0.25)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 9))
def test_workers_make_the_same_steps_and_none_is_empty(slices: int, batch: int, world: int) -> None:
    visits = [Visit("p", number, (0, 1, 2)) for number in range(slices // 3)] + [
        Visit("q", 0, tuple(range(slices % 3)))
    ]
    if slices < world:
        with pytest.raises(UsageError, match="too few"):
            steps_of_epoch(slices, batch, world)
        return
    steps = steps_of_epoch(slices, batch, world)
    for rank in range(world):
        count = sum(len(visit.rows) for visit in split_visits(visits, rank, world))
        sizes = batch_sizes(count, steps)
        assert len(sizes) == steps
        assert sum(sizes) == count
        assert min(sizes) >= 1
        assert max(sizes) <= batch + (batch < 3)


def test_a_visit_keeps_the_size_of_its_part_when_it_is_cut() -> None:
    assert split_visits([Visit("p", 0, (0, 1), 77)], 1, 2) == [Visit("p", 0, (1,), 77)]


def test_no_training_slice_is_told_in_words() -> None:
    assert epoch_slices(made(), ALL) == 65
    with pytest.raises(UsageError, match="no training slice"):
        epoch_slices(made(parts=1), ALL)
