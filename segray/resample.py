"""The pixels of a case onto the grid, as ingest and predict need them, and a net's scores back to labels.

torch is imported only by what runs beside a net, so that ingest workers start without it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

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


def scores_to_labels(scores: Tensor, placement: Placement, *, at_once: int = LABELS_AT_ONCE) -> Tensor:
    """Scores on the canvas to labels on the case's own in-plane grid.

    The scores are interpolated (bilinear, align_corners=False, the inverse of the way onto the canvas), a few labels
    a time, with a running maximum: the labels are those of interpolating all scores and taking the argmax, the
    memory is that of a few planes a slice. Without resampling it is a crop and the argmax.

    Args:
        scores: (n, L, H, W) logits or probabilities.
        placement: a placement that crops nothing.
        at_once: label planes that are interpolated together.

    Returns:
        (n, Y, X) channel indices on the device, uint8, or int16 for more than 256 channels; the lowest index wins ties.

    Raises:
        ValueError: the scores are not on the canvas of the placement, or it crops.
    """
    import torch

    count, channels, height, width = scores.shape
    if (height, width) != placement.canvas or placement.crops:
        raise ValueError(f"scores of {height}x{width} do not fit {placement}")
    (y, x), _ = placement.windows()
    inside = scores[:, :, y, x]
    dtype = torch.uint8 if channels <= 256 else torch.int16
    labels = torch.zeros((count, *placement.original), dtype=dtype, device=scores.device)
    # On a CPU the planes of one slice stay in its cache; a GPU wants the whole slab at once.
    step = 1 if scores.device.type == "cpu" else max(count, 1)
    for start in range(0, count, step):
        _running_maximum(inside[start : start + step], labels[start : start + step], at_once)
    return labels


def scores_to_bits(scores: Tensor, placement: Placement, *, at_once: int = LABELS_AT_ONCE) -> Tensor:
    """Scores of overlapping structures to bit fields on the case's own in-plane grid: bit k where score k is above 0.

    The scores are interpolated as in :func:`scores_to_labels`, a few planes a time, and only then cut at 0.

    Args:
        scores: (n, L, H, W) logits, L up to 32.
        placement: a placement that crops nothing.
        at_once: planes that are interpolated together.

    Returns:
        (n, Y, X) on the device, uint8, or int32 for more than 8 structures, whose bits are those of a uint32.

    Raises:
        ValueError: the scores are not on the canvas of the placement, or it crops.
    """
    import torch
    from torch.nn import functional

    count, structures, height, width = scores.shape
    if (height, width) != placement.canvas or placement.crops:
        raise ValueError(f"scores of {height}x{width} do not fit {placement}")
    (y, x), _ = placement.windows()
    inside = scores[:, :, y, x]
    dtype = torch.uint8 if structures <= 8 else torch.int32
    bits = torch.zeros((count, *placement.original), dtype=dtype, device=scores.device)
    step = 1 if scores.device.type == "cpu" else max(count, 1)
    for first in range(0, count, step):
        fields = bits[first : first + step]
        for start in range(0, structures, at_once):
            chunk = inside[first : first + step, start : start + at_once].float()
            if placement.resamples:
                chunk = functional.interpolate(chunk, size=placement.original, mode="bilinear", align_corners=False)
            for number, plane in enumerate(chunk.unbind(1), start=start):
                fields |= (plane > 0).to(dtype) << number
    return bits


def _running_maximum(scores: Tensor, labels: Tensor, at_once: int) -> None:
    """Put the index of the largest of (n, L, h, w) scores into ``labels`` (n, Y, X), which are 0."""
    import torch
    from torch.nn import functional

    size = (labels.shape[-2], labels.shape[-1])
    best = torch.full(labels.shape, -torch.inf, device=scores.device)
    higher = torch.empty(labels.shape, dtype=torch.bool, device=scores.device)
    for start in range(0, scores.shape[1], at_once):
        chunk = scores[:, start : start + at_once].float()
        if chunk.shape[-2:] != size:
            chunk = functional.interpolate(chunk, size=size, mode="bilinear", align_corners=False)
        for number, plane in enumerate(chunk.unbind(1), start=start):
            torch.gt(plane, best, out=higher)
            # The index only rises, so the maximum does what a masked assignment would, four times as fast.
            torch.maximum(labels, higher.to(labels.dtype).mul_(number), out=labels)
            torch.maximum(best, plane, out=best)
