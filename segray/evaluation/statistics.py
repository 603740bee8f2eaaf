"""What a mask says of every structure of a case: volume, HU, surface, place, in one pass over its voxels and labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.case import LPS_SIGNS, Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.evaluation.counting import check_indices
from segray.evaluation.extents import Extents, boxes, centres, sides
from segray.evaluation.label_slabs import label_slabs, memory_order, windows
from segray.evaluation.surface import Surfaces
from segray.evaluation.voxel_values import ValueCounts, ValueSummary, summary_by_box

ROW_COLUMNS = (
    "structure",
    "voxels",
    "volume_ml",
    "mean_hu",
    "sd_hu",
    "p05_hu",
    "p50_hu",
    "p95_hu",
    "surface_mm2",
    "centre_left_mm",
    "centre_posterior_mm",
    "centre_superior_mm",
    "box_i_first",
    "box_i_last",
    "box_j_first",
    "box_j_last",
    "box_k_first",
    "box_k_last",
    "border_voxels",
    "border_inferior_voxels",
    "border_superior_voxels",
)
"""The columns of :meth:`StructureStatistics.as_rows` in their order."""

DIGITS = 4
"""Decimals of the numbers in rows."""

AMOUNTS, SIGNIFICANT = ("volume_ml", "surface_mm2"), 6
"""Columns in which small numbers have so many significant digits: a vessel of a mouse is no empty structure."""


@dataclass(frozen=True)
class StructureStatistics:
    """What a mask says of its structures; index 0 is the first structure, background is left out.

    The first three are of every case's row, all of them of the long table (:meth:`as_row`, :meth:`as_rows`).

    Attributes:
        voxels: (structures,) int64.
        volume_ml: (structures,) float64; 0 where the structure is absent.
        mean_hu: (structures,) float64, in the unit of the voxels; NaN where the structure is absent, as all below.
        sd_hu: (structures,) float64, over all voxels of the structure (divided by their number).
        percentiles_hu: (structures, 3) float64: the 5th, 50th and 95th percentile, between two voxels linear.
        surface_mm2: (structures,) float64, by Crofton's formula (:mod:`segray.evaluation.surface`). A structure that
            the border of the volume cuts has a surface there; structures that touch have one each. 0 where absent.
        centre_mm: (structures, 3) float64: the mean of its voxels' centres in patient coordinates, LPS, as in DICOM:
            x grows to the left of the patient, y to the back, z to the head.
        box: (structures, 3, 2) int64: first and last voxel index along (i, j, k), the axes in the order of the file,
            counted from 0, both inside; -1 where absent.
        border_voxels: (structures,) int64: voxels in the first or last plane of any axis. An axis of one plane, as in
            a picture, has no border.
        border_sides: (structures, 3, 2) int64: voxels in the first and the last plane across (z, y, x) in LPS; for z
            that is the slice nearest to the feet and the one nearest to the head. 0 across an axis of one plane.
    """

    voxels: NDArray[np.int64]
    volume_ml: NDArray[np.float64]
    mean_hu: NDArray[np.float64]
    sd_hu: NDArray[np.float64]
    percentiles_hu: NDArray[np.float64]
    surface_mm2: NDArray[np.float64]
    centre_mm: NDArray[np.float64]
    box: NDArray[np.int64]
    border_voxels: NDArray[np.int64]
    border_sides: NDArray[np.int64]

    def as_row(self, label_map: LabelMap) -> dict[str, float]:
        """The columns of ``cases.parquet``: volume_ml_<structure> of all structures, then mean_hu_<structure>.

        A case's row has these two only: twenty columns for each of 117 structures would be a table that nobody reads.
        """
        volumes = {f"volume_ml_{name}": float(v) for name, v in zip(label_map.names, self.volume_ml, strict=True)}
        means = {f"mean_hu_{name}": float(v) for name, v in zip(label_map.names, self.mean_hu, strict=True)}
        return {**volumes, **means}

    def as_rows(self, label_map: LabelMap) -> list[dict[str, Any]]:
        """The long table: a row a structure, absent ones too, in the order of the label map (``ROW_COLUMNS``).

        Numbers have ``DIGITS`` decimals, small volumes and surfaces more (:func:`rounded`). What an absent structure
        has not is None, so that rows can go into JSON.
        """
        columns = (
            label_map.names,
            self.voxels,
            self.volume_ml,
            self.mean_hu,
            self.sd_hu,
            *self.percentiles_hu.T,
            self.surface_mm2,
            *self.centre_mm.T,
            *self.box.reshape(-1, 6).T,
            self.border_voxels,
            *self.border_sides[:, 0].T,
        )
        rows: list[dict[str, Any]] = []
        for values in zip(*columns, strict=True):
            row = dict(zip(ROW_COLUMNS, map(_plain, values), strict=True))
            row |= {name: rounded(float(values[ROW_COLUMNS.index(name)])) for name in AMOUNTS}
            if row["voxels"] == 0:
                row |= {name: None for name in ROW_COLUMNS if name.startswith("box_")}
            rows.append(row)
        return rows


def structure_statistics(
    voxels: Volume, indices: Volume, channels: int, geometry: Geometry, *, overlapping: bool = False
) -> StructureStatistics:
    """Statistics of every structure, exact for integer voxels; see :class:`StructureStatistics`.

    Only the box around all structures is looked at, slab by slab in the order of memory; of bit fields the box around
    each structure. Counts, boxes and centres come from the runs of equal labels, HU from a table of how often every
    structure has every value, surfaces from the neighbourhoods that are not of one structure. Beside the volumes it
    takes some ten MiB, and for the table at most the bytes of int16 voxels. Voxels that are no integers, or of too wide
    a range for the table, are cut out structure by structure, which takes longer.

    Args:
        voxels: (z, y, x), any real dtype; HU for CT.
        indices: (z, y, x) channel indices 0..channels-1, any integer dtype; or bit fields.
        channels: structures and background; of bit fields the structures.
        geometry: the grid of both.
        overlapping: the indices are bit fields.

    Raises:
        CaseError: the shapes differ or are empty, or an index lies outside 0..channels-1.
    """
    _check(voxels, indices, channels, geometry, overlapping=overlapping)
    structures = channels if overlapping else channels - 1
    order = memory_order(indices)
    labels, values = indices.transpose(order), voxels.transpose(order)
    extents, surfaces = Extents(labels.shape, structures), Surfaces(structures)
    counts = ValueCounts.fitting(values, structures)
    for window, bit in windows(labels, structures, overlapping=overlapping):
        for slab in label_slabs(labels, window, bit):
            runs = slab.runs()
            extents.add(runs)
            surfaces.add(slab.mixed_corners())
            if counts is not None:
                counts.add(runs.numbers, runs.lengths, values[slab.window][slab.own > 0])
    profiles = extents.profiles()
    if counts is not None:
        summary = counts.summary()
    else:
        summary = summary_by_box(values, labels, boxes(profiles), overlapping=overlapping)
    surface = surfaces.mm2(geometry.lps_affine[:3, :3][:, order])
    profiles = [profiles[order.index(axis)] for axis in range(3)]
    return _of_parts(profiles, extents.border(), summary, surface, geometry)


def _of_parts(
    profiles: list[NDArray[np.int64]],
    border: NDArray[np.int64],
    summary: ValueSummary,
    surface: NDArray[np.float64],
    geometry: Geometry,
) -> StructureStatistics:
    voxels = profiles[0].sum(axis=1)
    centre = centres(profiles) @ geometry.lps_affine[:3, :3].T + geometry.lps_affine[:3, 3]
    return StructureStatistics(
        voxels=voxels,
        volume_ml=np.asarray(voxels * geometry.voxel_ml, dtype=np.float64),
        mean_hu=summary.mean,
        sd_hu=summary.sd,
        percentiles_hu=summary.percentiles,
        surface_mm2=surface,
        centre_mm=centre * LPS_SIGNS,
        box=_file_boxes(boxes(profiles), geometry),
        border_voxels=border,
        border_sides=sides(profiles),
    )


def _file_boxes(found: NDArray[np.int64], geometry: Geometry) -> NDArray[np.int64]:
    """Boxes along (z, y, x) in LPS as boxes along the axes of the file; absent ones stay -1."""
    first, last = (tuple(found[:, axis, end] for axis in range(3)) for end in (0, 1))
    turned = np.full_like(found, -1)
    for axis, size in enumerate(geometry.shape):
        shape = [size if at == axis else 1 for at in range(3)]
        # The index along this axis of the file, at every voxel of the turned volume; a view of a few numbers.
        index = geometry.to_lps(np.broadcast_to(np.arange(size).reshape(shape), geometry.shape))
        ends = np.stack([index[first], index[last]], axis=1)
        turned[:, axis] = np.sort(ends, axis=1)
    turned[found[:, 0, 0] < 0] = -1
    return turned


def _check(voxels: Volume, indices: Volume, channels: int, geometry: Geometry, *, overlapping: bool) -> None:
    if voxels.shape != indices.shape or indices.shape != geometry.size:
        raise CaseError(
            f"The image has the shape {voxels.shape}, its mask {indices.shape} and its grid {geometry.size} (z, y, x)."
        )
    if indices.dtype.kind not in "iu":
        raise CaseError(f"The mask holds {indices.dtype} values, not integers.")
    if not indices.size:
        raise CaseError(f"The image has no voxels: its shape is {voxels.shape} (z, y, x).")
    check_indices(indices, 1 << channels if overlapping else channels, "mask")


def rounded(amount: float) -> float | None:
    """With ``DIGITS`` decimals, or where it is small with ``SIGNIFICANT`` significant digits; None for NaN."""
    if not math.isfinite(amount):
        return None
    return round(amount, max(DIGITS, SIGNIFICANT - 1 - math.floor(math.log10(abs(amount))))) if amount else 0.0


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, np.integer):
        return int(value)
    return None if math.isnan(value) else round(float(value), DIGITS)
