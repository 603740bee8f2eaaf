"""Every patient is held out once, and never cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segray.case import LabelMap
from segray.errors import UsageError
from segray.grid import Grid
from segray.shards.folds import folded
from segray.shards.manifest import Manifest, PartEntry

GRID = Grid("native", (4, 4), None, 0.0)


def manifest(patients: list[str], tests: int = 0) -> Manifest:
    parts = [
        PartEntry(f"c{number}", patient, "validation" if number % 4 == 0 else "train", f"part-{number}", 1, 1, "p", "r")
        for number, patient in enumerate(patients)
    ]
    parts += [
        PartEntry(f"t{number}", f"tp{number}", "test", f"part-t{number}", 1, 1, "p", "r") for number in range(tests)
    ]
    return Manifest(LabelMap.of_names(["a"]), GRID, [], parts, {})


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(2, 6), st.integers(0, 3))
def test_every_patient_is_held_out_once(owners: list[int], folds: int, seed: int) -> None:
    given_ = manifest([f"p{owner}" for owner in owners], tests=2)
    patients = len(set(owners))
    if patients < folds:
        with pytest.raises(UsageError, match=f"{patients} patients cannot be dealt into {folds} folds"):
            folded(given_, folds, 0, seed)
        return
    held: list[str] = []
    sizes = []
    for fold in range(folds):
        parts = folded(given_, folds, fold, seed).parts
        assert [replace(part, split="train") for part in parts] == [
            replace(part, split="train") for part in given_.parts
        ]
        here = {part.patient for part in parts if part.split == "validation"}
        assert here.isdisjoint({part.patient for part in parts if part.split == "train"})
        assert {part.case_id for part in parts if part.split == "test"} == {"t0", "t1"}
        held += here
        sizes.append(len(here))
    assert sorted(held) == sorted({f"p{owner}" for owner in owners})
    assert max(sizes) - min(sizes) <= 1


def test_the_seed_deals_otherwise() -> None:
    many = manifest([f"p{number}" for number in range(30)])
    first, again, other = (folded(many, 5, 0, seed).parts for seed in (0, 0, 1))
    assert first == again
    assert first != other
