"""One slice of a case for the contact sheet: the one with the most foreground."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray import formats
from segray.case import LabelMap, Volume
from segray.doctor.examine import first_channel
from segray.errors import SegrayError
from segray.formats.source import CaseSource

SIDE = 256
"""Pixels a side, at most, of a tile."""


@dataclass(frozen=True)
class Tile:
    """A slice with its labels.

    Attributes:
        case_id: whose.
        text: what to say about it, such as the number of the slice.
        picture: (rows, columns) float32.
        labels: (rows, columns) label values, or bit fields.
        spacing: mm of a (row, column).
        names: structure to its label value, or to its bit.
        overlapping: labels are bit fields.
    """

    case_id: str
    text: str
    picture: NDArray[np.float32]
    labels: NDArray[np.uint32]
    spacing: tuple[float, float]
    names: Mapping[str, int]
    overlapping: bool = False

    def inside(self, name: str) -> NDArray[np.bool_]:
        """The pixels of a structure."""
        value = self.names[name]
        return (self.labels & np.uint32(value)) > 0 if self.overlapping else self.labels == value

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "case_id": self.case_id,
            "text": self.text,
            "size": list(self.picture.shape),
            "picture": base64.b64encode(self.picture.astype("<f4").tobytes()).decode("ascii"),
            "labels": base64.b64encode(self.labels.astype("<u4").tobytes()).decode("ascii"),
            "spacing": list(self.spacing),
            "names": dict(self.names),
            "overlapping": self.overlapping,
        }

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Tile:
        """The inverse of :meth:`to_dict`."""
        picture = np.frombuffer(base64.b64decode(table["picture"]), "<f4").reshape(table["size"]).astype(np.float32)
        labels = np.frombuffer(base64.b64decode(table["labels"]), "<u4").reshape(table["size"]).astype(np.uint32)
        dy, dx = table["spacing"]
        names, overlapping = table["names"], table["overlapping"]
        return cls(table["case_id"], table["text"], picture, labels, (dy, dx), names, overlapping)


def make_tile(source: CaseSource, label_map: LabelMap | None, *, overlap: str) -> Tile:
    """The slice of a case with the most foreground (the middle one without labels), thinned to :data:`SIDE` pixels.

    Labels that cannot be read are left out, and the text says so. Raises CaseError where the image cannot be read.
    """
    text = ""
    try:
        case = formats.read_case(source, label_map, overlap=overlap)
    except SegrayError:
        case, text = formats.read_image(source), ", labels not usable"
    voxels = first_channel(case.voxels)
    labels = np.zeros(voxels.shape, np.uint8) if case.labels is None else case.labels
    z = fullest_slice(labels)
    step = max(1, -(-max(voxels.shape[1:]) // SIDE))
    dy, dx = case.geometry.spacing[1:]
    names, overlapping = _names(source, label_map, labels[z], overlapping=overlap == "keep")
    return Tile(
        source.case_id,
        f"slice {z + 1} of {len(voxels)}{text}",
        voxels[z, ::step, ::step].astype(np.float32),
        labels[z, ::step, ::step].astype(np.uint32),
        (dy * step, dx * step),
        names,
        overlapping,
    )


def fullest_slice(labels: Volume) -> int:
    """The slice with the most labelled voxels; the middle one without any."""
    filled = [int(np.count_nonzero(plane)) for plane in labels]
    return int(np.argmax(filled)) if any(filled) else len(labels) // 2


def _names(
    source: CaseSource, label_map: LabelMap | None, plane: Volume, *, overlapping: bool
) -> tuple[dict[str, int], bool]:
    if label_map is None:
        named = {name: number for number, name in enumerate(sorted(source.masks), start=1)}
        return named or {f"label_{value}": int(value) for value in np.unique(plane) if value}, False
    if overlapping:
        return {name: 1 << number for number, name in enumerate(label_map.names)}, True
    return dict(label_map.values), False
