"""The manifest of a shard folder: label map, grid, intensity statistics, parts with their split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray import privacy, storage
from segray.case import LabelMap, Volume, slabs
from segray.errors import UsageError
from segray.grid import Grid
from segray.shards.schema import SCHEMA_VERSION

MANIFEST = "manifest.json"
INDEX = "index.parquet"
SAMPLES_A_CASE = 2_000

Split = str
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class CaseIntensity:
    """Foreground voxels of one case: exact moments, and a sample for percentiles.

    Attributes:
        count: foreground voxels (all voxels where a case has no foreground).
        total: their sum, in the unit of the voxels (HU).
        square: the sum of their squares.
        low: the smallest.
        high: the largest.
        samples: (n,) float32, drawn with a seed.
    """

    count: int
    total: float
    square: float
    low: float
    high: float
    samples: NDArray[np.float32]


def case_intensity(voxels: Volume, indices: Volume, seed: int) -> CaseIntensity:
    """The statistics of the voxels with a label (z, y, x), as nnU-Net's fingerprint takes them.

    Slab by slab: the float64 copy that exact sums need is never larger than a slab.
    """
    cuts = slabs(voxels)
    counts = [int(np.count_nonzero(indices[slab])) for slab in cuts]
    everywhere = not any(counts)
    if everywhere:
        counts = [voxels[slab].size for slab in cuts]
    ends = np.cumsum(counts)
    count = int(ends[-1])
    draw = np.sort(np.random.default_rng(seed).integers(0, count, size=min(SAMPLES_A_CASE, count)))
    drawn = [0, *np.searchsorted(draw, ends).tolist()]
    total = square = 0.0
    low, high = np.inf, -np.inf
    samples = np.empty(draw.size, dtype=np.float32)
    for number in np.flatnonzero(counts):
        slab = voxels[cuts[number]]
        values = slab.reshape(-1) if everywhere else slab[indices[cuts[number]] > 0]
        wide = values.astype(np.float64)
        total += float(wide.sum())
        square += float(np.dot(wide, wide))
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        mine = slice(drawn[number], drawn[number + 1])
        samples[mine] = values[draw[mine] - (ends[number] - counts[number])]
    return CaseIntensity(count, total, square, low, high, samples)


@dataclass(frozen=True)
class IntensityStats:
    """Foreground voxels of the training cases, in the unit of the voxels (HU)."""

    count: int = 0
    mean: float = 0.0
    sd: float = 1.0
    low: float = 0.0
    high: float = 1.0
    p005: float = 0.0
    median: float = 0.5
    p995: float = 1.0


def pool_intensity(cases: Iterable[CaseIntensity]) -> IntensityStats:
    """Moments exactly, percentiles 0.5, 50 and 99.5 from the pooled samples (each case counts alike, as in nnU-Net)."""
    found = [case for case in cases if case.count]
    if not found:
        return IntensityStats()
    count = sum(case.count for case in found)
    mean = sum(case.total for case in found) / count
    variance = max(sum(case.square for case in found) / count - mean * mean, 0.0)
    p005, median, p995 = (float(v) for v in np.percentile(np.concatenate([c.samples for c in found]), (0.5, 50, 99.5)))
    low, high = min(case.low for case in found), max(case.high for case in found)
    return IntensityStats(count, mean, float(np.sqrt(variance)), low, high, p005, median, p995)


@dataclass(frozen=True)
class PartEntry:
    """One part: one case.

    Attributes:
        case_id: the case.
        patient: whose scan it is; a split never cuts a patient.
        split: train, validation or test.
        file: the name of the part in the folder.
        bytes: its size; a part of another size is not read.
        slices: its rows.
        fingerprint: of the source files.
        recipe: hash of how they were turned into slices.
        notes: what the reader repaired or found odd.
        left_out: compressed bytes of the pixels, where they are made from the case's files each time; 0: the part
            holds them.
        memory: bytes that making them takes.
        missing: structures that the case had no mask file of: nobody knows where they are, or they are not there.
        unannotated: structures that nobody looked for in the case, as the user told.
        content: a checksum of its rows; "": the part is of a segray that told none.
    """

    case_id: str
    patient: str
    split: Split
    file: str
    bytes: int
    slices: int
    fingerprint: str
    recipe: str
    notes: list[str] = field(default_factory=list)
    left_out: int = 0
    memory: int = 0
    missing: list[str] = field(default_factory=list)
    content: str = ""
    unannotated: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Manifest:
    """What a shard folder holds.

    Attributes:
        label_map: the structures.
        grid: of all slices.
        intensity: of the foreground of the training cases, one a channel of the images.
        parts: the cases.
        recipe: how cases became slices.
        channels: names of the channels; () for one channel without a name.
    """

    label_map: LabelMap
    grid: Grid
    intensity: Sequence[IntensityStats]
    parts: Sequence[PartEntry]
    recipe: dict[str, Any] = field(default_factory=dict)
    channels: Sequence[str] = ()

    @property
    def in_channels(self) -> int:
        """Channels of a slice."""
        return max(len(self.channels), 1)

    @property
    def slices(self) -> int:
        """Rows of all parts."""
        return sum(part.slices for part in self.parts)

    @property
    def bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.bytes for part in self.parts)

    def cases(self, split: Split) -> list[str]:
        """Case ids of a split, in the order of the parts."""
        return [part.case_id for part in self.parts if part.split == split]

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        table = {
            "schema_version": SCHEMA_VERSION,
            "label_map": {"background": 0, **self.label_map.values},
            "overlapping": self.label_map.overlapping,
            "ignored": self.label_map.ignored,
            "grid": self.grid.to_dict(),
            "channels": list(self.channels),
            "intensity": [asdict(channel) for channel in self.intensity],
            "counts": {split: len(self.cases(split)) for split in SPLITS} | {"slices": self.slices},
            "recipe": self.recipe,
            "parts": [asdict(part) for part in self.parts],
        }
        return json.dumps(table, indent=1)


def load_manifest(folder: str) -> Manifest:
    """Read ``manifest.json``. Raises UsageError where there is none, it is damaged, or a newer segray wrote it."""
    path = storage.join(folder, MANIFEST)
    if not storage.exists(path):
        raise UsageError(f"{folder} holds no shards.", mend="Write them by `segray ingest SRC DST`.")
    try:
        table = json.loads(storage.read_text(path))
        version = int(table["schema_version"])
        if version != SCHEMA_VERSION:
            raise UsageError(
                f"The shards in {folder} have schema version {version}, this segray reads {SCHEMA_VERSION}.",
                mend="Run segray ingest again.",
            )
        parts = [PartEntry(**part) for part in table["parts"]]
        privacy.know((part.case_id for part in parts), "case")
        privacy.know((part.patient for part in parts), "patient")
        return Manifest(
            replace(
                LabelMap.from_json(json.dumps(table["label_map"])),
                overlapping=bool(table.get("overlapping")),
                ignored=int(table.get("ignored", 0)),
            ),
            Grid.from_dict(table["grid"]),
            [IntensityStats(**channel) for channel in table["intensity"]],
            parts,
            table["recipe"],
            [str(name) for name in table["channels"]],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({error}).", mend="Run segray ingest again.") from error
