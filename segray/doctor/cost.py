"""What ingest will do, and what it will cost: disk, memory, minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from segray.doctor.examine import CaseReport
from segray.shards.manifest import SAMPLES_A_CASE

PART_BYTES = SAMPLES_A_CASE * 4 * 4 // 3 + 1024
"""What a part holds beside pixels: its sample of intensities (float32 in base64) and the facts of its footer."""


CASE_SECONDS = 0.1
"""What a case takes beside reading and compressing: its task, the statistics, the writing of its part."""


@dataclass(frozen=True)
class Machine:
    """What ingest may use.

    Attributes:
        cpus: of the cluster.
        tasks: cases at once: as many as CPUs and memory admit.
        task_bytes: memory that the largest case declares.
    """

    cpus: float
    tasks: int
    task_bytes: int


@dataclass(frozen=True)
class IngestPlan:
    """What ingest will do with the usable cases.

    Attributes:
        cases, slices: in the shards.
        grid: the recipe, {} where the cases share none.
        split: number of cases in train, validation, test.
        shard_bytes: on the disk, from slices that were compressed.
        voxel_bytes: of the images in memory, for comparison.
        task_bytes: memory of the largest task.
        cpus, tasks: CPUs of the cluster, and cases at once.
        minutes: from the seconds that reading and compressing took here, shared by ``tasks``.
    """

    cases: int
    slices: int
    grid: dict[str, Any] = field(default_factory=dict)
    split: dict[str, int] = field(default_factory=dict)
    shard_bytes: int = 0
    voxel_bytes: int = 0
    task_bytes: int = 0
    cpus: float = 0.0
    tasks: int = 1
    minutes: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)


def estimate(
    reports: Sequence[CaseReport], grid: dict[str, Any], split: dict[str, int], machine: Machine
) -> IngestPlan:
    """The plan for the cases of ``reports``, which are those that ingest will take."""
    seconds = [report.cost.read_seconds + report.cost.write_seconds for report in reports]
    wall = max((sum(seconds) + CASE_SECONDS * len(seconds)) / max(machine.tasks, 1), max(seconds, default=0.0))
    return IngestPlan(
        cases=len(reports),
        slices=sum(report.shape[0] for report in reports),
        grid=grid,
        split=split,
        shard_bytes=sum(report.cost.shard_bytes + PART_BYTES for report in reports if report.cost.shard_bytes),
        voxel_bytes=sum(_voxel_bytes(report) for report in reports),
        task_bytes=machine.task_bytes,
        cpus=machine.cpus,
        tasks=machine.tasks,
        minutes=wall / 60,
    )


def _voxel_bytes(report: CaseReport) -> int:
    z, y, x = report.shape
    return z * y * x * max(len(report.intensities), 1) * (4 if report.dtype == "float32" else 2)
