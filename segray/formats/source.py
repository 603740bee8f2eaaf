"""What a folder of cases holds, before any voxel is read: plain data that travels between processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from segray.case import Geometry, LabelMap
from segray.errors import SegrayError
from segray.formats.detached import detached
from segray.formats.folder import file_state

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What people call a split to what segray calls it."""

DETAILS_OF_LABELS = ("structures", "mask_colours", "coco_image")
"""Those keys of :attr:`CaseSource.details` that only readers of labels look at."""


@dataclass(frozen=True)
class CaseSource:
    """The files of one case.

    Attributes:
        case_id: safe as a file name.
        image: path or URI of the scan; of a DICOM series its folder.
        masks: structure to the path of its binary mask (TotalSegmentator layout), else {}.
        labels: path of a label volume (pairs), else None.
        patient: the case id unless known.
        dropped: values of the label volume that count as background, because their structures are not kept.
        kind: which reader takes the image, a key of :data:`segray.formats.readers.READERS`.
        label_kind: which reader takes the labels; empty: that of the image.
        parts: further files of the image: other channels, or the slices of a series.
        split: train, validation or test where the folder itself says so, else empty.
        details: what the readers need beside paths; plain types for JSON.
    """

    case_id: str
    image: str
    masks: Mapping[str, str] = field(default_factory=dict)
    labels: str | None = None
    patient: str = ""
    dropped: tuple[int, ...] = ()
    kind: str = "nifti"
    label_kind: str = ""
    parts: tuple[str, ...] = ()
    split: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.patient:
            object.__setattr__(self, "patient", self.case_id)
        if not self.label_kind:
            object.__setattr__(self, "label_kind", self.kind)

    @property
    def has_labels(self) -> bool:
        """True where the case has masks or a label volume."""
        return bool(self.masks) or self.labels is not None

    def missing(self, structures: Iterable[str]) -> list[str]:
        """The structures that the case has no mask file of; [] of cases whose labels are no mask files.

        An empty mask says that a structure is not there. No mask says nothing.
        """
        return [name for name in structures if name not in self.masks] if self.masks else []

    @property
    def image_only(self) -> CaseSource:
        """The case without its labels: a prediction reads only this, so that other labels are no other case."""
        kept = {name: value for name, value in self.details.items() if name not in DETAILS_OF_LABELS}
        return replace(self, masks={}, labels=None, dropped=(), details=kept)

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the case, the image first; of a DICOM series its slices: what lies beside them is another's."""
        labels = () if self.labels is None else (self.labels,)
        image = () if self.kind == "dicom" and self.parts else (self.image,)
        return (*image, *self.parts, *labels, *(self.masks[name] for name in sorted(self.masks)))

    def fingerprint(self, state_of: Callable[[str], tuple[int, int]] = file_state) -> str:
        """32 hex digits of the names, sizes and times of all files, and of those with the voxels of an .mhd.

        A file that is gone counts as empty. ``state_of`` gives the size in bytes and the time of the last change in
        ns, or raises SegrayError.
        """
        digest = hashlib.sha256(json.dumps(sorted(self.masks)).encode())
        for path in self.files:
            state = _state(path, state_of)
            states = {path: state, **{file: _state(file, state_of) for file in detached(path, state)}}
            for file, (size, changed) in states.items():
                digest.update(f"{file}\0{size}\0{changed}\n".encode())
        digest.update(repr(self.dropped).encode())
        if self.details:
            digest.update(json.dumps(dict(self.details), sort_keys=True).encode())
        return digest.hexdigest()[:32]

    def to_json(self) -> str:
        """The source as one line of JSON."""
        # Of a whole archive at once: dataclasses.asdict takes three times as long, since it copies what lies below.
        table = {name: getattr(self, name) for name in _FIELDS}
        return json.dumps(table | {"masks": dict(self.masks), "details": dict(self.details)})

    @classmethod
    def from_json(cls, text: str) -> CaseSource:
        """Read what :meth:`to_json` wrote."""
        table = json.loads(text)
        lists = {name: tuple(table.get(name, ())) for name in ("dropped", "parts")}
        return cls(**{**table, **lists})


def _state(path: str, state_of: Callable[[str], tuple[int, int]]) -> tuple[int, int]:
    try:
        return state_of(path)
    except SegrayError:
        return -1, 0


_FIELDS = tuple(field.name for field in fields(CaseSource))


@dataclass(frozen=True)
class Discovery:
    """What a folder holds.

    Attributes:
        format: the name of the layout, a value of ``ingest.format``.
        cases: sorted by case id. A case without labels stands here too, so that it can be predicted.
        label_map: from the settings, a dataset.json or the mask names; None where only voxel values could tell.
        problems: (case id or file, reason) of what cannot be used, or not for training.
        notes: what was understood, a sentence each, for the user.
    """

    format: str
    cases: list[CaseSource]
    label_map: LabelMap | None
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CaseHeader:
    """What the header of a case's image says.

    Attributes:
        size: (z, y, x) voxels.
        spacing: (z, y, x) mm.
        voxel_bytes: bytes of the volume once read; where the type cannot tell, the larger of int16 and float32.
        geometry: the grid of the file.
        path: the image.
        notes: what is odd about the header.
        channels: names of the channels; () for one channel without a name.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    voxel_bytes: int
    geometry: Geometry
    path: str
    notes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
