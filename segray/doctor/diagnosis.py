"""All that the doctor found out about a set, as it is printed, drawn and written to ``doctor.json``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segray.doctor.cost import IngestPlan
from segray.doctor.examine import CaseReport
from segray.doctor.findings import Finding, counts, exit_code, grouped
from segray.doctor.intensity import merged
from segray.doctor.whole import StructureRow

VERSION = 1
"""Of the layout of ``doctor.json``."""


@dataclass(frozen=True)
class Diagnosis:
    """What ``segray doctor`` returns.

    Attributes:
        source: the folder.
        format: its layout.
        notes: what was understood of it.
        findings: the worst first.
        reports: the facts of every case, in order.
        structures: a row a structure.
        split: usable case to train, validation or test.
        plan: what ingest will do.
        seconds: how long the examination took.
        files: name to path of what was written.
    """

    source: str
    format: str
    notes: Sequence[str]
    findings: Sequence[Finding]
    reports: Sequence[CaseReport]
    structures: Sequence[StructureRow]
    split: Mapping[str, str]
    plan: IngestPlan
    seconds: float
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """1 where ingest would lose data, else 0."""
        return exit_code(self.findings)

    @property
    def readable(self) -> list[CaseReport]:
        """The cases whose image could be read."""
        return [report for report in self.reports if not report.problem]

    def histograms(self) -> dict[str, dict[int, int]]:
        """The voxels of all cases whose values mean the same, such as HU: bin to count (first channel)."""
        kinds = sorted({report.meaning for report in self.readable})
        return {
            kind: merged(report.intensities[0].bins for report in self.readable if report.meaning == kind)
            for kind in kinds
        }

    def tallies(self) -> dict[str, dict[str, int]]:
        """How many cases have which spacing (rounded), orientation, size, voxel type and kind of values."""
        columns = {
            "spacing (z, y, x) mm": [" x ".join(f"{one:.2f}" for one in report.spacing) for report in self.readable],
            "size (z, y, x)": ["x".join(str(one) for one in report.shape) for report in self.readable],
            "orientation": [report.orientation for report in self.readable],
            "values": [report.meaning for report in self.readable],
            "reader": [report.kind for report in self.readable],
        }
        return {name: dict(Counter(found).most_common()) for name, found in columns.items()}

    def to_json(self) -> str:
        """The text of ``doctor.json``; numbers that are missing are null."""
        cases = [_without_bins(report.to_dict()) for report in self.reports]
        table = {
            "version": VERSION,
            "source": self.source,
            "format": self.format,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 1),
            "counts": {"cases": len(self.reports), **counts(self.findings)},
            "notes": list(self.notes),
            "findings": [one.to_dict() for one in self.findings],
            "summary": [
                {"grade": one.grade, "code": one.code, "cases": len(one.cases), "sentence": one.sentences[0]}
                for one in grouped(self.findings)
            ],
            "plan": self.plan.to_dict(),
            "split": dict(self.split),
            "structures": [row.to_dict() for row in self.structures],
            "tallies": self.tallies(),
            "histograms": {
                kind: {str(number): count for number, count in bins.items()} for kind, bins in self.histograms().items()
            },
            "cases": cases,
        }
        return json.dumps(table, indent=1, allow_nan=False)


def _without_bins(table: dict[str, Any]) -> dict[str, Any]:
    """A case for the file; the histogram of all cases stands there once."""
    for one in table["intensities"]:
        del one["bins"]
    return table
