"""The three stages of mask generation as Ray Data runs them: read, predict, write; a failure becomes a row."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from segray import formats, storage
from segray.case import Geometry, LabelMap, Volume, channel_volumes
from segray.config import PredictConfig
from segray.engine.predictor import Predictor
from segray.evaluation.statistics import structure_statistics
from segray.formats.source import CaseSource
from segray.nets.bundle import load_bundle
from segray.pipelines.failures import reason_for
from segray.pipelines.ledger import to_line

Row = dict[str, Any]

SCHEMA = pa.schema(
    [
        ("case_id", pa.string()),
        ("source", pa.string()),
        ("reason", pa.string()),
        ("geometry", pa.string()),
        ("notes", pa.string()),
        ("voxels", pa.large_binary()),
        ("dtype", pa.string()),
        ("channels", pa.int32()),
        ("labels", pa.large_binary()),
        ("labels_dtype", pa.string()),
        ("seconds_read", pa.float64()),
        ("seconds_predict", pa.float64()),
        ("peak_mib", pa.float64()),
        ("host", pa.string()),
    ]
)

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
    try:
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
    row["seconds_read"] = time.perf_counter() - begin
    return one_row(SCHEMA, row)


class PredictStage:
    """An actor that keeps the nets resident: rows with voxels in, rows with label indices out."""

    def __init__(self, bundles: Sequence[str], config: PredictConfig, threads: int) -> None:
        self._predictor = Predictor([load_bundle(bundle) for bundle in bundles], config, threads=threads)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Predict the case of a one-row table; a row with a reason passes through."""
        if table.column("reason")[0].as_py() is not None:
            return table
        geometry = Geometry.from_json(table.column("geometry")[0].as_py())
        voxels = voxels_of(table, geometry)
        row: Row = {}
        begin = time.perf_counter()
        try:
            labels = np.ascontiguousarray(self._predictor.predict(voxels, geometry.spacing))
            row |= {"labels": labels, "labels_dtype": labels.dtype.str}
        except Exception as error:
            row["reason"] = reason_for(error)
        row["seconds_predict"] = time.perf_counter() - begin
        row["host"] = socket.gethostname()
        row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
        return with_values(table, row)


def with_values(table: pa.Table, values: Row) -> pa.Table:
    """The one-row table with some of its columns replaced; the others are not copied."""
    for name, value in values.items():
        position = table.schema.get_field_index(name)
        table = table.set_column(position, SCHEMA.field(name), _column(SCHEMA.field(name), value))
    return table


@dataclass(frozen=True)
class WriteStage:
    """Write the mask whole or not at all, measure its structures, and end as a small row for the ledger."""

    folder: str
    label_map: str
    output: str = "auto"

    def __call__(self, table: pa.Table) -> pa.Table:
        """The result row of a one-row table, as JSON in ``row``."""
        values = {name: table.column(name)[0].as_py() for name in SCHEMA.names if name not in ("voxels", "labels")}
        source = CaseSource.from_json(values["source"])
        row: Row = {"case_id": values["case_id"], "status": "ok", "reason": "", "image": source.image}
        row["source"] = values["source"]
        row["fingerprint"] = source.fingerprint() if values["reason"] is None else ""
        begin = time.perf_counter()
        if values["reason"] is None:
            try:
                row |= self._write(table, values)
            except Exception as error:
                values["reason"] = reason_for(error)
        if values["reason"] is not None:
            row |= {"status": "failed", "reason": values["reason"]}
        for stage in ("read", "predict"):
            row[f"seconds_{stage}"] = round(values[f"seconds_{stage}"] or 0.0, 4)
        row |= {"seconds_write": round(time.perf_counter() - begin, 4), "peak_mib": round(values["peak_mib"] or 0.0)}
        row["host"] = values["host"] or ""
        return one_row(RESULT_SCHEMA, {"case_id": row["case_id"], "row": to_line(row)})

    def _write(self, table: pa.Table, values: Row) -> Row:
        label_map = LabelMap.from_json(self.label_map)
        geometry = Geometry.from_json(values["geometry"])
        indices = volume_of(table, "labels", values["labels_dtype"], geometry.size)
        voxels = channel_volumes(voxels_of(table, geometry))[0]
        source = CaseSource.from_json(values["source"])
        mask = f"masks/{source.case_id}{formats.mask_ending(source, self.output)}"
        formats.write_mask(storage.join(self.folder, mask), label_map.to_value(indices), geometry, label_map, source)
        row: Row = {"mask": mask, "notes": values["notes"] or ""}
        statistics = structure_statistics(
            voxels, indices, label_map.channels, geometry.voxel_ml, overlapping=label_map.overlapping
        )
        for name, value in statistics.as_row(label_map).items():
            row[name] = round(value, 4) if value == value else None
        return row
