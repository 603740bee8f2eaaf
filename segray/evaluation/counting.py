"""One pass over a pair of label volumes that counts all that overlap metrics need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.case import LabelMap, Volume
from segray.errors import CaseError

CHUNK = 1 << 18
"""Voxels counted at once: the keys (uint16) stay in the second-level cache."""

_PACKED_CHANNELS = 256
"""Up to here truth * channels + predicted fits uint16, and the joint table 512 KiB."""


@dataclass(frozen=True)
class Counts:
    """Voxels per channel; channel 0 is background. Arrays are int64 with shape (..., channels).

    Attributes:
        tp: voxels where truth and prediction agree on the channel.
        truth: voxels of the channel in the truth.
        predicted: voxels of the channel in the prediction.
    """

    tp: NDArray[np.int64]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]

    def __add__(self, other: Counts) -> Counts:
        """The counts of two sets of voxels together."""
        return Counts(self.tp + other.tp, self.truth + other.truth, self.predicted + other.predicted)

    def structures(self) -> Counts:
        """The same counts without the background channel."""
        return Counts(self.tp[..., 1:], self.truth[..., 1:], self.predicted[..., 1:])


def count_pair(truth: Volume, predicted: Volume, channels: int) -> Counts:
    """Count agreeing, true and predicted voxels of every channel in one pass.

    The pair is packed into one key a voxel, and runs of equal keys are counted with their lengths: label volumes are
    smooth along a row, so there are far fewer runs than voxels. Where they are not, the keys are counted one by one.
    Works chunk by chunk in memory order, whatever the strides; the volumes are never copied whole.

    Args:
        truth: channel indices 0..channels-1, any integer dtype, any shape.
        predicted: as ``truth``, with the same shape.
        channels: structures and background.

    Raises:
        CaseError: the shapes differ, a dtype is no integer, or an index lies outside 0..channels-1.
    """
    _check_pair(truth, predicted)
    if channels <= _PACKED_CHANNELS:
        return _count_packed(truth, predicted, channels)
    return _count_apart(truth, predicted, channels)


def count_overlapping(truth: Volume, predicted: Volume, structures: int) -> Counts:
    """Count as :func:`count_pair` in bit fields; channel 0 holds the voxels without any structure.

    Args:
        truth: bit fields, bit k for structure k, any unsigned dtype, any shape.
        predicted: as ``truth``, with the same shape.
        structures: bits in use.

    Raises:
        CaseError: the shapes differ, a dtype is no integer, or another bit is set.
    """
    _check_pair(truth, predicted)
    counts = Counts(*(np.zeros(structures + 1, dtype=np.int64) for _ in range(3)))
    key = np.dtype(np.uint16 if structures <= 8 else np.uint32 if structures <= 16 else np.uint64)
    half = key.type(4 * key.itemsize)
    for true, guess in pair_chunks(truth, predicted):
        check_indices(true, 1 << structures, "truth")
        check_indices(guess, 1 << structures, "prediction")
        keys = (true.astype(key) << half) | guess
        ends = run_ends(keys)
        lengths = np.diff(ends, prepend=-1)
        true, guess = keys[ends] >> half, keys[ends] & key.type((1 << int(half)) - 1)
        for total, fields, nothing in (
            (counts.truth, true, true == 0),
            (counts.predicted, guess, guess == 0),
            (counts.tp, true & guess, (true | guess) == 0),
        ):
            total[0] += lengths[nothing].sum()
            total[1:] += sums_of_bits(fields, lengths, structures).astype(np.int64)
    return counts


def count_case(truth: Volume, predicted: Volume, label_map: LabelMap) -> Counts:
    """Count indices, or bit fields where the label map is overlapping. Raises CaseError as :func:`count_pair`."""
    if label_map.overlapping:
        return count_overlapping(truth, predicted, len(label_map.names))
    return count_pair(truth, predicted, label_map.channels)


def sums_of_bits(fields: NDArray[Any], weights: NDArray[Any], structures: int) -> NDArray[np.float64]:
    """(structures,) sums of ``weights`` (n,) over the bit fields (n,) in which a structure's bit is set."""
    found = [weights[(fields >> fields.dtype.type(number) & 1) > 0].sum() for number in range(structures)]
    return np.array(found, dtype=np.float64)


def pair_chunks(first: Volume, second: Volume) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Matching flat pieces of two arrays of one shape, at most ``CHUNK`` long, in the order of their memory."""
    flat = [array.reshape(-1) if array.flags.c_contiguous else None for array in (first, second)]
    if flat[0] is not None and flat[1] is not None:
        for start in range(0, first.size, CHUNK):
            yield flat[0][start : start + CHUNK], flat[1][start : start + CHUNK]
        return
    pieces = np.nditer([first, second], flags=["external_loop", "buffered", "zerosize_ok"], order="K", buffersize=CHUNK)
    with pieces:
        for pair in pieces:
            if pair[0].size:
                yield pair[0], pair[1]


def check_indices(chunk: NDArray[Any], channels: int, which: str) -> None:
    """Raise CaseError where ``chunk`` holds an index outside 0..channels-1; ``which`` names the volume in it."""
    highest = int(chunk.max())
    lowest = int(chunk.min()) if chunk.dtype.kind == "i" else 0
    if lowest < 0 or highest >= channels:
        found = lowest if lowest < 0 else highest
        raise CaseError(
            f"The {which} holds the channel index {found}, outside 0 to {channels - 1}.",
            mend="Both volumes must hold indices of the same label map.",
        )


def run_ends(keys: NDArray[Any]) -> NDArray[np.intp]:
    """The last position of every run of equal values in the flat, non-empty ``keys``."""
    return np.append(np.flatnonzero(keys[1:] != keys[:-1]), keys.size - 1)


def _check_pair(truth: Volume, predicted: Volume) -> None:
    if truth.shape != predicted.shape:
        raise CaseError(
            f"The truth has the shape {truth.shape} and the prediction {predicted.shape} (z, y, x).",
            mend="Both must lie on the grid of the same case.",
        )
    for volume, which in ((truth, "truth"), (predicted, "prediction")):
        if volume.dtype.kind not in "iu":
            raise CaseError(f"The {which} holds {volume.dtype} values, not integers.")


def _count_packed(truth: Volume, predicted: Volume, channels: int) -> Counts:
    joint = np.zeros(channels * channels, dtype=np.int64)
    buffer = np.empty(min(CHUNK, max(truth.size, 1)), dtype=np.uint16)
    for true, guess in pair_chunks(truth, predicted):
        check_indices(true, channels, "truth")
        check_indices(guess, channels, "prediction")
        keys = buffer[: true.size]
        np.multiply(true, channels, out=keys, dtype=np.uint16, casting="unsafe")
        np.add(keys, guess, out=keys, dtype=np.uint16, casting="unsafe")
        joint += _histogram(keys, channels * channels)
    table = joint.reshape(channels, channels)
    return Counts(tp=np.diagonal(table).copy(), truth=table.sum(axis=1), predicted=table.sum(axis=0))


def _count_apart(truth: Volume, predicted: Volume, channels: int) -> Counts:
    counts = Counts(*(np.zeros(channels, dtype=np.int64) for _ in range(3)))
    for true, guess in pair_chunks(truth, predicted):
        check_indices(true, channels, "truth")
        check_indices(guess, channels, "prediction")
        counts.truth[:] += _histogram(true, channels)
        counts.predicted[:] += _histogram(guess, channels)
        agreed = true[true == guess]
        if agreed.size:
            counts.tp[:] += _histogram(agreed, channels)
    return counts


def _histogram(keys: NDArray[Any], bins: int) -> NDArray[np.int64]:
    ends = run_ends(keys)
    if ends.size > keys.size // 2:
        # bincount takes no uint64, and the keys are known to be small
        return np.bincount(keys.astype(np.int64), minlength=bins)
    lengths = np.diff(ends, prepend=-1)
    counted = np.bincount(keys[ends].astype(np.int64), weights=lengths, minlength=bins)
    # the weights are whole numbers below 2**53, so the float64 sums are exact
    return counted.astype(np.int64)
