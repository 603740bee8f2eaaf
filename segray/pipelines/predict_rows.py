"""What the stages of mask generation hand on: tables of one row, whose arrays are never copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from segray.case import Geometry, Volume
from segray.engine.stage_clock import STAGES

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
    """The array of shape ``size`` in a large_binary column of a one-row table, as a read-only view of its buffer."""
    (chunk,) = (chunk for chunk in table.column(name).chunks if len(chunk))
    # Neither combine_chunks nor the scalar: each of them copies, also where there is one chunk and one row.
    _, offsets, data = chunk.buffers()
    start, stop = np.frombuffer(offsets, dtype=np.int64)[chunk.offset : chunk.offset + 2].tolist()
    found: Volume = np.frombuffer(data, dtype=np.uint8)[start:stop].view(dtype).reshape(size)
    found.flags.writeable = False
    return found


def voxels_of(table: pa.Table, geometry: Geometry) -> Volume:
    """The voxels of a one-row table: (z, y, x), or (z, c, y, x) with several channels."""
    channels = table.column("channels")[0].as_py()
    z, y, x = geometry.size
    return volume_of(
        table, "voxels", table.column("dtype")[0].as_py(), (z, channels, y, x) if channels > 1 else (z, y, x)
    )


def grid_of(table: pa.Table) -> Geometry:
    """The grid of the case of a one-row table."""
    return Geometry.from_json(table.column("geometry")[0].as_py())


def with_values(table: pa.Table, values: Row) -> pa.Table:
    """The one-row table with some of its columns replaced; the others are not copied."""
    for name, value in values.items():
        position = table.schema.get_field_index(name)
        table = table.set_column(position, SCHEMA.field(name), _column(SCHEMA.field(name), value))
    return table
