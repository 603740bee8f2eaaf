"""A case on the grid to a part: rows of slices, whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segray import storage
from segray.case import Volume
from segray.shards import ShardError
from segray.shards.codec import DTYPES, Codec, checksum, encode_slices
from segray.shards.manifest import CaseIntensity
from segray.shards.schema import HOLLOW, META, PIXEL_COLUMNS, ROW, check_schema

PLAIN = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
"""Pixels are compressed already. The pages' own checksums guard the light columns when the index is built."""


@dataclass(frozen=True)
class CaseSlices:
    """A case as its part holds it.

    Attributes:
        case_id: the case.
        images: (z, H, W), or (z, c, H, W) with several channels; int16, float32, uint8 or uint16.
        labels: (z, H, W) channel indices, or bit fields of overlapping structures, or None.
        spacing: (z, y, x) mm on the grid.
        z_first: position of the first slice along z, in mm.
        mean: mean of all voxels of the case before the grid, one a channel.
        sd: their sd, one a channel.
        intensity: statistics of the foreground, one a channel.
        fingerprint: of the source files.
        recipe: hash of the way here.
        notes: sentences for the manifest.
        overlapping: the labels are bit fields.
        ignored: the index of pixels that nobody judged, which are no foreground; 0: there are none.
    """

    case_id: str
    images: Volume
    labels: Volume | None
    spacing: tuple[float, float, float]
    z_first: float
    mean: Sequence[float]
    sd: Sequence[float]
    intensity: Sequence[CaseIntensity]
    fingerprint: str
    recipe: str
    notes: list[str]
    overlapping: bool = False
    ignored: int = 0


@dataclass(frozen=True)
class Hollow:
    """What a part says that leaves its pixels out: they are made from the case's files whenever they are asked for.

    Attributes:
        origin: how to make them, plain types for JSON; the business of whoever makes them.
        bytes: compressed size of what is left out.
    """

    origin: Mapping[str, Any]
    bytes: int = 0


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
    intensity: Sequence[CaseIntensity]
    hollow: Hollow | None = None
    content: str = ""


def part_name(case_id: str) -> str:
    """The file of a case's part."""
    return f"part-{case_id}.parquet"


def case_of_part(name: str) -> str:
    """The case of a part by the name of its file."""
    return name.removeprefix("part-").removesuffix(".parquet")


def write_part(
    folder: str,
    case: CaseSlices,
    *,
    rows_per_group: int = 32,
    codec: Codec = "zstd",
    level: int = 1,
    origin: Mapping[str, Any] | None = None,
) -> PartFacts:
    """Write the part of a case whole or not at all; the same case again overwrites it. Returns its facts.

    With an ``origin`` the part is hollow: all but the pixels, whose checksums stay.
    """
    if case.images.dtype.name not in DTYPES:
        raise ShardError(f"A shard holds no {case.images.dtype} pixels.")
    facts = {
        "case_id": case.case_id,
        "slices": len(case.images),
        "fingerprint": case.fingerprint,
        "recipe": case.recipe,
        "notes": case.notes,
        "intensity": [_intensity_to_dict(channel) for channel in case.intensity],
    }
    groups = list(_groups(case, rows_per_group, codec, level))
    facts["content"] = _content(groups)
    hollow = None if origin is None else Hollow(origin, sum(map(_leave_out, groups)))
    metadata = {META: facts} if hollow is None else {META: facts, HOLLOW: asdict(hollow)}
    schema = ROW.with_metadata({key: json.dumps(value).encode("utf-8") for key, value in metadata.items()})
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, schema, **PLAIN) as writer:
        for columns in groups:
            writer.write_table(pa.Table.from_pydict(columns, schema=schema), row_group_size=rows_per_group)
    data = memoryview(buffer.getvalue())
    name = part_name(case.case_id)
    storage.write_bytes(storage.join(folder, name), data)
    return PartFacts(
        case.case_id,
        name,
        len(data),
        len(case.images),
        case.fingerprint,
        case.recipe,
        case.notes,
        case.intensity,
        hollow,
        str(facts["content"]),
    )


def _content(groups: Sequence[Mapping[str, Sequence[Any]]]) -> str:
    """32 hex digits of all that the row groups hold; of the pixels their checksums."""
    digest = hashlib.sha256()
    for columns in groups:
        light = [[name, *columns[name]] for name in ROW.names if name not in ("image", "labels")]
        digest.update(json.dumps(light, default=float).encode("utf-8"))
    return digest.hexdigest()[:32]


def _leave_out(columns: dict[str, list[Any]]) -> int:
    """Empty the pixels of some rows; the bytes that this saves."""
    left_out = 0
    for name in ("image", "labels"):
        left_out += sum(len(data) for data in columns[name] if data is not None)
        columns[name] = [None if data is None else b"" for data in columns[name]]
    return left_out


def rows_of_case(case: CaseSlices, *, codec: Codec = "zstd", level: int = 1) -> pa.Table:
    """The rows that the part of a case would hold, columns :data:`PIXEL_COLUMNS`, slice after slice."""
    schema = pa.schema([ROW.field(name) for name in PIXEL_COLUMNS])
    groups = [
        pa.Table.from_pydict({name: columns[name] for name in PIXEL_COLUMNS}, schema=schema)
        for columns in _groups(case, max(len(case.images), 1), codec, level)
    ]
    return pa.concat_tables(groups) if groups else schema.empty_table()


def _groups(case: CaseSlices, rows_per_group: int, codec: Codec, level: int) -> Iterator[dict[str, list[Any]]]:
    images = encode_slices(case.images, codec, level)
    labels = None if case.labels is None else encode_slices(case.labels, "zstd", level)
    for start in range(0, len(images), rows_per_group):
        zs = range(start, min(start + rows_per_group, len(images)))
        columns = _image_columns(case, zs, images[start : zs.stop])
        if labels is not None and case.labels is not None:
            columns |= _label_columns(case, labels[start : zs.stop], slice(start, zs.stop))
        yield columns


def _image_columns(case: CaseSlices, zs: range, images: list[bytes]) -> dict[str, list[Any]]:
    """The columns of some slices, those of the labels empty."""
    same = {
        "case_id": case.case_id,
        "slices": len(case.images),
        "spacing": list(case.spacing),
        "height": case.images.shape[-2],
        "width": case.images.shape[-1],
        "channels": case.images.shape[1] if case.images.ndim == 4 else 1,
        "dtype": case.images.dtype.name,
        "labels": None,
        "labels_crc": None,
        "labels_dtype": None,
        "present": [],
        "foreground": 0,
        "case_mean": list(case.mean),
        "case_sd": list(case.sd),
    }
    return {
        **{name: [value] * len(zs) for name, value in same.items()},
        "z": list(zs),
        "z_mm": [case.z_first + z * case.spacing[0] for z in zs],
        "image": images,
        "image_crc": [checksum(image) for image in images],
    }


def _label_columns(case: CaseSlices, data: list[bytes], zs: slice) -> dict[str, list[Any]]:
    if case.labels is None:
        raise ValueError("a case without labels has no columns of them")
    labels = case.labels[zs]
    judged = np.where(labels == case.ignored, 0, labels) if case.ignored else labels
    return {
        "labels": data,
        "labels_crc": [checksum(encoded) for encoded in data],
        "labels_dtype": [labels.dtype.name] * len(labels),
        "present": _present_bits(labels) if case.overlapping else _present(judged),
        "foreground": [int(np.count_nonzero(plane)) for plane in judged],
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


def _present_bits(labels: Volume) -> list[list[int]]:
    """The structures in each slice of bit fields, numbered from 1 as indices are."""
    fields = np.bitwise_or.reduce(labels.reshape(len(labels), -1), axis=1).tolist()
    return [[number + 1 for number in range(field.bit_length()) if field >> number & 1] for field in fields]


def _intensity_to_dict(stats: CaseIntensity) -> dict[str, Any]:
    samples = base64.b64encode(stats.samples.astype("<f4").tobytes()).decode("ascii")
    numbers = {"count": stats.count, "total": stats.total, "square": stats.square, "low": stats.low, "high": stats.high}
    return {**numbers, "samples": samples}


def _intensity_of(stored: dict[str, Any]) -> CaseIntensity:
    samples = np.frombuffer(base64.b64decode(stored["samples"]), dtype="<f4").astype(np.float32)
    return CaseIntensity(**{**stored, "samples": samples})


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
        hollow = json.loads(schema.metadata.get(HOLLOW, b"null"))
        intensity = [_intensity_of(stored) for stored in facts.pop("intensity")]
        found = PartFacts(file=name, bytes=size, intensity=intensity, **facts)
        return replace(found, hollow=None if hollow is None else Hollow(**hollow))
    except (OSError, pa.ArrowException, ShardError, KeyError, ValueError, TypeError):
        # Whatever is wrong with an old part, the answer is the same: it is made again.
        return None
