"""The Parquet schema of a shard, and the refusal of anything else before a single value is read."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa

from segray.shards import ShardError

SCHEMA_VERSION = 2

ROW = pa.schema(
    [
        ("case_id", pa.string()),
        ("z", pa.int32()),
        ("slices", pa.int32()),
        ("z_mm", pa.float32()),
        ("spacing", pa.list_(pa.float32(), 3)),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("channels", pa.int32()),
        ("dtype", pa.string()),
        ("image", pa.binary()),
        ("image_crc", pa.uint32()),
        ("labels", pa.binary()),
        ("labels_crc", pa.uint32()),
        ("labels_dtype", pa.string()),
        ("present", pa.list_(pa.int32())),
        ("foreground", pa.int32()),
        ("case_mean", pa.list_(pa.float32())),
        ("case_sd", pa.list_(pa.float32())),
    ]
)
"""One row is one axial slice; spacing is (z, y, x) in mm, z_mm the position along z of the turned case.

The image holds (channels, height, width) pixels; case_mean and case_sd have an entry a channel.
"""

PIXEL_COLUMNS = [
    "case_id",
    "z",
    "height",
    "width",
    "channels",
    "dtype",
    "image",
    "image_crc",
    "labels",
    "labels_crc",
    "labels_dtype",
    "case_mean",
    "case_sd",
]
"""What a batch needs."""

INDEX_COLUMNS = ["z", "present", "foreground"]
"""What sampling needs without touching pixels."""

META = b"segray"
"""The key in the footer of a part of its facts, as JSON."""

HOLLOW = b"segray.hollow"
"""The key in the footer of a part that leaves its pixels out."""


def check_schema(found: pa.Schema, name: str) -> None:
    """Raise ShardError unless the columns and types are exactly those of :data:`ROW`.

    Plain types only: an extension type could make a reader unpickle what a stranger wrote.
    """
    if not found.remove_metadata().equals(pa.schema(ROW)):
        raise ShardError(f"{name} is no part of segray's shards: its columns differ.", mend="Run segray ingest again.")


def content_of(metadata: Mapping[bytes, bytes]) -> str:
    """The checksum of a part's rows by its footer; "" where it tells none."""
    try:
        return str(json.loads(metadata[META])["content"])
    except (KeyError, ValueError, TypeError, RecursionError):
        return ""
