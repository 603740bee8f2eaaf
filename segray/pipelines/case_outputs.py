"""What is written of a predicted case: its mask, the further files that are asked for, and what was measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from segray import formats, storage
from segray.case import Geometry, LabelMap, Volume
from segray.config import FurtherKind
from segray.errors import CaseError, UsageError
from segray.evaluation.statistics import StructureStatistics
from segray.formats.probability_files import Stored, write_probabilities
from segray.formats.source import CaseSource
from segray.formats.structure_files import structure_files
from segray.report.preview import preview
from segray.report.slice_overlays import write_overlay_slices

FURTHER: tuple[FurtherKind, ...] = get_args(FurtherKind)
"""All that ``predict.further`` may ask for."""

CONFIDENCE = "confidence"
"""In a row's list of what was written besides: how sure the net was is in its structures, and lies in no file."""

READ_FROM = {"dicom-seg": "dicom", "rtstruct": "dicom", "png": "picture"}
"""Files that not every case can have, and the kind of the images that have them: some refer to a DICOM series."""

NEEDED = {"dicom": ("DICOM series", "refers to a DICOM series"), "picture": ("picture", "is of pictures")}
"""What such images are called, and what a file has to do with them."""

PREVIEWS = "previews"
"""The folder of the previews, below a prediction folder."""


@dataclass(frozen=True)
class Crop:
    """Probabilities of a case: (structures, z, y, x) uint8 or uint16, and the (z, y, x) of its first voxel."""

    values: Volume
    offset: tuple[int, int, int]


@dataclass(frozen=True)
class PredictedCase:
    """A case and what was found in it.

    Attributes:
        source: its files.
        geometry: its grid.
        label_map: what the indices mean.
        voxels: (z, y, x) of the first channel.
        indices: (z, y, x) channel indices or bit fields.
        statistics: of its structures.
        crop: the probabilities, where they are asked for.
    """

    source: CaseSource
    geometry: Geometry
    label_map: LabelMap
    voxels: Volume
    indices: Volume
    statistics: StructureStatistics
    crop: Crop | None = None


def can_have(kind: str, source: CaseSource) -> bool:
    """Whether a case can have such a file, as far as that is known before it is predicted."""
    return kind not in READ_FROM or source.kind == READ_FROM[kind]


def check_further(kinds: Sequence[str], cases: Sequence[CaseSource], label_map: LabelMap) -> None:
    """Raise UsageError where files are asked for that none of the cases can have, or that would be one file."""
    if "structures" in kinds:
        structure_files(label_map)
    for kind in kinds:
        if cases and not any(can_have(kind, case) for case in cases):
            raise UsageError(
                f"predict.further asks for {kind}, which {NEEDED[READ_FROM[kind]][1]}, and none of the cases is one.",
                mend=f"Leave {kind} out.",
            )


def check_output(output: str, further: Sequence[str], cases: Sequence[CaseSource], label_map: LabelMap) -> None:
    """Raise UsageError where masks are asked for that none of the cases can have, or whose files would be one.

    Files of ``further`` that are the masks themselves are refused as well: a row names each of its files once.
    """
    if output in further and formats.mask_folder(output) == further_folder(output):
        raise UsageError(
            f"predict.further asks for {output}, which predict.output={output} writes already.",
            mend=f"Leave {output} out of predict.further.",
        )
    if output == "structures":
        structure_files(label_map)
    if cases and not any(can_have(output, case) for case in cases):
        raise UsageError(
            f"predict.output={output} {NEEDED[READ_FROM[output]][1]}, and none of the cases is one.",
            mend="Set predict.output=auto.",
        )


def why_no_output(output: str, source: CaseSource) -> str:
    """The reason for which a case among others has no mask in such a format, known before it is read."""
    mend = f"Predict into another folder with predict.further={output} in place of predict.output={output}."
    return str(CaseError(why_not(output, source), mend=mend))


def further_folder(kind: str) -> str:
    """The folder of one kind of ``predict.further``, from the prediction folder."""
    return PREVIEWS if kind == "preview" else kind


def further_place(kind: str, case_id: str) -> str:
    """Where one kind of ``predict.further`` of a case lies, a file or a folder, from the prediction folder."""
    ending = {"overlays": "", "probabilities": ".nii.gz", "preview": ".png"}
    return f"{further_folder(kind)}/{case_id}{ending[kind] if kind in ending else formats.OUTPUTS[kind].ending}"


def why_not(kind: str, source: CaseSource) -> str:
    """Why :func:`can_have` says no, a sentence."""
    return f"{source.case_id} is no {NEEDED[READ_FROM[kind]][0]}, which {kind} needs."


def write_further(kind: str, folder: str, case: PredictedCase) -> None:
    """Write one kind of ``predict.further`` of a case into ``<folder>/<kind>``.

    Raises:
        CaseError: the case cannot have it, or there is nothing to be written.
        SegrayError: it cannot be written.
    """
    names, overlapping = case.label_map.names, case.label_map.overlapping
    path = storage.join(folder, further_place(kind, case.source.case_id))
    if kind == "preview":
        storage.write_bytes(path, draw_preview(case), durable=False)
    elif kind == "overlays":
        drawn = write_overlay_slices(
            path,
            case.voxels,
            case.indices,
            names,
            spacing=case.geometry.spacing,
            overlapping=overlapping,
        )
        if not drawn:
            raise CaseError("Nothing was found of which there could be outlines.")
    elif kind == "probabilities":
        if case.crop is None:
            raise CaseError("The probabilities of the case are not there.")
        crop = case.crop
        stored: Stored = "uint8" if crop.values.dtype == np.uint8 else "uint16"
        write_probabilities(path, crop.values, crop.offset, case.geometry, names, stored=stored)
    else:
        labels = case.label_map.to_value(case.indices)
        formats.OUTPUTS[kind].write(path, labels, case.geometry, case.label_map, case.source)


def preview_path(folder: str, case_id: str) -> str:
    """Where the preview of a case lies."""
    return storage.join(folder, PREVIEWS, f"{case_id}.png")


def draw_preview(case: PredictedCase) -> bytes:
    """The preview of a case, a PNG."""
    return preview(
        case.voxels,
        case.geometry.spacing,
        case.indices,
        case.label_map.names,
        case.source.case_id,
        overlapping=case.label_map.overlapping,
        volumes_ml=case.statistics.volume_ml.tolist(),
    )


def structure_columns(case: PredictedCase, confidence: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The rows of the long table, a row a structure, as lists by their names: a tenth of the text that rows would be.

    ``confidence_<...>`` are there where they were measured.
    """
    rows = case.statistics.as_rows(case.label_map)
    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    names = [name for name in confidence[0] if name != "structure"] if confidence else []
    return columns | {f"{CONFIDENCE}_{name}": [_rounded(row[name]) for row in confidence] for name in names}


def has_confidence(structures: Mapping[str, Any]) -> bool:
    """Whether how sure the net was is among the columns of :func:`structure_columns`."""
    return any(name.startswith(f"{CONFIDENCE}_") for name in structures)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
