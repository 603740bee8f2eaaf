"""One case read whole: what its image and its labels hold, whether they fit, and what its ingest costs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from segray import formats
from segray.case import Case, Geometry, LabelMap, Volume, slabs
from segray.config import IngestConfig
from segray.doctor.fingerprint import fingerprint
from segray.doctor.intensity import Intensity, meaning, measure_intensity
from segray.doctor.placement import Fit, fit_of, grid_words, thin
from segray.errors import CaseError, SegrayError
from segray.formats.note import Note, kind_of
from segray.formats.readers import reader_of
from segray.formats.source import CaseSource
from segray.grid import Grid, Placement, fill_value
from segray.resample import image_to_grid, labels_to_grid
from segray.shards.codec import encode_slices

SAMPLED_SLICES = 4
"""Slices of a case that are resampled and compressed to learn its size in the shards."""


@dataclass(frozen=True)
class CaseCost:
    """What the ingest of a case costs.

    Attributes:
        shard_bytes: size of its part, from slices that were compressed.
        read_seconds: to read image and labels, measured.
        write_seconds: to bring it to the grid and compress it, from slices that were.
    """

    shard_bytes: int = 0
    read_seconds: float = 0.0
    write_seconds: float = 0.0


@dataclass(frozen=True)
class LabelFacts:
    """What the labels of a case hold.

    Attributes:
        voxels: structure to its voxels; 0 for one that is empty.
        annotated: the structures that have a mask file, or that the user says were looked for; None: all of them.
        outside: label values that the label map does not name, and their voxels.
        overlap: voxels in more than one structure, where overlapping labels are kept.
        cropped: labelled voxels outside of the canvas of the shards.
    """

    voxels: Mapping[str, int] = field(default_factory=dict)
    annotated: tuple[str, ...] | None = None
    outside: Mapping[int, int] = field(default_factory=dict)
    overlap: int = 0
    cropped: int = 0


@dataclass(frozen=True)
class CaseReport:
    """The facts of one case; small, whatever the size of the case.

    Attributes:
        case_id, patient, split, kind, image: of its source; split only where the folder itself gives it.
        problem: why the image cannot be read, empty where it can; then all that follows is empty.
        label_problem: why the labels cannot be used.
        grid_words: how the grid of the labels differs from that of the image, where that is the reason.
        shape, spacing: (z, y, x), voxels and mm.
        orientation: axis codes of the file, such as ``RAS``.
        channels: names of the channels; () for one without a name.
        dtype: of the voxels in memory.
        voxel_ml: volume of a voxel.
        notes: what the readers found odd, each a string or a :class:`segray.formats.note.Note`.
        blank_slices: slices of one value among others that are not.
        intensities: of each channel.
        labels: of a labelled case whose labels could be read.
        fit: how labels and image fit.
        fingerprint: see :mod:`segray.doctor.fingerprint`.
        cost: of its ingest.
    """

    case_id: str
    patient: str
    split: str
    kind: str
    image: str
    problem: str = ""
    label_problem: str = ""
    grid_words: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    orientation: str = ""
    channels: tuple[str, ...] = ()
    dtype: str = ""
    voxel_ml: float = 0.0
    notes: tuple[str, ...] = ()
    blank_slices: int = 0
    intensities: tuple[Intensity, ...] = ()
    labels: LabelFacts | None = None
    fit: Fit | None = None
    fingerprint: str = ""
    cost: CaseCost = CaseCost()

    @property
    def meaning(self) -> str:
        """What the values of the first channel seem to be, empty where the image could not be read."""
        return meaning(self.intensities[0]) if self.intensities else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        table = asdict(self) | {"intensities": [one.to_dict() for one in self.intensities]}
        table["notes"] = [{"sentence": str(note), "kind": kind_of(note)} for note in self.notes]
        if self.fit is not None and self.fit.offset is not None:
            table["fit"]["offset"] = [None if math.isnan(one) else one for one in self.fit.offset]
        if self.labels is not None:
            table["labels"]["outside"] = {str(value): count for value, count in self.labels.outside.items()}
        return table

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> CaseReport:
        """The inverse of :meth:`to_dict`."""
        read = dict(table)
        for name in ("shape", "spacing", "channels"):
            read[name] = tuple(read[name])
        read["notes"] = tuple(Note(**note) for note in read["notes"])
        read["intensities"] = tuple(Intensity.from_dict(one) for one in read["intensities"])
        read["cost"] = CaseCost(**read["cost"])
        if read["labels"] is not None:
            read["labels"] = _label_facts(read["labels"])
        if read["fit"] is not None:
            offset = read["fit"]["offset"]
            read["fit"] = Fit(
                **{**read["fit"], "offset": offset and tuple(math.nan if by is None else by for by in offset)}
            )
        return cls(**read)


def _label_facts(table: Mapping[str, Any]) -> LabelFacts:
    outside = {int(value): count for value, count in table["outside"].items()}
    annotated = table["annotated"]
    return LabelFacts(**{**table, "outside": outside, "annotated": None if annotated is None else tuple(annotated)})


def broken(source: CaseSource, reason: str) -> CaseReport:
    """The report of a case whose image cannot be read."""
    return CaseReport(source.case_id, source.patient, source.split, source.kind, source.image, problem=reason)


def examine(source: CaseSource, label_map: LabelMap | None, grid: Grid | None, config: IngestConfig) -> CaseReport:
    """Read a case and take its facts.

    Args:
        source: its files.
        label_map: the structures; None: they are named after the values in the labels.
        grid: that of the shards, None where the cases do not share one: then there are no costs.
        config: overlap and codec.

    Raises:
        CaseError: the image cannot be read. Labels that cannot are told in the report.
    """
    begin = time.perf_counter()
    case = formats.read_image(source)
    labels, problem, words = _read_labels(source, case.geometry, label_map, config.overlap, case.notes)
    seconds = time.perf_counter() - begin
    intensities = tuple(measure_intensity(channel) for channel in _channels(case.voxels))
    report = CaseReport(
        source.case_id,
        source.patient,
        source.split,
        source.kind,
        source.image,
        label_problem=problem,
        grid_words=words,
        shape=case.geometry.size,
        spacing=case.geometry.spacing,
        orientation=case.geometry.axis_codes,
        channels=case.channels,
        dtype=str(case.voxels.dtype),
        voxel_ml=case.geometry.voxel_ml,
        notes=tuple(case.notes),
        blank_slices=_blank_slices(case.voxels),
        intensities=intensities,
        fingerprint=fingerprint(thin(first_channel(case.voxels))),
    )
    if labels is not None:
        facts = _count_labels(labels, label_map, source, overlapping=config.overlap == "keep")
        fit = fit_of(first_channel(case.voxels), labels, is_hu=report.meaning == "HU")
        report = replace(report, labels=facts, fit=fit)
    return report if grid is None else _with_cost(report, case, labels, grid, config, seconds)


def first_channel(voxels: Volume) -> Volume:
    """(z, y, x) of a volume that may have channels, (z, c, y, x)."""
    return voxels if voxels.ndim == 3 else voxels[:, 0]


def _channels(voxels: Volume) -> list[Volume]:
    return [voxels] if voxels.ndim == 3 else [np.ascontiguousarray(voxels[:, at]) for at in range(voxels.shape[1])]


def _blank_slices(voxels: Volume) -> int:
    blank = sum(int(one.min() == one.max()) for one in voxels)
    return blank if blank < len(voxels) else 0


def _read_labels(
    source: CaseSource, geometry: Geometry, label_map: LabelMap | None, overlap: str, notes: list[str]
) -> tuple[Volume | None, str, str]:
    """The labels, or why there are none to be used and how their grid differs; notes are added to ``notes``."""
    if not source.has_labels:
        return None, "", ""
    try:
        labels, more = reader_of(source.label_kind).read_labels(source, geometry, label_map, overlap)
    except SegrayError as error:
        return None, str(error), _grid_difference(source, geometry)
    except MemoryError:
        return None, "The labels do not fit into memory.", ""
    notes.extend(note for note in more if note not in notes)
    if overlap != "keep":
        for value in source.dropped:
            labels[labels == value] = 0
    return labels, "", ""


def _grid_difference(source: CaseSource, geometry: Geometry) -> str:
    """In words, for the first label file with another grid than the image; empty where that is not the reason."""
    paths = [source.labels] if source.labels is not None else [source.masks[name] for name in sorted(source.masks)]
    for path in paths:
        try:
            alone = CaseSource(source.case_id, path, kind=source.label_kind)
            words = grid_words(geometry, reader_of(source.label_kind).read_header(alone).geometry)
        except (SegrayError, AttributeError, ValueError, np.linalg.LinAlgError):
            continue
        if words:
            return words
    return ""


def _count_labels(labels: Volume, label_map: LabelMap | None, source: CaseSource, *, overlapping: bool) -> LabelFacts:
    annotated = tuple(sorted(source.masks)) if source.masks else None
    if overlapping and label_map is not None:
        voxels, several = _count_bits(labels, label_map)
        return LabelFacts(voxels, annotated, overlap=several)
    counts = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    for slab in slabs(labels):
        counts += np.bincount(labels[slab].reshape(-1), minlength=len(counts))
    found = {int(value): int(counts[value]) for value in np.flatnonzero(counts) if value}
    if label_map is None:
        names = {name: number for number, name in enumerate(sorted(source.masks), start=1)}
        known = names or {f"label_{value}": value for value in found}
    else:
        known = dict(label_map.values)
    named = {*known.values(), label_map.ignored if label_map is not None else 0}
    outside = {value: count for value, count in found.items() if value not in named}
    return LabelFacts({name: found.get(value, 0) for name, value in known.items()}, annotated, outside)


def _count_bits(labels: Volume, label_map: LabelMap) -> tuple[dict[str, int], int]:
    """Voxels of each structure of a bit field, and those in more than one."""
    voxels = dict.fromkeys(label_map.names, 0)
    several = 0
    for slab in slabs(labels):
        piece = labels[slab]
        for number, name in enumerate(label_map.names):
            voxels[name] += int(np.count_nonzero(piece & piece.dtype.type(1 << number)))
        several += int(np.count_nonzero(np.bitwise_count(piece) > 1))
    return voxels, several


def _with_cost(
    report: CaseReport, case: Case, labels: Volume | None, grid: Grid, config: IngestConfig, read_seconds: float
) -> CaseReport:
    """Bring some slices to the grid and compress them; raises nothing: a grid that does not fit is a label problem."""
    depth = len(case.voxels)
    chosen = np.unique(np.linspace(0, depth - 1, min(SAMPLED_SLICES, depth) + 2).round().astype(int)[1:-1])
    begin = time.perf_counter()
    try:
        size, placement = _sample(case, labels, chosen, grid, config)
    except CaseError as error:
        return replace(report, label_problem=report.label_problem or str(error))
    share = depth / len(chosen)
    cost = CaseCost(int(size * share), read_seconds, (time.perf_counter() - begin) * share)
    facts = report.labels
    if facts is not None and labels is not None and placement.crops:
        facts = replace(facts, cropped=_cropped(labels, placement))
    return replace(report, cost=cost, labels=facts)


def _sample(case: Case, labels: Volume | None, chosen: Any, grid: Grid, config: IngestConfig) -> tuple[int, Placement]:
    """Compressed bytes of the chosen slices on the grid, and the placement of the case."""
    size = 0
    for channel in _channels(case.voxels[chosen]):
        filled = replace(grid, fill=fill_value(channel))
        images, placement = image_to_grid(channel, case.geometry.spacing, filled)
        size += sum(len(one) for one in encode_slices(np.ascontiguousarray(images), config.codec, config.level))
    if labels is not None:
        placed = labels_to_grid(labels[chosen], placement, filled, overlapping=config.overlap == "keep")
        size += sum(len(one) for one in encode_slices(np.ascontiguousarray(placed), "zstd", config.level))
    return size, placement


def _cropped(labels: Volume, placement: Placement) -> int:
    """Labelled voxels that lie outside of the canvas."""
    _, (rows, columns) = placement.windows()
    v, u = (
        slice(round(one.start * old / new), round(one.stop * old / new))
        for one, old, new in zip((rows, columns), placement.original, placement.resampled, strict=True)
    )
    return int(np.count_nonzero(labels)) - int(np.count_nonzero(labels[:, v, u]))
