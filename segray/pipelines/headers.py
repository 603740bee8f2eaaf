"""The headers of all cases, read in parallel: shape, spacing and memory before any voxel is touched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from segray import formats
from segray.formats.source import CaseSource
from segray.pipelines.case_tasks import run_tasks
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
    step = max(CASES_A_TASK, -(-len(cases) // TASKS_AT_MOST))
    rows = _read(cases, range(len(cases)), step, with_label_values)
    # What killed the worker is one case of its block: each gets a task of its own.
    rows |= _read(cases, [number for number, row in rows.items() if "header" not in row], 1, with_label_values)
    planned, broken = [], []
    for number, case in enumerate(cases):
        if rows[number]["reason"]:
            broken.append((case, str(rows[number]["reason"])))
        else:
            planned.append(_planned(case, json.loads(rows[number]["header"])))
    return planned, broken


def _read(
    cases: Sequence[CaseSource], numbers: Sequence[int], step: int, with_label_values: bool
) -> dict[int, dict[str, Any]]:
    """The rows of :func:`read_header_row` by number; only a reason for the cases of a lost task."""
    blocks = [numbers[first : first + step] for first in range(0, len(numbers), step)]
    found: dict[int, dict[str, Any]] = {}
    for done in run_tasks(
        read_header_block,
        blocks,
        (with_label_values,),
        argument=lambda block: [cases[number].to_json() for number in block],
        cpus=HEADER_TASK_CPUS,
    ):
        rows = done.result or [{"reason": done.reason}] * len(done.item)
        found |= dict(zip(done.item, rows, strict=True))
    return found


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


def read_header_block(sources: Sequence[str], with_label_values: bool) -> list[dict[str, Any]]:
    """The rows of :func:`read_header_row` for several cases."""
    rows = [{"number": number, "source": source} for number, source in enumerate(sources)]
    remote = not with_label_values and any("://" in source for source in sources)
    with ThreadPoolExecutor(REMOTE_THREADS if remote else 1) as pool:
        return list(pool.map(partial(read_header_row, with_label_values=with_label_values), rows))


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
