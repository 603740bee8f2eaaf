"""The three stages of mask generation as Ray Data runs them: read, predict, write; a failure becomes a row."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from segray import formats, storage
from segray.case import Geometry, LabelMap, Volume, channel_volumes
from segray.config import PredictConfig
from segray.engine.backends import BackendChoice
from segray.engine.confidence import Confidence
from segray.engine.predictor import STAGES, Predictor
from segray.errors import CaseError
from segray.evaluation.statistics import rounded, structure_statistics
from segray.formats.probability_files import ProbabilityCrop
from segray.formats.source import CaseSource
from segray.ledger_parts import ABSENT
from segray.nets.bundle import load_bundle
from segray.outage import be_patient
from segray.pipelines.case_batches import rows_of
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
from segray.pipelines.structure_table import STRUCTURES

Row = dict[str, Any]

SCHEMA = pa.schema(
    [
        ("case_id", pa.string()),
        ("source", pa.string()),
        ("fingerprint", pa.string()),
        ("reason", pa.string()),
        ("geometry", pa.string()),
        ("notes", pa.string()),
        ("voxels", pa.large_binary()),
        ("dtype", pa.string()),
        ("channels", pa.int32()),
        ("labels", pa.large_binary()),
        ("labels_dtype", pa.string()),
        ("probabilities", pa.large_binary()),
        ("crop", pa.string()),
        ("confidence", pa.string()),
        ("seconds_read", pa.float64()),
        ("seconds_predict", pa.float64()),
        *((f"seconds_{stage}", pa.float64()) for stage in STAGES),
        ("peak_mib_read", pa.float64()),
        ("peak_mib_predict", pa.float64()),
        ("host", pa.string()),
    ]
)

LARGE = ("voxels", "labels", "probabilities")
"""The columns of arrays, which are never turned into Python objects."""

RESULT_SCHEMA = pa.schema([("case_id", pa.string()), ("row", pa.string())])


def one_row(schema: pa.Schema, values: Row) -> pa.Table:
    """A table of one row; names that ``values`` lacks are null. Arrays go in without a copy."""
    return pa.Table.from_arrays([_column(field, values.get(field.name)) for field in schema], schema=schema)


def _column(field: pa.Field, value: Any) -> pa.Array:
    if isinstance(value, np.ndarray):
        offsets = pa.py_buffer(np.array([0, value.nbytes], dtype=np.int64))
        return pa.Array.from_buffers(field.type, 1, [None, offsets, pa.py_buffer(value.reshape(-1).view(np.uint8))])
    return pa.array([value], type=field.type)


def volume_of(table: pa.Table, name: str, dtype: str, size: tuple[int, ...]) -> Volume:
    """The array of shape ``size`` in a binary column of a one-row table, as a view of its buffer."""
    chunk = table.column(name).combine_chunks()
    array = chunk.chunk(0) if isinstance(chunk, pa.ChunkedArray) else chunk
    return np.frombuffer(array[0].as_buffer(), dtype=dtype).reshape(size)


def voxels_of(table: pa.Table, geometry: Geometry) -> Volume:
    """The voxels of a one-row table: (z, y, x), or (z, c, y, x) with several channels."""
    channels = table.column("channels")[0].as_py()
    z, y, x = geometry.size
    return volume_of(
        table, "voxels", table.column("dtype")[0].as_py(), (z, channels, y, x) if channels > 1 else (z, y, x)
    )


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


class PredictStage:
    """An actor that keeps the nets resident: rows with voxels in, rows with label indices out.

    Small cases come several at a time, and go through the nets together.
    """

    def __init__(self, bundles: Sequence[str], config: PredictConfig, threads: int, backend: str = "") -> None:
        choice = BackendChoice.from_json(backend) if backend else None
        loaded = [load_bundle(bundle) for bundle in bundles]
        self._predictor = Predictor(loaded, config, threads=threads, backend=choice)
        if self._predictor.device.type == "cuda":
            # While the first cases are read; a CPU would only compute a slice more. What fails here is the reason of a
            # case later, not the end of all.
            with suppress(Exception):
                self._predictor.warm_up()
        self._label_map = loaded[0].label_map
        self._crops, self._stored = "probabilities" in config.further, config.probabilities

    def __call__(self, table: pa.Table) -> pa.Table:
        """Predict the cases of a table; rows with a reason pass through."""
        rows = list(rows_of(table))
        forget_peak()
        ready = [number for number, row in enumerate(rows) if row.column("reason")[0].as_py() is None]
        for number, found in zip(ready, self._predict([rows[number] for number in ready]), strict=True):
            rows[number] = with_values(rows[number], found)
        return pa.concat_tables(rows) if rows else table

    def _predict(self, rows: Sequence[pa.Table]) -> list[Row]:
        """What becomes of each case; together where there are several and none of them is refused."""
        if len(rows) > 1 and not self._crops:
            # Alone, the case that it was gets its reason, and the others their masks.
            with suppress(Exception):
                return self._together(rows)
        return [self._alone(row) for row in rows]

    def _together(self, rows: Sequence[pa.Table]) -> list[Row]:
        grids = [_grid(row) for row in rows]
        cases = [(voxels_of(row, grid), grid.spacing) for row, grid in zip(rows, grids, strict=True)]
        begin = time.perf_counter()
        labels = self._predictor.predict_many(cases, [grid.voxel_ml for grid in grids])
        seconds, confidences = time.perf_counter() - begin, self._predictor.last_confidences
        sizes = [float(one.size) for one in labels]
        return [
            self._row(one, confidences[number] if confidences else None, seconds, sizes[number] / sum(sizes))
            for number, one in enumerate(labels)
        ]

    def _alone(self, table: pa.Table) -> Row:
        geometry = _grid(table)
        crop = ProbabilityCrop(self._label_map.names, geometry.size, stored=self._stored) if self._crops else None
        begin = time.perf_counter()
        try:
            sink = None if crop is None else partial(_keep, crop, len(self._label_map.names))
            labels = self._predictor.predict(
                voxels_of(table, geometry), geometry.spacing, probabilities=sink, voxel_ml=geometry.voxel_ml
            )
        except Exception as error:
            return {
                "reason": reason_for(error),
                "seconds_predict": time.perf_counter() - begin,
                "host": socket.gethostname(),
            }
        row = self._row(labels, self._predictor.last_confidence, time.perf_counter() - begin)
        if crop is not None:
            values, offset = crop.join()
            crop_facts = {"shape": values.shape, "offset": offset, "dtype": values.dtype.str}
            row |= {"probabilities": values, "crop": json.dumps(crop_facts)}
        return row

    def _row(self, labels: Volume, confidence: Confidence | None, seconds: float, share: float = 1.0) -> Row:
        """The columns of a case that took ``share`` of the time of the last call."""
        last = self._predictor.last_seconds
        return {
            "labels": np.ascontiguousarray(labels),
            "labels_dtype": labels.dtype.str,
            "confidence": json.dumps(confidence.as_rows(self._label_map)) if confidence else None,
            "seconds_predict": share * seconds,
            **{f"seconds_{stage}": share * last[stage] for stage in STAGES},
            "host": socket.gethostname(),
            "peak_mib_predict": peak_mib(),
        }


def _grid(table: pa.Table) -> Geometry:
    return Geometry.from_json(table.column("geometry")[0].as_py())


def _keep(crop: ProbabilityCrop, structures: int, start: int, slab: Volume) -> None:
    """Give the probabilities of the structures, without the background, to the crop."""
    crop.add(start, slab[:, slab.shape[1] - structures :])


def with_values(table: pa.Table, values: Row) -> pa.Table:
    """The one-row table with some of its columns replaced; the others are not copied."""
    for name, value in values.items():
        position = table.schema.get_field_index(name)
        table = table.set_column(position, SCHEMA.field(name), _column(SCHEMA.field(name), value))
    return table


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
        mask = f"masks/{case.source.case_id}{formats.mask_ending(case.source, self.output)}"
        label_map = case.label_map
        labels = label_map.to_value(case.indices)
        formats.write_mask(storage.join(self.folder, mask), labels, case.geometry, label_map, case.source)
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
