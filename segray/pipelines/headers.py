"""The headers of all cases, read in parallel: shape, spacing and memory before any voxel is touched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from segray import formats
from segray.formats.source import CaseSource
from segray.pipelines.failures import reason_for

CASES_A_TASK = 16
TASKS_AT_MOST = 512

HEADER_TASK_CPUS = 1.0
"""A process a core: a share of a core each would start, and leave idle, several processes of 140 MiB a core."""

REMOTE_THREADS = 8
"""Headers of a task that are read at once where each is a request over the network."""


@dataclass(frozen=True)
class Planned:
    """A case whose header was read.

    Attributes:
        source: the case.
        size: (z, y, x) voxels.
        spacing: (z, y, x) mm.
        voxel_bytes: bytes of the voxels in memory.
        channels: names of the channels; () for one without a name.
        label_values: the values in its label volume, where they were asked for.
    """

    source: CaseSource
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    voxel_bytes: int
    label_values: tuple[int, ...] = ()
    channels: tuple[str, ...] = ()


def read_headers(
    cases: Sequence[CaseSource], *, with_label_values: bool = False
) -> tuple[list[Planned], list[tuple[CaseSource, str]]]:
    """Read the headers of ``cases`` in parallel.

    Returns:
        the planned cases in the order given, and those that cannot be read with the reason in words.
    """
    if not cases:
        return [], []
    step = max(CASES_A_TASK, -(-len(cases) // TASKS_AT_MOST))
    # Ray Data takes tens of microseconds a row, so a row holds the cases of a whole task.
    items = [
        {"first": first, "sources": json.dumps([case.to_json() for case in cases[first : first + step]])}
        for first in range(0, len(cases), step)
    ]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        read_header_block, fn_kwargs={"with_label_values": with_label_values}, num_cpus=HEADER_TASK_CPUS
    )
    planned, broken = [], []
    for block in sorted(dataset.take_all(), key=lambda block: int(block["first"])):
        for row in json.loads(block["rows"]):
            source = cases[int(row["number"])]
            if row["reason"]:
                broken.append((source, str(row["reason"])))
            else:
                planned.append(_planned(source, json.loads(row["header"])))
    return planned, broken


def _planned(source: CaseSource, header: dict[str, Any]) -> Planned:
    z, y, x = header["size"]
    dz, dy, dx = header["spacing"]
    return Planned(
        source,
        (z, y, x),
        (dz, dy, dx),
        int(header["voxel_bytes"]),
        tuple(header["label_values"]),
        tuple(header["channels"]),
    )


def read_header_block(block: dict[str, Any], *, with_label_values: bool) -> dict[str, Any]:
    """The headers of consecutive cases, as a JSON list of the rows of :func:`read_header_row`."""
    sources = enumerate(json.loads(block["sources"]), start=int(block["first"]))
    rows = [{"number": number, "source": source} for number, source in sources]
    remote = not with_label_values and any("://" in row["source"] for row in rows)
    with ThreadPoolExecutor(REMOTE_THREADS if remote else 1) as pool:
        found = list(pool.map(partial(read_header_row, with_label_values=with_label_values), rows))
    return {"first": block["first"], "rows": json.dumps(found)}


def read_header_row(row: dict[str, Any], *, with_label_values: bool) -> dict[str, Any]:
    """One case's header as JSON, or the reason why there is none."""
    source = CaseSource.from_json(row["source"])
    try:
        header = formats.read_header(source)
        values = formats.label_values(source) if with_label_values else []
        found = {
            "size": header.size,
            "spacing": header.spacing,
            "voxel_bytes": header.voxel_bytes,
            "label_values": values,
            "channels": header.channels,
        }
        return {"number": row["number"], "reason": "", "header": json.dumps(found)}
    except Exception as error:
        return {"number": row["number"], "reason": reason_for(error), "header": ""}
