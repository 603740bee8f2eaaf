"""The values of an image: range, percentiles, a histogram whose bins are the same for all cases, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segray.case import Volume, slabs

STEPS = 16
"""Bins an octave: a bin is at most 1/16 as wide as its values, whatever the unit (HU, MR, 0..1)."""

LOWEST = -10
"""Exponent (base 2) below which values count as 0."""

PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
SAMPLES = 1 << 20
"""Voxels from which the percentiles of float images are taken; those of int16 images are exact."""

Meaning = Literal["HU", "HU + 1024", "0..255", "0..1", "constant", "other"]

AIR = (-1060.0, -940.0)
"""HU between which the air around a patient lies in a calibrated CT."""

DARK = -300.0
"""Values below this are no tissue but lung, air or padding."""

FAR, TOO_WIDE = 10.0, 100.0
"""See :func:`usual_range`."""

SOME = 0.005
"""Share of the voxels from which a peak counts."""


@dataclass(frozen=True)
class Intensity:
    """The values of one channel.

    Attributes:
        low, high: smallest and largest value.
        percentiles: at :data:`PERCENTILES`.
        dark_share: share of values below -300.
        dark_peak: the most frequent value below -300 (the middle of its bin), None without any; padding (the lowest
            value, where it stands apart) left out.
        peak: the most frequent value above the lowest one.
        integer: all values are integers.
        bins: number of a bin (see :func:`bin_edges`) to its count.
    """

    low: float
    high: float
    percentiles: tuple[float, ...]
    dark_share: float
    dark_peak: float | None
    peak: float
    integer: bool
    bins: Mapping[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self) | {"bins": {str(key): value for key, value in self.bins.items()}}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Intensity:
        """The inverse of :meth:`to_dict`."""
        bins = {int(key): int(value) for key, value in table["bins"].items()}
        return cls(**{**table, "bins": bins, "percentiles": tuple(table["percentiles"])})


def bin_of(values: NDArray[Any]) -> NDArray[np.int32]:
    """The bin of each value: 0 around 0, n for the n-th bin above, -n for its mirror image below."""
    mantissa, exponent = np.frexp(np.abs(values.astype(np.float32)))
    step = ((mantissa * 2 - 1) * STEPS).astype(np.int32)
    number = (exponent - 1 - LOWEST) * STEPS + step + 1
    number = np.where((exponent - 1 < LOWEST) | (mantissa == 0), 0, number)
    return np.where(values < 0, -number, number).astype(np.int32)


def bin_edges(number: int) -> tuple[float, float]:
    """The lowest and the highest value of a bin."""
    if number == 0:
        return -(2.0**LOWEST), 2.0**LOWEST
    octave, step = divmod(abs(number) - 1, STEPS)
    size = 2.0 ** (octave + LOWEST)
    edges = size * (1 + step / STEPS), size * (1 + (step + 1) / STEPS)
    return edges if number > 0 else (-edges[1], -edges[0])


def measure_intensity(voxels: Volume) -> Intensity:
    """The values of one channel (z, y, x), int16 or float32."""
    if voxels.dtype.kind in "iu" and voxels.dtype.itemsize <= 2:
        return _of_counts(*_integer_counts(voxels))
    bins: dict[int, int] = {}
    integer = True
    for slab in slabs(voxels):
        piece = voxels[slab]
        numbers, found = np.unique(bin_of(piece), return_counts=True)
        for number, count in zip(numbers.tolist(), found.tolist(), strict=True):
            bins[number] = bins.get(number, 0) + count
        integer = integer and bool((piece == np.rint(piece)).all())
    sample = voxels.reshape(-1)[:: max(1, voxels.size // SAMPLES)]
    cuts = tuple(float(value) for value in np.percentile(sample, PERCENTILES))
    return _described(float(voxels.min()), float(voxels.max()), cuts, bins, integer=integer)


def _integer_counts(voxels: Volume) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The values that occur, and how often."""
    low = int(voxels.min())
    counts = np.zeros(int(voxels.max()) - low + 1, np.int64)
    for slab in slabs(voxels):
        flat = voxels[slab].reshape(-1).astype(np.int64)
        counts += np.bincount(flat - low, minlength=len(counts))
    values = np.flatnonzero(counts)
    return values + low, counts[values]


def _of_counts(values: NDArray[np.int64], counts: NDArray[np.int64]) -> Intensity:
    ends = np.cumsum(counts)
    places = np.searchsorted(ends, np.array(PERCENTILES) / 100 * ends[-1])
    cuts = tuple(float(value) for value in values[np.minimum(places, len(values) - 1)])
    numbers = bin_of(values)
    kinds, where = np.unique(numbers, return_inverse=True)
    sums = np.bincount(where, weights=counts)
    bins = {int(kind): int(count) for kind, count in zip(kinds, sums, strict=True)}
    return _described(float(values[0]), float(values[-1]), cuts, bins, integer=True)


def _described(low: float, high: float, cuts: tuple[float, ...], bins: dict[int, int], *, integer: bool) -> Intensity:
    total = sum(bins.values())
    lowest = int(bin_of(np.array([low]))[0])
    # The bin of the lowest value may be padding outside of the scanner's field of view, which tells nothing.
    all_dark = {number: count for number, count in bins.items() if bin_edges(number)[1] <= DARK}
    share = sum(all_dark.values()) / total
    dark = {number: count for number, count in all_dark.items() if number != lowest or low >= AIR[0]}
    if sum(dark.values()) < SOME * total:
        dark = all_dark
    dark_peak = _middle(dark) if share >= SOME else None
    above = {number: count for number, count in bins.items() if number != lowest} or bins
    return Intensity(low, high, cuts, share, dark_peak, _middle(above), integer, dict(sorted(bins.items())))


def _middle(bins: Mapping[int, int]) -> float:
    """The middle of the bin that is fullest for its width."""
    number = max(bins, key=lambda one: bins[one] / (bin_edges(one)[1] - bin_edges(one)[0]))
    return sum(bin_edges(number)) / 2


def meaning(found: Intensity) -> Meaning:
    """What the values seem to be; ``other`` where they are neither HU nor a picture, as in MR."""
    if found.low == found.high:
        return "constant"
    if found.dark_share >= SOME or (found.low < -50 and -200 <= found.percentiles[3] <= 400):
        return "HU"
    if (found.low >= 0 and found.high <= 1) or (found.low >= -1 and found.high <= 1 and not found.integer):
        return "0..1"
    if found.low >= 0 and found.high <= 255 and found.integer:
        return "0..255"
    if _is_shifted(found):
        return "HU + 1024"
    return "other"


def _is_shifted(found: Intensity) -> bool:
    """CT without its offset: air at 0, tissue near 1024, no negative value."""
    edges = {number: bin_edges(number) for number in found.bins}
    total = sum(found.bins.values())
    air = sum(count for number, count in found.bins.items() if edges[number][1] <= 150)
    tissue = sum(count for number, count in found.bins.items() if edges[number][0] >= 880 and edges[number][1] <= 1152)
    middle = sum(count for number, count in found.bins.items() if edges[number][0] >= 300 and edges[number][1] <= 800)
    return found.low >= 0 and found.high >= 1300 and min(air, tissue) >= 0.1 * total and tissue > middle


def air_is_odd(found: Intensity) -> bool:
    """True for HU whose dark peak lies neither at air nor in the lung."""
    if found.dark_peak is None:
        return False
    # Bins are 64 wide at -1000: the middle of air's bin may lie half of that beside it.
    in_air = AIR[0] - 40 <= found.dark_peak <= AIR[1] + 40
    in_lung = -940 <= found.dark_peak <= -550
    return not (in_air or in_lung)


def merged(found: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """The sum of several histograms."""
    total: dict[int, int] = {}
    for bins in found:
        for number, count in bins.items():
            total[number] = total.get(number, 0) + count
    return dict(sorted(total.items()))


def usual_range(bins: Mapping[int, int]) -> tuple[float, float]:
    """The lowest and the highest value that a drawing of a histogram shows.

    They are its 0.05 and 99.95 percentiles, outwards to the edges of their bins. Some MR cases have values a thousand
    times those of others, and would leave all of these in one column: what is more than :data:`TOO_WIDE` times as wide
    as the middle half of the values ends at :data:`FAR` times that half beside it. The fullest bin (air, the black of
    a picture) has no part in the middle half, since it may hold nearly everything; it is always shown.
    """
    low, high = _between(bins, 0.0005, 0.9995)
    fullest = max(bins, key=lambda number: bins[number])
    first, third = _between({number: count for number, count in bins.items() if number != fullest} or bins, 0.25, 0.75)
    half = third - first
    if high - low <= TOO_WIDE * half:
        return low, high
    least, most = bin_edges(fullest)
    return max(low, min(first - FAR * half, least)), min(high, max(third + FAR * half, most))


def _between(bins: Mapping[int, int], lowest: float, highest: float) -> tuple[float, float]:
    """The outer edges of the bins in which two quantiles lie."""
    numbers = sorted(bins)
    share = np.cumsum([bins[number] for number in numbers]) / sum(bins.values())
    first, last = np.searchsorted(share, (lowest, highest))
    return bin_edges(numbers[first])[0], bin_edges(numbers[min(last, len(numbers) - 1)])[1]


def rebinned(bins: Mapping[int, int], low: float, high: float, count: int) -> NDArray[np.float64]:
    """The histogram on ``count`` equal bins from ``low`` to ``high``; a bin is spread evenly over its width."""
    edges = np.linspace(low, high, count + 1)
    total = np.zeros(count)
    for number, inside in bins.items():
        total += inside * _shares(number, tuple(edges.tolist()))
    return total


@lru_cache(maxsize=4096)
def _shares(number: int, edges: tuple[float, ...]) -> NDArray[np.float64]:
    first, last = bin_edges(number)
    cut = np.clip(np.array(edges), first, last)
    shares: NDArray[np.float64] = np.diff(cut) / (last - first)
    return shares
