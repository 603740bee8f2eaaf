"""A case on the grid to a part: rows of slices, whole or not at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segray import storage
from segray.case import Volume
from segray.shards import ShardError
from segray.shards.codec import DTYPES, Codec, checksum, encode_slices
from segray.shards.manifest import CaseIntensity
from segray.shards.schema import ROW, check_schema

META = b"segray"

PLAIN = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
"""Pixels are compressed already. The pages' own checksums guard the light columns when the index is built."""


@dataclass(frozen=True)
class CaseSlices:
    """A case as its part holds it.

    Attributes:
        case_id: the case.
        images: (z, H, W) int16, float32, uint8 or uint16.
        labels: (z, H, W) channel indices, or None.
        spacing: (z, y, x) mm on the grid.
        z_first: position of the first slice along z, in mm.
        mean: mean of all voxels of the case before the grid.
        sd: their sd.
        intensity: statistics of the foreground.
        fingerprint: of the source files.
        recipe: hash of the way here.
        notes: sentences for the manifest.
    """

    case_id: str
    images: Volume
    labels: Volume | None
    spacing: tuple[float, float, float]
    z_first: float
    mean: float
    sd: float
    intensity: CaseIntensity
    fingerprint: str
    recipe: str
    notes: list[str]


@dataclass(frozen=True)
class PartFacts:
    """What the footer of a part says: enough to know that it need not be made again."""

    case_id: str
    file: str
    bytes: int
    slices: int
    fingerprint: str
    recipe: str
    notes: list[str]
    intensity: CaseIntensity


def part_name(case_id: str) -> str:
    """The file of a case's part."""
    return f"part-{case_id}.parquet"


def write_part(
    folder: str, case: CaseSlices, *, rows_per_group: int = 32, codec: Codec = "zstd", level: int = 1
) -> PartFacts:
    """Write the part of a case whole or not at all; the same case again overwrites it. Returns its facts."""
    if case.images.dtype.name not in DTYPES:
        raise ShardError(f"A shard holds no {case.images.dtype} pixels.")
    facts = {
        "case_id": case.case_id,
        "slices": len(case.images),
        "fingerprint": case.fingerprint,
        "recipe": case.recipe,
        "notes": case.notes,
        "intensity": _intensity_to_dict(case.intensity),
    }
    schema = ROW.with_metadata({META: json.dumps(facts).encode("utf-8")})
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, schema, **PLAIN) as writer:
        for columns in _groups(case, rows_per_group, codec, level):
            writer.write_table(pa.Table.from_pydict(columns, schema=schema), row_group_size=rows_per_group)
    data = memoryview(buffer.getvalue())
    name = part_name(case.case_id)
    storage.write_bytes(storage.join(folder, name), data)
    return PartFacts(
        case.case_id, name, len(data), len(case.images), case.fingerprint, case.recipe, case.notes, case.intensity
    )


def _groups(case: CaseSlices, rows_per_group: int, codec: Codec, level: int) -> Iterator[dict[str, list[Any]]]:
    images = encode_slices(case.images, codec, level)
    labels = None if case.labels is None else encode_slices(case.labels, "zstd", level)
    for start in range(0, len(images), rows_per_group):
        zs = range(start, min(start + rows_per_group, len(images)))
        columns = _image_columns(case, zs, images[start : zs.stop])
        if labels is not None and case.labels is not None:
            columns |= _label_columns(case.labels[start : zs.stop], labels[start : zs.stop])
        yield columns


def _image_columns(case: CaseSlices, zs: range, images: list[bytes]) -> dict[str, list[Any]]:
    """The columns of some slices, those of the labels empty."""
    same = {
        "case_id": case.case_id,
        "slices": len(case.images),
        "spacing": list(case.spacing),
        "height": case.images.shape[1],
        "width": case.images.shape[2],
        "dtype": case.images.dtype.name,
        "labels": None,
        "labels_crc": None,
        "labels_dtype": None,
        "present": [],
        "foreground": 0,
        "case_mean": case.mean,
        "case_sd": case.sd,
    }
    return {
        **{name: [value] * len(zs) for name, value in same.items()},
        "z": list(zs),
        "z_mm": [case.z_first + z * case.spacing[0] for z in zs],
        "image": images,
        "image_crc": [checksum(image) for image in images],
    }


def _label_columns(labels: Volume, data: list[bytes]) -> dict[str, list[Any]]:
    return {
        "labels": data,
        "labels_crc": [checksum(encoded) for encoded in data],
        "labels_dtype": [labels.dtype.name] * len(labels),
        "present": _present(labels),
        "foreground": [int(np.count_nonzero(plane)) for plane in labels],
    }


def _present(labels: Volume) -> list[list[int]]:
    """The indices in each slice, without background, taken at the ends of runs: there are few of them."""
    flat = labels.reshape(-1)
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    seen = np.zeros((len(labels), int(labels.max(initial=0)) + 1), np.bool_)
    seen[ends // max(labels[0].size, 1), flat[ends]] = True
    seen[np.arange(len(labels)), labels[:, -1, -1]] = True
    found: list[list[int]] = [[] for _ in labels]
    for z, index in zip(*(axis.tolist() for axis in np.nonzero(seen)), strict=True):
        if index:
            found[z].append(index)
    return found


def _intensity_to_dict(stats: CaseIntensity) -> dict[str, Any]:
    samples = base64.b64encode(stats.samples.astype("<f4").tobytes()).decode("ascii")
    numbers = {"count": stats.count, "total": stats.total, "square": stats.square, "low": stats.low, "high": stats.high}
    return {**numbers, "samples": samples}


def read_part_facts(folder: str, case_id: str) -> PartFacts | None:
    """The footer of a case's part; None where there is no part, or none that this segray wrote whole."""
    name = part_name(case_id)
    path = storage.join(folder, name)
    if not storage.exists(path):
        return None
    try:
        fs, inner = storage.filesystem(path)
        size = int(fs.get_file_info(inner).size)
        with fs.open_input_file(inner) as stream:
            schema = pq.read_schema(stream)
        check_schema(schema, name)
        facts = json.loads((schema.metadata or {})[META])
        stored = facts.pop("intensity")
        stored["samples"] = np.frombuffer(base64.b64decode(stored["samples"]), dtype="<f4").astype(np.float32)
        return PartFacts(file=name, bytes=size, intensity=CaseIntensity(**stored), **facts)
    except (OSError, pa.ArrowException, ShardError, KeyError, ValueError, TypeError):
        # Whatever is wrong with an old part, the answer is the same: it is made again.
        return None
