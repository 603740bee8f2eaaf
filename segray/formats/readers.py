"""The readers by name: each a module that is imported when the first case of its kind is read."""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from segray.case import Case, Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.formats.source import CaseHeader, CaseSource

READERS = {
    "coco": "segray.formats.coco_labels",
    "dicom": "segray.formats.dicom",
    "nifti": "segray.formats.nifti_case",
    "picture": "segray.formats.pictures",
    "volume": "segray.formats.volumes",
}
"""Kind to module; the values of :attr:`CaseSource.kind` and :attr:`CaseSource.label_kind`."""


class Reader(Protocol):
    """What a module named in :data:`READERS` offers; a kind of labels alone needs the last two functions only."""

    def read_header(self, source: CaseSource) -> CaseHeader:
        """Size, spacing and memory of the image without reading its voxels. Raises CaseError."""

    def read_image(self, source: CaseSource) -> Case:
        """The image without labels. Raises CaseError."""

    def read_labels(
        self, source: CaseSource, geometry: Geometry, label_map: LabelMap | None, overlap: str
    ) -> tuple[Volume, list[str]]:
        """Label values (z, y, x), LPS, on the grid ``geometry`` of the image, and notes. Raises CaseError.

        With ``overlap="keep"`` always a bit field instead: bit k (value ``1 << k``) is set where structure number k
        of ``label_map.names`` is, uint8, uint16 or uint32. A reader whose labels exclude each other gets it of its
        values by :func:`segray.formats.label_bits.as_bits`; formats cannot tell one from the other afterwards.

        ``label_map`` None: the masks of this case are numbered by their sorted names.
        """

    def label_values(self, source: CaseSource) -> list[int]:
        """The values in the labels of a case without background, sorted. Raises CaseError."""


def reader_of(kind: str) -> Reader:
    """The reader of a kind. Raises CaseError where there is none, as in a file that a newer segray wrote."""
    if kind not in READERS:
        raise CaseError(f"segray has no reader for {kind!r}.", mend="Update segray.")
    return cast(Reader, importlib.import_module(READERS[kind]))
