"""3D patches from shards: a stack is some slices of a case one above the other, and a patch is cut out of it.

A stack travels as so many rows in order, each as compressed as ever, so that reading and streaming know nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segray.config import SamplingConfig
from segray.shards import ShardError
from segray.shards.codec import MEND
from segray.shards.index import SliceIndex, Visit
from segray.shards.order import chosen_slices
from segray.shards.reader import CompressedSlice, SliceBatch, decode_batch

Stack = tuple[Visit, ...]
"""The visits that bring the slices of one stack, from the lowest z up."""


def stack_places(middle: int, count: int, depth: int) -> NDArray[np.int64]:
    """(depth,) places in a case of ``count`` slices of a stack around ``middle``.

    It stays inside the case. Where the case has fewer slices than the stack, its first and last one come again, so that
    ``middle`` decides how many times.
    """
    start = int(np.clip(middle - depth // 2, min(0, count - depth), max(0, count - depth)))
    places: NDArray[np.int64] = np.clip(np.arange(start, start + depth), 0, count - 1)
    return places


def stacks_of_epoch(index: SliceIndex, sampling: SamplingConfig, depth: int) -> int:
    """Stacks of an epoch over all workers: together they hold about as many slices as the sampler chooses."""
    chosen = chosen_slices(index, sampling, np.random.default_rng(0)).size
    return -(-int(chosen) // depth)


def plan_stacks(
    index: SliceIndex, sampling: SamplingConfig, depth: int, seed: int, epoch: int, *, together: bool = False
) -> list[Stack]:
    """The stacks of an epoch in their order: around every ``depth``-th of the slices that the sampler chooses.

    Args:
        index: the slices.
        sampling: how they are weighed.
        depth: slices a stack.
        seed: of the order.
        epoch: from 1.
        together: the stacks of a case follow each other.
    """
    rng = np.random.default_rng([seed, epoch])
    chosen = np.sort(chosen_slices(index, sampling, rng))
    count = -(-chosen.size // depth)
    # A random start: over the epochs every slice comes in the middle.
    picked = chosen[((np.arange(count) + rng.random()) * chosen.size / max(count, 1)).astype(np.int64)]
    bounds = np.searchsorted(index.part, np.arange(len(index.parts) + 1))
    mixed = picked[rng.permutation(count)]
    if together:
        _, first, owner = np.unique(index.part[mixed], return_index=True, return_inverse=True)
        mixed = mixed[np.argsort(first[owner], kind="stable")]
    return [_stack_around(index, int(one), bounds, depth) for one in mixed]


def _stack_around(index: SliceIndex, middle: int, bounds: NDArray[np.int64], depth: int) -> Stack:
    part = int(index.part[middle])
    first, end = int(bounds[part]), int(bounds[part + 1])
    return tuple(index.visits(first + stack_places(middle - first, end - first, depth)))


def stack_around(index: SliceIndex, middle: int, depth: int) -> Stack:
    """The stack around a slice of the index."""
    return _stack_around(index, middle, np.searchsorted(index.part, np.arange(len(index.parts) + 1)), depth)


def split_stacks(stacks: Sequence[Stack], rank: int, world: int) -> Sequence[Stack]:
    """Worker ``rank``'s part of an epoch; parts differ by at most one stack."""
    return stacks[len(stacks) * rank // world : len(stacks) * (rank + 1) // world]


@dataclass(frozen=True, slots=True)
class CompressedStack:
    """Slices of one case with their pixels still compressed, from the lowest z up."""

    slices: tuple[CompressedSlice, ...]

    @property
    def bytes(self) -> int:
        """Compressed size."""
        return sum(one.bytes for one in self.slices)

    def own(self) -> CompressedStack:
        """The same slices with bytes of their own."""
        return CompressedStack(tuple(one.own() for one in self.slices))


def stacks_of(rows: Iterable[CompressedSlice], depth: int) -> Iterator[CompressedStack]:
    """Rows in the order of :func:`plan_stacks` to stacks."""
    waiting: list[CompressedSlice] = []
    for one in rows:
        waiting.append(one)
        if len(waiting) == depth:
            yield CompressedStack(tuple(waiting))
            waiting = []


@dataclass(frozen=True)
class PatchCutter:
    """Cuts patches out of stacks, in-plane.

    Attributes:
        size: (rows, columns) of a patch; 0, or more than there are: all of them.
        share: how often a patch is laid so that it holds a labelled voxel, drawn from all that the stack has.
        rng: what draws.
        ignored: the label of voxels that nobody judged, which are none to aim at; 0: there are none.
    """

    size: tuple[int, int]
    share: float
    rng: np.random.Generator
    ignored: int = 0

    def offset(self, labels: NDArray[np.generic]) -> tuple[slice, slice]:
        """Rows and columns of the patch in a stack's (D, H, W) labels."""
        sides = labels.shape[1:]
        patch = [min(size or side, side) for size, side in zip(self.size, sides, strict=True)]
        if tuple(patch) == sides:
            return slice(None), slice(None)
        draws = self.rng.random(4)
        shown = np.flatnonzero((labels != 0) & (labels != self.ignored) if self.ignored else labels)
        room = [side - size for side, size in zip(sides, patch, strict=True)]
        starts = [int(draw * (left + 1)) for draw, left in zip(draws, room, strict=False)]
        if shown.size and draws[2] < self.share:
            _, *target = np.unravel_index(shown[int(draws[3] * shown.size)], labels.shape)
            # The voxel at a random place of the patch, so that structures are not always in its middle.
            starts = [
                int(np.clip(int(at) - int(draw * size), 0, left))
                for at, draw, size, left in zip(target, draws, patch, room, strict=False)
            ]
        rows, columns = (slice(start, start + size) for start, size in zip(starts, patch, strict=True))
        return rows, columns


def decode_stacks(stacks: Sequence[CompressedStack], threads: int, cutter: PatchCutter | None = None) -> SliceBatch:
    """Decompress stacks into a batch of patches.

    Args:
        stacks: of the same depth.
        threads: that decode side by side.
        cutter: cuts patches in-plane; None: whole slices.

    Returns:
        images (n, D * c, h, w), of each slice all channels together, labels (n, D, h, w); ``z`` is that of the slice in
        the middle.

    Raises:
        ShardError: a slice is damaged, the slices differ in size, or a stack holds slices of two cases.
    """
    depth = len(stacks[0].slices)
    for stack in stacks:
        if len({one.case_id for one in stack.slices}) > 1:
            raise ShardError(f"The slices around case {stack.slices[0].case_id} are out of order.", mend=MEND)
    flat = decode_batch([one for stack in stacks for one in stack.slices], threads)
    images = flat.images.reshape(len(stacks), -1, *flat.images.shape[-2:])
    labels = flat.labels.reshape(len(stacks), depth, *flat.labels.shape[-2:])
    if cutter is not None:
        cuts = [cutter.offset(one) for one in labels]
        images = np.stack([one[:, rows, columns] for one, (rows, columns) in zip(images, cuts, strict=True)])
        labels = np.stack([one[:, rows, columns] for one, (rows, columns) in zip(labels, cuts, strict=True)])
    return replace(
        flat,
        images=images,
        labels=labels,
        mean=flat.mean[::depth],
        sd=flat.sd[::depth],
        case_ids=flat.case_ids[::depth],
        z=flat.z[depth // 2 :: depth],
    )
