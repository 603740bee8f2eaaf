"""A prediction folder with masks and rows, as predict leaves it, in any output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from segray import formats, storage
from segray.case import LabelMap
from segray.config import Config, load_config
from segray.evaluation.statistics import structure_statistics
from segray.formats.source import CaseSource
from segray.ledger_parts import Row
from segray.pipelines.case_outputs import PredictedCase, structure_columns
from segray.pipelines.ledger import Ledger, to_line
from segray.pipelines.predict_todo import find_todo
from segray.pipelines.verify import verify
from tests.formats.made_dicoms import save_series

LABELS = LabelMap.of_names(["liver", "spleen"])
CASES = ("a", "b", "c", "d")
SHAPE = (6, 5, 4)
"""(column, row, slice) of every scan."""


def predicted(
    scans: Path, folder: str, label_map: LabelMap = LABELS, scale: float = 1.0, output: str = "nifti"
) -> None:
    """Scans of ``CASES`` and a prediction folder with their masks and rows, as predict leaves them.

    Rows of full size are older ones, without the counts of voxels.
    """
    scans.mkdir()
    storage.write_text(f"{folder}/label_map.json", label_map.to_json())
    with Ledger(folder) as ledger:
        for number, case_id in enumerate(CASES):
            save = save_dicom if output in ("rtstruct", "dicom-seg") else save_nifti
            source = save(scans, case_id, scale)
            case = formats.read_image(source)
            levels = 1 << len(label_map.names) if label_map.overlapping else len(label_map.names) + 1
            indices = ((np.arange(case.voxels.size).reshape(case.voxels.shape) + number) % levels).astype(np.uint8)
            mask = formats.write_output(output, folder, label_map.to_value(indices), case.geometry, label_map, source)
            row: Row = {"case_id": case_id, "status": "ok", "reason": "", "mask": mask, "source": source.to_json()}
            found = structure_statistics(
                case.voxels, indices, label_map.channels, case.geometry, overlapping=label_map.overlapping
            )
            measured = {name: round(value, 4) for name, value in found.as_row(label_map).items() if value == value}
            if scale < 1:
                row["structures"] = structure_columns(
                    PredictedCase(source, case.geometry, label_map, case.voxels, indices, found), []
                )
            ledger.add(to_line(row | {"fingerprint": source.fingerprint()} | measured))
        ledger.write_tables()


def save_nifti(scans: Path, case_id: str, scale: float) -> CaseSource:
    """A scan whose voxels are all different."""
    path = scans / f"{case_id}.nii.gz"
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.5 * scale, -1.5 * scale, 3.0 * scale, 1.0])), path)
    return formats.lone_image(str(path))


def save_dicom(scans: Path, case_id: str, scale: float) -> CaseSource:
    """The same as a series of slices of 1.5 x 0.8 mm."""
    number = ord(case_id)
    voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE[::-1])
    uids = {"series": f"1.2.{number}.5", "frame": f"1.2.{number}.6"}
    save_series(scans / case_id, voxels, step=(0.0, 0.0, 3.0 * scale), **uids)
    return replace(formats.discover(str(scans / case_id), Config().ingest, labelled=False).cases[0], case_id=case_id)


def todo(scans: Path, folder: str, *settings: str, label_map: LabelMap = LABELS) -> list[str]:
    """The cases that the next run would predict."""
    cases = formats.discover(str(scans), Config().ingest, labelled=False).cases
    found = find_todo(cases, Ledger(folder), folder, load_config(None, settings).predict, label_map)
    return [case.case_id for case in found.cases]


def kinds(folder: str, **options: Any) -> dict[str, list[str]]:
    """Kind of finding to names."""
    found: dict[str, list[str]] = {}
    for finding in verify(folder, **options).findings:
        found.setdefault(finding.kind, []).append(finding.name)
    return found
