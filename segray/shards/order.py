"""The order of an epoch: which slices, in which row groups, for which worker; fixed by (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segray.config import SamplingConfig
from segray.errors import UsageError
from segray.shards.index import SliceIndex, Visit


def plan_epoch(
    index: SliceIndex, sampling: SamplingConfig, seed: int, epoch: int, *, together: bool = False
) -> list[Visit]:
    """The visits of an epoch: training slices as the sampler weighs them, row groups in a new order.

    The number of slices is the same in every epoch.

    Args:
        index: the slices.
        sampling: how they are weighed.
        seed: of the order.
        epoch: from 1.
        together: the row groups of a case follow each other, in an order of their own: where a case is read from its
            files, it is read once. With one row group a case this is the same order.
    """
    rng = np.random.default_rng([seed, epoch])
    slices = chosen_slices(index, sampling, rng)
    visits = index.visits(np.sort(slices))
    mixed = rng.permutation(len(visits)).tolist()
    if together:
        # The place of its first group puts a case among the others: a long case comes no earlier than a short one.
        places = np.argsort(mixed)
        first: dict[str, int] = {}
        for visit, place in zip(visits, places.tolist(), strict=True):
            first.setdefault(visit.part, place)
        mixed.sort(key=lambda number: first[visits[number].part])
    return [visits[number] for number in mixed]


def epoch_slices(index: SliceIndex, sampling: SamplingConfig) -> int:
    """Slices of an epoch over all workers. Raises UsageError where there are none."""
    count = int(chosen_slices(index, sampling, np.random.default_rng(0)).size)
    if not count:
        raise UsageError("The shards hold no training slice.", mend="Lower ingest.split.validation and ingest again.")
    return count


def chosen_slices(index: SliceIndex, sampling: SamplingConfig, rng: np.random.Generator) -> NDArray[np.int64]:
    """The training slices of an epoch as the sampler weighs them; as many in every epoch, in no order."""
    slices = index.slices_of("train")
    shown = index.foreground[slices] > 0
    if sampling.mode == "all" or not shown.any():
        return slices
    if sampling.mode == "balanced":
        return _balanced(index, slices, rng)
    empty = slices[~shown]
    share = max(sampling.foreground_share, 1e-9)
    keep = min(empty.size, int(shown.sum() * (1 - share) / share))
    return np.concatenate([slices[shown], rng.choice(empty, size=keep, replace=False)])


def _balanced(index: SliceIndex, slices: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many slices as there are, drawn so that a slice comes in proportion to 1/sqrt(frequency) of its rarest label.

    Systematic resampling: a slice of weight w comes floor(w) or ceil(w) times.
    """
    values, offsets = index.present
    frequency = np.bincount(values, minlength=1).astype(np.float64)
    rarity = 1.0 / np.sqrt(np.maximum(frequency, 1.0))
    floor = float(rarity[frequency > 0].min())
    weights = np.full(index.part.size, floor)
    owners = np.repeat(np.arange(index.part.size), np.diff(offsets))
    np.maximum.at(weights, owners, rarity[values])
    mine = weights[slices]
    edges = np.cumsum(mine) * (slices.size / mine.sum())
    edges[-1] = slices.size
    picks = np.searchsorted(edges, np.arange(slices.size) + rng.random(), side="right")
    return slices[np.minimum(picks, slices.size - 1)]


def split_visits(visits: Sequence[Visit], rank: int, world: int) -> list[Visit]:
    """Worker ``rank``'s own part of an epoch: a contiguous run of the visits, cut inside a row group where it must be.

    Parts differ by at most one slice, and together they are every slice once.
    """
    total = sum(len(visit.rows) for visit in visits)
    start, end = (total * rank) // world, (total * (rank + 1)) // world
    mine: list[Visit] = []
    position = 0
    for visit in visits:
        low, high = max(start - position, 0), min(end - position, len(visit.rows))
        if low < high:
            mine.append(replace(visit, rows=visit.rows[low:high]))
        position += len(visit.rows)
    return mine


def steps_of_epoch(slices: int, batch_size: int, world: int) -> int:
    """Steps that every worker makes, each with at least one slice, so that no batch is larger than ``batch_size``.

    (By one slice it may be larger where the batches are so small that a worker would run out of slices.)
    Raises UsageError if there are fewer slices than workers.
    """
    if slices < world:
        raise UsageError(f"{slices} training slices are too few for {world} workers.", mend="Lower train.workers.")
    largest = -(-slices // world)
    return min(-(-largest // batch_size), slices // world)


def batch_sizes(slices: int, steps: int) -> list[int]:
    """``slices`` dealt into ``steps`` batches that differ by at most one: no worker runs out before another."""
    return [slices * (step + 1) // steps - slices * step // steps for step in range(steps)]
