"""The words all rooms share: Case (voxels, geometry, labels), Geometry and LabelMap."""

from __future__ import annotations

import base64
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes, io_orientation
from numpy.typing import NDArray

from segray.errors import CaseError, UsageError

Volume = NDArray[Any]
"""A (z, y, x) array, oriented LPS."""

_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@-]{0,127}")

MOST_OVERLAPPING = 32
"""Structures that fit into the bits of a voxel's label."""

LPS_SIGNS = (-1.0, -1.0, 1.0)
"""RAS to LPS: the first two world axes change sign."""


def check_case_id(case_id: str) -> str:
    """Return ``case_id`` if it is safe as a file name, else raise CaseError."""
    if not _CASE_ID.fullmatch(case_id) or ".." in case_id:
        shown = case_id if len(case_id) <= 60 else case_id[:57] + "..."
        raise CaseError(
            f"The case id {shown!r} cannot be a file name.",
            mend="Use up to 128 letters, digits, '.', '_' and '-', starting with a letter or digit.",
        )
    return case_id


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a file lie, enough to write a mask back on the same grid.

    Attributes:
        affine: (4, 4) float64, voxel indices (i, j, k) in the order of the file to RAS millimetres.
        shape: the three spatial sizes (i, j, k) in the order of the file.
        stored_shape: the shape as the file says it, with trailing axes of size 1 kept.
        header: the raw NIfTI header, or None where the case comes from another format.
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    stored_shape: tuple[int, ...] = ()
    header: bytes | None = None

    @cached_property
    def _orientation(self) -> NDArray[np.float64]:
        """(3, 2) per file axis: the RAS axis it runs along, and +1 or -1."""
        matrix = self.affine[:3, :3]
        axes, along = np.nonzero(matrix.T)
        if axes.tolist() == [0, 1, 2] and sorted(along.tolist()) == [0, 1, 2]:
            # Most grids run along the axes of the world: nibabel's decomposition takes longer than the header's rest.
            return np.column_stack([along, np.sign(matrix[along, axes])]).astype(np.float64)
        return np.asarray(io_orientation(self.affine), dtype=np.float64)

    @property
    def axis_codes(self) -> str:
        """The axis codes of the file, such as ``RAS`` or ``LPS``."""
        return "".join(aff2axcodes(self.affine))

    @cached_property
    def _order(self) -> tuple[int, int, int]:
        """The file axes that run along z, y and x."""
        along = [int(axis) for axis in self._orientation[:, 0]]
        return along.index(2), along.index(1), along.index(0)

    @property
    def _flips(self) -> tuple[slice, slice, slice]:
        """For (z, y, x): the slices that turn the file's direction into LPS, and back."""
        signs = [
            self._orientation[axis, 1] * LPS_SIGNS[world] for axis, world in zip(self._order, (2, 1, 0), strict=True)
        ]
        z, y, x = (slice(None, None, 1 if sign > 0 else -1) for sign in signs)
        return z, y, x

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing in mm as (z, y, x): the lengths of the affine's columns."""
        lengths = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        z, y, x = (float(lengths[axis]) for axis in self._order)
        return z, y, x

    @property
    def size(self) -> tuple[int, int, int]:
        """The shape as (z, y, x) after the turn to LPS."""
        z, y, x = (self.shape[axis] for axis in self._order)
        return z, y, x

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel in ml: the determinant, right for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def lps_affine(self) -> NDArray[np.float64]:
        """(4, 4) from indices (z, y, x) of the turned volume to RAS millimetres."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1.0
        matrix[:3, 3] = self.affine[:3, 3]
        for out_axis, (axis, flip) in enumerate(zip(self._order, self._flips, strict=True)):
            column = self.affine[:3, axis]
            matrix[:3, out_axis] = column * flip.step
            if flip.step < 0:
                matrix[:3, 3] += column * (self.shape[axis] - 1)
        return matrix

    def to_json(self) -> str:
        """All fields as text; floats keep every bit."""
        header = None if self.header is None else base64.b64encode(self.header).decode("ascii")
        fields = {
            "affine": self.affine.tolist(),
            "shape": self.shape,
            "stored_shape": self.stored_shape,
            "header": header,
        }
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> Geometry:
        """The inverse of :meth:`to_json`."""
        fields = json.loads(text)
        i, j, k = fields["shape"]
        header = None if fields["header"] is None else base64.b64decode(fields["header"])
        return cls(np.array(fields["affine"], dtype=np.float64), (i, j, k), tuple(fields["stored_shape"]), header)

    def to_lps(self, stored: Volume) -> Volume:
        """View a (i, j, k) array of the file as (z, y, x) in LPS; no copy."""
        return np.transpose(stored.reshape(self.shape, order="F"), self._order)[self._flips]

    def from_lps(self, volume: Volume) -> Volume:
        """View a (z, y, x) volume as the file's (i, j, k, ...) array; the inverse of :meth:`to_lps`."""
        back = np.argsort(self._order)
        stored = np.transpose(volume[self._flips], back)
        return stored.reshape(self.stored_shape or self.shape, order="F")


@dataclass(frozen=True)
class LabelMap:
    """Structure names and their label values; 0 is background.

    Where structures overlap, label volumes are bit fields: bit k is set in the voxels of structure k of ``names``.

    Attributes:
        values: name to label value, without background, values unique and at least 1.
        overlapping: a voxel may belong to several structures; at most :data:`MOST_OVERLAPPING` of them.
        ignored: the label value of voxels that nobody judged, which neither teach nor measure; 0: there is none.
    """

    values: Mapping[str, int]
    overlapping: bool = False
    ignored: int = 0

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("The label map is empty.", mend="Name at least one structure, such as {liver: 1}.")
        found = list(self.values.values())
        if len(set(found)) != len(found):
            raise UsageError(f"The label map gives one value to two structures: {dict(self.values)}.")
        if min(found) < 1 or max(found) > 65535:
            raise UsageError("Label values lie between 1 and 65535; 0 is background.")
        if self.ignored in found or not 0 <= self.ignored <= 65535:
            raise UsageError(
                f"The value {self.ignored} of ignored voxels is that of a structure, or lies outside of 1 to 65535."
            )
        if self.overlapping and self.ignored:
            raise UsageError(
                "Where structures overlap, no voxel can be ignored.",
                mend="Set ingest.ignore=0, or ingest.overlap=smallest.",
            )
        if self.overlapping and len(found) > MOST_OVERLAPPING:
            raise UsageError(
                f"{len(found)} structures are too many to overlap: segray keeps at most {MOST_OVERLAPPING}.",
                mend="Choose some of them by ingest.structures, or set ingest.overlap=smallest.",
            )
        object.__setattr__(self, "values", dict(sorted(self.values.items(), key=lambda item: item[1])))

    @classmethod
    def of_names(cls, names: Iterable[str]) -> LabelMap:
        """Number the names from 1 in their given order."""
        return cls({name: index for index, name in enumerate(names, start=1)})

    @property
    def names(self) -> tuple[str, ...]:
        """Structure names in the order of their values, without background."""
        return tuple(self.values)

    def number(self, name: str, setting: str) -> int:
        """The place of a structure in :attr:`names`, from 1: its channel index, of overlapping labels its bit plus 1.

        Raises UsageError, with the nearest known name, where ``setting`` names no structure.
        """
        if name in self.values:
            return self.names.index(name) + 1
        near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.5)
        known = f"{', '.join(self.names[:8])}{', ...' if len(self.names) > 8 else ''}"
        raise UsageError(
            f"{setting} names {name}, which is no structure of the labels.",
            mend=f"Did you mean {near[0]}?" if near else f"Known are {known}.",
        )

    @property
    def channels(self) -> int:
        """Outputs of a net: structures and background, or structures alone where they overlap."""
        return len(self.values) + (not self.overlapping)

    @property
    def ignored_index(self) -> int | None:
        """What ignored voxels are in channel indices: one more than the last structure; None where there are none."""
        return len(self.values) + 1 if self.ignored else None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned type that holds all values; for overlapping labels a bit for every structure."""
        highest = (1 << len(self.values)) - 1 if self.overlapping else max(self.values.values())
        return np.dtype(np.min_scalar_type(highest))

    @cached_property
    def _value_of_index(self) -> NDArray[Any]:
        return np.array([0, *self.values.values()], dtype=np.min_scalar_type(max(self.values.values())))

    @property
    def is_contiguous(self) -> bool:
        """True where the values are 1, 2, 3, ... so that values and channel indices are the same."""
        return bool((self._value_of_index == np.arange(len(self._value_of_index))).all())

    def to_index(self, labels: Volume) -> Volume:
        """Label values to channel indices 0..n; bit fields of overlapping labels stay what they are.

        Ignored voxels become :attr:`ignored_index`. Raises CaseError on a value, or a bit, that the map does not name.
        """
        if self.overlapping:
            return self._checked_bits(labels)
        count = self.channels + (self.ignored > 0)
        indices = np.arange(count, dtype=np.uint8 if count <= 256 else np.uint16)
        same = self.is_contiguous and self.ignored in (0, self.channels)
        return self._looked_up(labels, indices, same=same)

    def to_value(self, indices: Volume) -> Volume:
        """Channel indices to label values, as uint8 or uint16; bit fields of overlapping labels stay what they are."""
        if self.overlapping or self.is_contiguous:
            return indices.astype(self.dtype, copy=False)
        return self._value_of_index[indices]

    def from_map(self, other: LabelMap, indices: Volume) -> Volume:
        """Channel indices (or bit fields) of another map in those of this one, by the names of the structures.

        What this map does not name, and what is ignored there, becomes background. Both maps overlap, or neither does.
        """
        if other.names == self.names and not other.ignored:
            return indices
        places = {number: self.names.index(name) for number, name in enumerate(other.names) if name in self.values}
        if not self.overlapping:
            table = np.zeros(len(other.names) + 2, dtype=np.uint8 if self.channels <= 256 else np.uint16)
            for number, place in places.items():
                table[number + 1] = place + 1
            return table[indices]
        bits = np.zeros(indices.shape, dtype=self.dtype)
        for number, place in places.items():
            bits |= ((indices >> number) & 1).astype(self.dtype) << place
        return bits

    def to_bits(self, labels: Volume) -> Volume:
        """Label values, which exclude each other, to the bit fields of an overlapping map of the same names.

        Raises CaseError on a value that the map does not name.
        """
        bits = [0, *(1 << number for number in range(len(self.values))), *([0] if self.ignored else [])]
        return self._looked_up(labels, np.array(bits, dtype=np.min_scalar_type(bits[-1])), same=False)

    def _looked_up(self, labels: Volume, found: NDArray[Any], *, same: bool) -> Volume:
        """``found[index]`` for every label value, ignored ones last; ``same``: known values are their own indices."""
        highest = int(labels.max(initial=0))
        if same and highest < len(found):
            return labels.astype(found.dtype, copy=False)
        size = max(highest, int(self._value_of_index[-1]), self.ignored) + 1
        lookup, known = np.zeros(size, found.dtype), np.zeros(size, np.bool_)
        places = np.array([0, *self.values.values(), *([self.ignored] if self.ignored else [])])
        lookup[places], known[places] = found, True
        unknown = [int(value) for value in np.unique(labels) if not known[value]]
        if unknown:
            raise unnamed_values(unknown)
        return lookup[labels]

    def _checked_bits(self, labels: Volume) -> Volume:
        highest = int(labels.max(initial=0))
        if highest >> len(self.values):
            raise CaseError(
                f"The labels hold structure number {highest.bit_length()}, and the label map names {len(self.values)}.",
                mend="Are they of another label map?",
            )
        return labels.astype(self.dtype, copy=False)

    def to_json(self) -> str:
        """The text of ``label_map.json``: ``{"background": 0, "liver": 1, ...}``.

        Overlapping labels: ``{"overlapping": true, "labels": {"liver": 1, ...}}``; ignored voxels: ``{"ignored": 255,
        "labels": {"liver": 1, ...}}``.
        """
        if self.overlapping:
            return json.dumps({"overlapping": True, "labels": dict(self.values)}, indent=1)
        if self.ignored:
            return json.dumps({"ignored": self.ignored, "labels": dict(self.values)}, indent=1)
        return json.dumps({"background": 0, **self.values}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LabelMap:
        """Read ``label_map.json``. Raises UsageError where it is no name-to-integer table."""
        try:
            table = json.loads(text)
            nested = isinstance(table.get("labels"), dict)
            pairs = table["labels"] if nested else table
            values = {str(name): int(value) for name, value in pairs.items() if int(value) != 0}
            ignored = int(table.get("ignored", 0)) if nested else 0
        except (ValueError, AttributeError, TypeError) as error:
            raise UsageError(f"label_map.json is not a table of names and integers ({error}).") from error
        return cls(values, overlapping=nested and table.get("overlapping") is True, ignored=ignored)


def unnamed_values(values: Sequence[int]) -> CaseError:
    """The error of labels with values that the label map does not name."""
    return CaseError(
        f"The labels hold the values {list(values[:8])}, which the label map does not name.",
        mend="Add them to ingest.labels, or mend the label file.",
    )


@dataclass
class Case:
    """One scan with its labels.

    Attributes:
        case_id: a name that is safe as a file name.
        voxels: (z, y, x), or (z, c, y, x) with several channels (modalities, colours), LPS; int16 where all values
            are integers in range (HU), else float32.
        geometry: the grid of the file.
        labels: (z, y, x) label values (uint8 or uint16), bit fields where labels overlap, or None for a lone image.
        notes: what the reader repaired or found odd, one sentence each.
        channels: their names; () for one channel without a name.
    """

    case_id: str
    voxels: Volume
    geometry: Geometry
    labels: Volume | None = None
    notes: list[str] = field(default_factory=list)
    channels: tuple[str, ...] = ()


def channel_volumes(voxels: Volume) -> list[Volume]:
    """The channels of (z, y, x) or (z, c, y, x) voxels as (z, y, x) views, in their order."""
    return [voxels] if voxels.ndim == 3 else [voxels[:, channel] for channel in range(voxels.shape[1])]


SLAB_VOXELS = 1 << 16
"""Voxels of a slab whose float64 copy stays in the cache."""


def slabs(volume: Volume) -> list[slice]:
    """(z, y, x) cut into runs of slices of about :data:`SLAB_VOXELS`, at least one slice each."""
    step = max(1, SLAB_VOXELS // max(int(np.prod(volume.shape[1:])), 1))
    return [slice(start, start + step) for start in range(0, len(volume), step)]


def voxel_statistics(voxels: Volume) -> tuple[float, float]:
    """Mean and sd over all voxels of a case, before any resampling, summed in float64 slab by slab."""
    count = max(voxels.size, 1)
    total = square = 0.0
    for slab in slabs(voxels):
        wide = voxels[slab].astype(np.float64).reshape(-1)
        total += float(wide.sum())
        square += float(np.dot(wide, wide))
    mean = total / count
    return mean, float(np.sqrt(max(square / count - mean * mean, 0.0)))
