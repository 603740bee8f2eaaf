"""The stages of mask generation that read and write, as Ray Data runs them; a failure becomes a row.

Without torch, which a process takes seconds to import; the stage between them is in :mod:`.predictor_stage`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from segray import formats, storage
from segray.case import Geometry, LabelMap, channel_volumes
from segray.engine.stage_clock import STAGES
from segray.errors import CaseError
from segray.evaluation.statistics import rounded, structure_statistics
from segray.formats.source import CaseSource
from segray.ledger_parts import ABSENT
from segray.outage import be_patient
from segray.pipelines.case_outputs import (
    CONFIDENCE,
    Crop,
    PredictedCase,
    can_have,
    structure_columns,
    why_not,
    write_further,
)
from segray.pipelines.failures import reason_for
from segray.pipelines.ledger import to_line
from segray.pipelines.peak_memory import forget_peak, peak_mib
from segray.pipelines.predict_rows import (
    LARGE,
    RESULT_SCHEMA,
    SCHEMA,
    Row,
    one_row,
    volume_of,
    voxels_of,
)
from segray.pipelines.structure_table import STRUCTURES


def read_stage(table: pa.Table) -> pa.Table:
    """Read and orient the case of a row with ``source``; on failure the row carries a reason instead of voxels."""
    source = CaseSource.from_json(table.column("source")[0].as_py())
    row: Row = {"case_id": source.case_id, "source": source.to_json()}
    begin = time.perf_counter()
    forget_peak()
    try:
        # Before it is read: a file that changes meanwhile is another one for the next run.
        row["fingerprint"] = source.image_only.fingerprint()
        case = formats.read_image(source)
        voxels = np.ascontiguousarray(case.voxels)
        row |= {
            "geometry": case.geometry.to_json(),
            "voxels": voxels,
            "dtype": voxels.dtype.str,
            "channels": voxels.shape[1] if voxels.ndim == 4 else 1,
            "notes": " ".join(case.notes),
        }
    except Exception as error:
        row["reason"] = reason_for(error)
    row |= {"seconds_read": time.perf_counter() - begin, "peak_mib_read": peak_mib()}
    return one_row(SCHEMA, row)


@dataclass(frozen=True)
class WriteStage:
    """Write the mask whole or not at all, and what else is asked for; end as a small row for the ledger."""

    folder: str
    label_map: str
    output: str = "auto"
    further: tuple[str, ...] = ()

    def __call__(self, table: pa.Table) -> pa.Table:
        """The result row of a one-row table, as JSON in ``row``."""
        be_patient()
        values = {name: table.column(name)[0].as_py() for name in SCHEMA.names if name not in LARGE}
        source = CaseSource.from_json(values["source"])
        row: Row = {"case_id": values["case_id"], "status": "ok", "reason": "", "image": source.image}
        row["source"] = values["source"]
        row["fingerprint"] = values["fingerprint"] or ""
        begin = time.perf_counter()
        forget_peak()
        if values["reason"] is None:
            try:
                case = self._case(table, values, source)
                with storage.one_flush():
                    row |= self._write(case, values)
            except Exception as error:
                values["reason"] = reason_for(error)
        if values["reason"] is not None:
            row |= {"status": "failed", "reason": values["reason"]}
        for stage in ("read", "predict", *STAGES):
            row[f"seconds_{stage}"] = round(values[f"seconds_{stage}"] or 0.0, 4)
        row["seconds_write"] = round(time.perf_counter() - begin, 4)
        for stage in ("read", "predict"):
            row[f"peak_mib_{stage}"] = round(values[f"peak_mib_{stage}"] or 0.0)
        row["peak_mib_write"] = round(peak_mib())
        row["host"] = values["host"] or ""
        return one_row(RESULT_SCHEMA, {"case_id": row["case_id"], "row": to_line(row)})

    def _case(self, table: pa.Table, values: Row, source: CaseSource) -> PredictedCase:
        label_map, geometry = LabelMap.from_json(self.label_map), Geometry.from_json(values["geometry"])
        indices = volume_of(table, "labels", values["labels_dtype"], geometry.size)
        voxels = channel_volumes(voxels_of(table, geometry))[0]
        statistics = structure_statistics(
            voxels, indices, label_map.channels, geometry, overlapping=label_map.overlapping
        )
        crop = None
        if values["crop"] is not None:
            box = json.loads(values["crop"])
            z, y, x = box["offset"]
            crop = Crop(volume_of(table, "probabilities", box["dtype"], tuple(box["shape"])), (z, y, x))
        return PredictedCase(source, geometry, label_map, voxels, indices, statistics, crop)

    def _write(self, case: PredictedCase, values: Row) -> Row:
        label_map = case.label_map
        labels = label_map.to_value(case.indices)
        mask = formats.write_output(self.output, self.folder, labels, case.geometry, label_map, case.source)
        absent = self._write_further(case)
        notes = [values["notes"]] if values["notes"] else []
        notes += [f"No {kind}: {reason}" for kind, reason in absent.items()]
        confidence = json.loads(values["confidence"]) if values["confidence"] else []
        written = [*self.further, *([CONFIDENCE] if confidence else [])]
        row: Row = {"mask": mask, "notes": " ".join(notes), "further": ",".join(written)}
        if absent:
            row[ABSENT] = ",".join(absent)
        for name, value in case.statistics.as_row(label_map).items():
            digits = rounded if name.startswith("volume_ml") else partial(round, ndigits=4)
            row[name] = digits(value) if value == value else None
        return row | {STRUCTURES: structure_columns(case, confidence)}

    def _write_further(self, case: PredictedCase) -> dict[str, str]:
        """Write what is asked for beside the mask; the kinds that this case has not, each with the reason."""
        absent = {}
        for kind in self.further:
            try:
                if not can_have(kind, case.source):
                    raise CaseError(why_not(kind, case.source))
                write_further(kind, self.folder, case)
            except CaseError as error:
                # The mask is there and right; what this case cannot have besides is no failure.
                absent[kind] = str(error)
        return absent
