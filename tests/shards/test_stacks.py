"""Stacks of slices for 3D: what they hold, how often each slice comes, and where patches are cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from segray.config import SamplingConfig
from segray.shards import ShardError
from segray.shards.index import SliceIndex
from segray.shards.reader import SliceBatch, read_visit, slices_of
from segray.shards.stacks import (
    CompressedStack,
    PatchCutter,
    Stack,
    decode_stacks,
    plan_stacks,
    split_stacks,
    stack_places,
    stacks_of,
    stacks_of_epoch,
)
from tests.shards.conftest import MakeFolder

EVERY = SamplingConfig(mode="all")


def test_a_stack_stays_in_its_case() -> None:
    assert stack_places(5, 10, 4).tolist() == [3, 4, 5, 6]
    assert stack_places(0, 10, 4).tolist() == [0, 1, 2, 3]
    assert stack_places(9, 10, 4).tolist() == [6, 7, 8, 9]


def test_a_short_case_is_continued_by_its_ends() -> None:
    assert stack_places(0, 2, 4).tolist() == [0, 0, 0, 1]
    assert stack_places(1, 2, 4).tolist() == [0, 0, 1, 1]
    assert stack_places(0, 1, 3).tolist() == [0, 0, 0]


@pytest.fixture
def index(make_folder: MakeFolder) -> tuple[str, SliceIndex]:
    folder = make_folder({"a": 9, "b": 4, "c": 21}, rows_per_group=5)
    return folder.path, folder.index


def _decoded(folder: str, stack: Stack, depth: int) -> SliceBatch:
    rows = (one for visit in stack for one in slices_of(read_visit(folder, visit)))
    return decode_stacks(list(stacks_of(rows, depth)), 1)


def test_the_stacks_hold_neighbouring_slices_of_one_case(index: tuple[str, SliceIndex]) -> None:
    folder, slices = index
    depth = 6
    stacks = plan_stacks(slices, EVERY, depth, 0, 1)
    assert len(stacks) == stacks_of_epoch(slices, EVERY, depth) == 6
    for stack in stacks:
        rows = [one for visit in stack for one in slices_of(read_visit(folder, visit))]
        assert len(rows) == depth
        assert len({one.case_id for one in rows}) == 1
        assert set(np.diff([one.z for one in rows]).tolist()) <= {0, 1}
        batch = _decoded(folder, stack, depth)
        assert batch.images.shape[:2] == batch.labels.shape[:2] == (1, depth)
        assert batch.mean.shape == (1,)
        assert batch.z.tolist() == [rows[depth // 2].z]


def test_over_epochs_every_slice_comes_about_as_often(index: tuple[str, SliceIndex]) -> None:
    _, slices = index
    seen = np.zeros(slices.part.size)
    first = np.searchsorted(slices.part, np.arange(3))
    names = {part.file: start for part, start in zip(slices.parts, first, strict=True)}
    for epoch in range(1, 61):
        for stack in plan_stacks(slices, EVERY, 4, 3, epoch):
            for visit in stack:
                np.add.at(seen, names[visit.part] + 5 * visit.group + np.array(visit.rows), 1)
    assert seen.min() > 20
    assert seen.max() < 100


def test_an_epoch_is_the_same_again_and_another_is_not(index: tuple[str, SliceIndex]) -> None:
    _, slices = index
    one = plan_stacks(slices, EVERY, 4, 0, 1)
    assert one == plan_stacks(slices, EVERY, 4, 0, 1)
    assert one != plan_stacks(slices, EVERY, 4, 0, 2)
    assert [stack for rank in range(3) for stack in split_stacks(one, rank, 3)] == one


def test_together_keeps_the_stacks_of_a_case_beside_each_other(index: tuple[str, SliceIndex]) -> None:
    _, slices = index
    parts = [stack[0].part for stack in plan_stacks(slices, EVERY, 2, 0, 1, together=True)]
    changes = sum(one != after for one, after in pairwise(parts))
    assert changes == len(set(parts)) - 1


def test_rows_of_two_cases_are_no_stack(index: tuple[str, SliceIndex]) -> None:
    folder, slices = index
    rows = [one for visit in slices.visits(np.array([8, 9])) for one in slices_of(read_visit(folder, visit))]
    with pytest.raises(ShardError, match="out of order"):
        decode_stacks([CompressedStack(tuple(rows))], 1)


def test_patches_lie_inside_and_show_the_labels_as_often_as_asked() -> None:
    labels = np.zeros((3, 40, 30), dtype=np.uint8)
    labels[1, 35, 2] = 1
    for share, least, most in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.3)):
        cutter = PatchCutter((8, 16), share, np.random.default_rng(0))
        cuts = [labels[:, *cutter.offset(labels)] for _ in range(200)]
        assert {cut.shape for cut in cuts} == {(3, 8, 16)}
        assert least <= np.mean([cut.any() for cut in cuts]) <= most


def test_no_patch_aims_at_voxels_that_nobody_judged() -> None:
    labels = np.full((3, 40, 30), 7, dtype=np.uint8)
    labels[1, 35, 2] = 1
    cutter = PatchCutter((8, 16), 1.0, np.random.default_rng(0), ignored=7)
    assert all((labels[:, *cutter.offset(labels)] == 1).any() for _ in range(50))


def test_a_patch_as_large_as_the_slice_is_the_slice() -> None:
    labels = np.ones((2, 8, 8), dtype=np.uint8)
    for size in ((0, 0), (8, 8), (100, 0)):
        assert PatchCutter(size, 1.0, np.random.default_rng(0)).offset(labels) == (slice(None), slice(None))
