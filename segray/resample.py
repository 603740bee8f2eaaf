"""The pixels of a case onto the grid, as ingest and predict need them, and a net's scores back to labels.

torch is imported only by what runs beside a net, so that ingest workers start without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy import ndimage

from segray.case import Volume, channel_volumes
from segray.grid import Grid, Placement, fill_value, plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TIE = 1e-5
"""Difference of vote scores that counts as a tie: the sums are float32."""

LABELS_AT_ONCE = 4
"""Label planes a slice that are interpolated together: memory stays at a few planes, calls are few."""

MARGIN = 1e-5
"""Share of the largest score by which a label must be second to be left out."""

BLOCK = 8
"""Side of the blocks of pixels in which it is seen which labels can be the largest."""

Meaning = Literal["softmax", "sigmoid", "given", "shifted"]
"""What makes scores probabilities: a softmax over the labels, a sigmoid of each; they are some, or some less 0.5."""


@dataclass(frozen=True)
class Weighing:
    """What thresholds make of the scores of labels that exclude each other, before the largest takes a pixel.

    A threshold t weighs a label's probability by the odds against it, (1 - t) / t, and what has none by 1. So a label
    with a threshold takes a pixel that it shares with a single one without from the probability t on; of one structure
    that is argmax p / t, the background's threshold being 1 - t. All at 0.5 are the plain argmax.

    Attributes:
        factors: an entry a label, the background's first, which is 1; finite, 0 for what has a threshold of 1.
        logits: to the scores, which are logits, the factors' logarithms are added; else they are probabilities.
    """

    factors: tuple[float, ...]
    logits: bool

    def plane(self, number: int, plane: Tensor) -> Tensor:
        """The float32 scores of one label, weighed. The background's are the next smaller ones: it loses ties."""
        import torch

        factor = self.factors[number]
        if factor != 1.0:
            plane = plane + _log(factor) if self.logits else plane * factor
        return plane if number else torch.nextafter(plane, plane.new_tensor(-torch.inf))

    def weighed(self, scores: Tensor) -> Tensor:
        """(..., L) scores, weighed as :meth:`plane` does; float32 in memory of its own."""
        import torch

        factors = torch.tensor(self.factors, device=scores.device)
        found = scores + factors.double().log().float() if self.logits else scores * factors
        found[..., 0] = self.plane(0, found[..., 0])
        return found


def _log(factor: float) -> float:
    return math.log(factor) if factor else -math.inf


def _around_body(placement: Placement, voxels: Volume, fill: float) -> Placement:
    """Move the crop so that the body, not the table or the air beside it, is in the middle; one offset a case."""
    ranges = body_range(voxels, fill)
    offsets = []
    sides = zip(ranges, placement.original, placement.resampled, placement.canvas, placement.offset, strict=True)
    for (low, high), old, new, room, offset in sides:
        middle = (low + high) / 2 * new / old
        offsets.append(int(np.clip(round(room / 2 - middle), room - new, 0)) if new > room else offset)
    return replace(placement, offset=(offsets[0], offsets[1]))


def body_range(voxels: Volume, fill: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Rows and columns of (z, y, x) voxels between which 96 % of the body's pixels lie, from every fourth voxel.

    The body is what lies above a quarter of the way from ``fill`` to the 99th percentile.
    """
    thin = voxels[:: max(1, len(voxels) // 32), ::4, ::4]
    limit = fill + 0.25 * (float(np.percentile(thin, 99)) - fill)
    body = thin > limit
    ranges = []
    for axes, side in (((0, 2), voxels.shape[1]), ((0, 1), voxels.shape[2])):
        pixels = np.cumsum(body.sum(axis=axes))
        if pixels[-1] == 0:
            ranges.append((0.0, float(side)))
            continue
        low, high = np.searchsorted(pixels, (0.02 * pixels[-1], 0.98 * pixels[-1]))
        ranges.append((4.0 * low, min(4.0 * high + 4, float(side))))
    return ranges[0], ranges[1]


def image_to_grid(voxels: Volume, spacing: tuple[float, float, float], grid: Grid) -> tuple[Volume, Placement]:
    """Bring a case to the grid: linear, antialiased where it becomes coarser, slice by slice.

    Args:
        voxels: (z, y, x) or (z, c, y, x), int16 (rounded) or float32.
        spacing: (z, y, x) mm.
        grid: the recipe. Of several channels each is padded with the fill value of its own.

    Returns:
        (z, H, W) or (z, c, H, W) of the same dtype, the very array where nothing had to be done, and the case's
        placement, which is that of its first channel.

    Raises:
        CaseError: mode native, and the case has another size.
    """
    if voxels.ndim == 4:
        fills = [replace(grid, fill=fill_value(volume)) for volume in channel_volumes(voxels)]
        first, placement = image_to_grid(voxels[:, 0], spacing, fills[0])
        others = zip(channel_volumes(voxels)[1:], fills[1:], strict=True)
        placed = [first, *(place_image(volume, placement, own.fill) for volume, own in others)]
        return np.stack(placed, axis=1), placement
    depth, height, width = voxels.shape
    placement = plan((depth, height, width), spacing, grid)
    if placement.crops and voxels.size:
        placement = _around_body(placement, voxels, grid.fill)
    return place_image(voxels, placement, grid.fill), placement


def place_image(voxels: Volume, placement: Placement, fill: float) -> Volume:
    """(z, y, x) voxels resampled, then padded with ``fill`` or cropped to (z, H, W), as ``placement`` says."""
    if placement.is_identity:
        return voxels
    canvas, inside = placement.windows()
    placed = np.full((len(voxels), *placement.canvas), fill, dtype=voxels.dtype)
    for source, target in zip(voxels, placed, strict=True):
        target[canvas] = (_resample(source, placement) if placement.resamples else source)[inside]
    return placed


def _resample(plane: NDArray[Any], placement: Placement) -> NDArray[Any]:
    """(Y, X) to (h, w), the dtype kept; a sparse product an axis, faster than torch's antialiased resize."""
    values = plane.astype(np.float32, copy=False)
    (rows, columns), (height, width) = placement.original, placement.resampled
    if height != rows:
        values = _sparse_weights(rows, height) @ values
    if width != columns:
        values = (_sparse_weights(columns, width) @ np.ascontiguousarray(values.T)).T
    if np.issubdtype(plane.dtype, np.integer):
        values = np.rint(values)
    return values.astype(plane.dtype, copy=False)


@lru_cache(maxsize=32)
def linear_weights(old: int, new: int) -> NDArray[np.float32]:
    """(new, old) weights of linear interpolation (align_corners=False), widened to an antialias filter when coarser.

    The triangle filter of PIL and of torch's ``antialias=True``; rows sum to 1. Finer, it is bilinear interpolation.
    """
    scale = old / new
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(old)[None] + 0.5 - centres[:, None]) / max(scale, 1.0)
    weights = np.maximum(0.0, 1.0 - distance)
    normed: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    normed.setflags(write=False)
    return normed


@lru_cache(maxsize=32)
def _sparse_weights(old: int, new: int) -> Any:
    return scipy.sparse.csr_matrix(linear_weights(old, new))


def labels_to_grid(labels: Volume, placement: Placement, grid: Grid, *, overlapping: bool = False) -> Volume:
    """Bring label indices to the grid so that thin and small structures survive.

    Each pixel takes the label with the largest linear vote, foreground before background where they tie. A label
    that keeps less than half of its area gets the pixels of its best votes, up to its area, at least one: so that a
    vessel one pixel wide does not end at a resolution three times coarser. Overlapping structures are brought to the
    grid each by itself, as the only label beside the background.

    Args:
        labels: (z, y, x) uint8 or uint16 indices, or bit fields.
        placement: the case's placement from :func:`image_to_grid`.
        grid: the recipe.
        overlapping: the labels are bit fields.

    Returns:
        (z, H, W) of the same dtype, the very array where nothing had to be done; 0 outside of the case.
    """
    if placement.canvas != grid.size:
        raise ValueError(f"the placement is for the canvas {placement.canvas}, the grid has {grid.size}")
    if placement.is_identity:
        return labels
    canvas, inside = placement.windows()
    placed = np.zeros((len(labels), *placement.canvas), dtype=labels.dtype)
    vote = _vote_bits if overlapping else _vote
    for source, target in zip(labels, placed, strict=True):
        target[canvas] = (vote(source, placement) if placement.resamples else source)[inside]
    return placed


@dataclass(frozen=True)
class _Ballot:
    """The votes for one label of a slice, in the window of the resampled slice where it has any."""

    label: int
    area: float
    window: tuple[slice, slice]
    votes: NDArray[np.float32]


def _vote(plane: NDArray[Any], placement: Placement) -> NDArray[Any]:
    """(Y, X) labels to (h, w): the running maximum of the votes, one label a time, each within its bounding box."""
    ballots = _ballots(plane, placement)
    best = np.zeros(placement.resampled, dtype=np.float32)
    total = np.zeros(placement.resampled, dtype=np.float32)
    winner = np.zeros(placement.resampled, dtype=plane.dtype)
    for ballot in ballots:
        so_far = best[ballot.window]
        winner[ballot.window][ballot.votes > so_far] = ballot.label
        np.maximum(so_far, ballot.votes, out=so_far)
        total[ballot.window] += ballot.votes
    winner[best < 1.0 - total - TIE] = 0
    # The smallest come last, so that no larger one takes their pixels.
    for ballot in sorted(ballots, key=lambda ballot: -ballot.area):
        _rescue(winner, ballot)
    return winner


def _vote_bits(plane: NDArray[Any], placement: Placement) -> NDArray[Any]:
    """(Y, X) bit fields to (h, w): a vote a structure."""
    placed = np.zeros(placement.resampled, plane.dtype)
    present = int(np.bitwise_or.reduce(plane, axis=None))
    for number in range(present.bit_length()):
        if present >> number & 1:
            inside = (plane >> number & 1).astype(np.uint8)
            placed |= _vote(inside, placement).astype(plane.dtype) << plane.dtype.type(number)
    return placed


def _ballots(plane: NDArray[Any], placement: Placement) -> list[_Ballot]:
    (rows, columns), (height, width) = placement.original, placement.resampled
    down, across = linear_weights(rows, height), linear_weights(columns, width)
    shrink = height * width / (rows * columns)
    found = []
    for label, box in enumerate(ndimage.find_objects(plane), start=1):
        if box is None:
            continue
        mask = plane[box] == label
        y, x = _touched(down, box[0]), _touched(across, box[1])
        votes = down[y, box[0]] @ mask.astype(np.float32) @ across[x, box[1]].T
        found.append(_Ballot(label, float(np.count_nonzero(mask)) * shrink, (y, x), votes))
    return found


def _touched(weights: NDArray[np.float32], box: slice) -> slice:
    """The resampled rows to which the rows in ``box`` contribute."""
    rows = np.flatnonzero(weights[:, box].any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1)


def _rescue(winner: NDArray[Any], ballot: _Ballot) -> None:
    """Give a label its best pixels where it kept less than half of its area."""
    view = winner[ballot.window]
    if np.count_nonzero(view == ballot.label) >= max(0.5 * ballot.area, 1.0):
        return
    wanted = max(round(ballot.area), 1)
    votes = ballot.votes.reshape(-1)
    # Equal votes, as along a straight line, are broken by the golden ratio: the chosen pixels spread over all of it.
    spread = (np.arange(votes.size) * 0.6180339887498949) % 1.0
    chosen = np.lexsort((spread, -np.round(votes, 4)))[:wanted]
    ys, xs = np.unravel_index(chosen[votes[chosen] > 0], ballot.votes.shape)
    view[ys, xs] = ballot.label


def place_slab(voxels: Volume, placement: Placement, grid: Grid, device: torch.device | str = "cpu") -> Tensor:
    """A slab of slices on the canvas, as ingest made the slices that the net has learnt from.

    Args:
        voxels: (n, Y, X) int16 or float32.
        placement: from :func:`segray.grid.plan_prediction`.
        grid: the recipe; its fill pads.
        device: where the net is. On a GPU the resampling is done there; a value may differ by 1 from the CPU's.

    Returns:
        (n, H, W) of the dtype of ``voxels``, on the device. On the CPU it may share memory with ``voxels``.
    """
    import torch
    from torch.nn import functional

    device = torch.device(device)
    if device.type == "cpu" or not placement.resamples:
        return torch.from_numpy(place_image(voxels, placement, grid.fill)).to(device, non_blocking=True)
    slab = torch.from_numpy(voxels).to(device)
    (y, x), inside = placement.windows()
    values = functional.interpolate(
        slab.float()[None], size=placement.resampled, mode="bilinear", align_corners=False, antialias=True
    )[0]
    placed = torch.full((len(slab), *placement.canvas), grid.fill, dtype=slab.dtype, device=device)
    placed[:, y, x] = (values if slab.dtype.is_floating_point else values.round_()).to(slab.dtype)[:, *inside]
    return placed


def scores_to_labels(
    scores: Tensor, placement: Placement, *, at_once: int = LABELS_AT_ONCE, weighing: Weighing | None = None
) -> Tensor:
    """Scores on the canvas to labels on the case's own in-plane grid.

    The scores are interpolated (bilinear, align_corners=False, the inverse of the way onto the canvas), a few labels
    a time, with a running maximum: the labels are those of interpolating all scores and taking the argmax, the
    memory is that of a few planes a slice. Without resampling it is a crop and the argmax. On a CPU labels that
    can be the largest nowhere in a slice, as are most of many structures, are not interpolated there.

    Thresholds weigh the interpolated scores, each label's plane by itself, so that the maximum still runs.

    Args:
        scores: (n, L, H, W) logits or probabilities.
        placement: a placement that crops nothing.
        at_once: label planes that are interpolated together.
        weighing: what thresholds make of such scores; None: nothing.

    Returns:
        (n, Y, X) channel indices on the device, uint8, or int16 for more than 256 channels; the lowest index wins ties.

    Raises:
        ValueError: the scores are not on the canvas of the placement, or it crops.
    """
    import torch

    inside, (count, channels) = _inside(scores, placement), scores.shape[:2]
    dtype = torch.uint8 if channels <= 256 else torch.int16
    labels = torch.zeros((count, *placement.original), dtype=dtype, device=scores.device)
    # On a CPU the planes of one slice stay in its cache; a GPU wants the whole slab at once.
    on_cpu = scores.device.type == "cpu"
    step = 1 if on_cpu else max(count, 1)
    leaves_out = on_cpu and placement.refines and weighing is None and channels > 2 * at_once
    for start in range(0, count, step):
        some, found = inside[start : start + step], labels[start : start + step]
        chosen = _contenders(some) if leaves_out else None
        _running_maximum(some, found, chosen, at_once, weighing)
    return labels


def scores_to_bits(
    scores: Tensor, placement: Placement, *, at_once: int = LABELS_AT_ONCE, least: Sequence[float | None] = ()
) -> Tensor:
    """Scores of overlapping structures to bit fields on the case's own in-plane grid: bit k where score k is above 0.

    The scores are interpolated as in :func:`scores_to_labels`, a few planes a time, and only then cut.

    Args:
        scores: (n, L, H, W) logits, L up to 32.
        placement: a placement that crops nothing.
        at_once: planes that are interpolated together.
        least: the score from which each structure is there, None: above 0; (): all of them.

    Returns:
        (n, Y, X) on the device, uint8, or int32 for more than 8 structures, whose bits are those of a uint32.

    Raises:
        ValueError: the scores are not on the canvas of the placement, or it crops.
    """
    import torch

    inside, (count, structures) = _inside(scores, placement), scores.shape[:2]
    dtype = torch.uint8 if structures <= 8 else torch.int32
    bits = torch.zeros((count, *placement.original), dtype=dtype, device=scores.device)
    step = 1 if scores.device.type == "cpu" else max(count, 1)
    for first in range(0, count, step):
        fields = bits[first : first + step]
        for number, plane in _planes(inside[first : first + step], placement.original, at_once):
            cut = least[number] if least else None
            fields |= (plane > 0 if cut is None else plane >= cut).to(dtype) << number
    return bits


def scores_to_shares(
    scores: Tensor,
    placement: Placement,
    meaning: Meaning,
    *,
    at_once: int = LABELS_AT_ONCE,
    stored: Literal["uint8", "uint16"] = "uint8",
) -> Tensor:
    """Scores on the canvas to probabilities on the case's own in-plane grid, a byte or two each.

    The scores are interpolated as in :func:`scores_to_labels`, a few planes a time, and then made probabilities; those
    of a softmax twice, first for their sum.

    Args:
        scores: (n, L, H, W).
        placement: a placement that crops nothing.
        meaning: what makes them probabilities.
        at_once: planes that are interpolated together.
        stored: the type of the result.

    Returns:
        (n, L, Y, X) on the device: 255 times the probability, or 65535 times of uint16, rounded; those of a pixel may
        sum up to a little more or less.

    Raises:
        ValueError: the scores are not on the canvas of the placement, or it crops.
    """
    import torch

    inside, size = _inside(scores, placement), placement.original
    dtype, most = (torch.uint8, 255.0) if stored == "uint8" else (torch.uint16, 65535.0)
    shares = torch.empty((*scores.shape[:2], *size), dtype=dtype, device=scores.device)
    step = 1 if scores.device.type == "cpu" else max(len(scores), 1)
    for start in range(0, len(scores), step):
        some, found = inside[start : start + step], shares[start : start + step]
        total = torch.full((len(some), *size), -torch.inf, device=scores.device)
        if meaning == "softmax":
            for _, plane in _planes(some, size, at_once):
                torch.logaddexp(total, plane, out=total)
        for number, plane in _planes(some, size, at_once):
            if meaning == "softmax":
                plane = (plane - total).exp_()
            elif meaning == "sigmoid":
                plane = plane.sigmoid()
            elif meaning == "shifted":
                plane = plane + 0.5
            found[:, number] = plane.float().mul(most).round_().clamp_(0.0, most).to(dtype)
    return shares


def _inside(scores: Tensor, placement: Placement) -> Tensor:
    """The scores (n, L, h, w) of the case itself. Raises ValueError: they are not on the canvas, or it crops."""
    height, width = scores.shape[-2:]
    if (height, width) != placement.canvas or placement.crops:
        raise ValueError(f"scores of {height}x{width} do not fit {placement}")
    (y, x), _ = placement.windows()
    return scores[:, :, y, x]


def _planes(
    scores: Tensor, size: tuple[int, int], at_once: int, chosen: Collection[int] | None = None
) -> Iterator[tuple[int, Tensor]]:
    """The labels of (n, L, h, w) scores and their planes (n, Y, X), float32, interpolated a few at a time.

    Where some are chosen, labels are left out; some of the others come too, or twice.
    """
    from torch.nn import functional

    for some in _groups(scores.shape[1], at_once, chosen):
        run = slice(some[0], some[0] + len(some))
        chunk = (scores[:, run] if some == list(range(run.start, run.stop)) else scores[:, some]).float()
        if chunk.shape[-2:] != size:
            chunk = functional.interpolate(chunk, size=size, mode="bilinear", align_corners=False)
        yield from zip(some, chunk.unbind(1), strict=True)


def _groups(labels: int, at_once: int, chosen: Collection[int] | None) -> Iterator[list[int]]:
    """The labels that are interpolated together: always so many, but for those that are left at the end without choice.

    torch rounds three planes in another way than two or four, and a plane must not depend on what else is chosen.
    """
    full = labels - labels % at_once
    kept = [number for number in range(full) if chosen is None or number in chosen]
    for start in range(0, len(kept), at_once):
        some = kept[start : start + at_once]
        yield some + some[-1:] * (at_once - len(some))
    rest = list(range(full, labels))
    if any(chosen is None or number in chosen for number in rest):
        yield rest


def _contenders(scores: Tensor) -> set[int]:
    """The labels of (1, L, h, w) scores that can be the largest somewhere, interpolated bilinearly to any size.

    What is interpolated lies between the least and the largest of the four pixels around, which lie in the same block
    of pixels or in neighbouring ones. Where the largest of a label in these blocks is below the least of another one,
    it is second. The margin is many times what float32 rounds.
    """
    import torch

    most, least = (_in_blocks(_in_blocks(scores[0], 1, take), 2, take) for take in (torch.amax, torch.amin))
    margin = MARGIN * torch.maximum(most.abs().amax(), least.abs().amax())
    limit = _of_four(least, torch.minimum).amax(0) - margin
    second = (_of_four(most, torch.maximum) < limit).flatten(1).all(1)
    return set((~second).nonzero()[:, 0].tolist())


def _in_blocks(planes: Tensor, axis: int, take: Callable[..., Tensor]) -> Tensor:
    """The largest, or least, of each :data:`BLOCK` neighbours along an axis; the last may be fewer."""
    import torch

    side = planes.shape[axis]
    full = side - side % BLOCK
    pieces = [take(torch.unflatten(planes.narrow(axis, 0, full), axis, (-1, BLOCK)), axis + 1)] if full else []
    if full < side:
        pieces.append(take(planes.narrow(axis, full, side - full), axis, keepdim=True))
    return torch.cat(pieces, axis)


def _of_four(planes: Tensor, choose: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(L, h, w) to (L, h - 1, w - 1), at least 1: one of each pixel, the next one, and the two below them."""
    rows = choose(planes[:, :-1], planes[:, 1:]) if planes.shape[1] > 1 else planes
    return choose(rows[..., :-1], rows[..., 1:]) if planes.shape[2] > 1 else rows


def _running_maximum(
    scores: Tensor, labels: Tensor, chosen: Collection[int] | None, at_once: int, weighing: Weighing | None
) -> None:
    """Put which of the chosen labels has the largest (n, L, h, w) score, weighed, into ``labels`` (n, Y, X) of 0."""
    import torch

    size = (labels.shape[-2], labels.shape[-1])
    best = torch.full(labels.shape, -torch.inf, device=scores.device)
    higher = torch.empty(labels.shape, dtype=torch.bool, device=scores.device)
    for number, plane in _planes(scores, size, at_once, chosen):
        if weighing is not None:
            plane = weighing.plane(number, plane)
        torch.gt(plane, best, out=higher)
        # The index only rises, so the maximum does what a masked assignment would, four times as fast.
        torch.maximum(labels, higher.to(labels.dtype).mul_(number), out=labels)
        torch.maximum(best, plane, out=best)
