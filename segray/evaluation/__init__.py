"""Metrics over label volumes: one counting pass over a label pair, statistics per structure, tables. Needs no torch."""

from __future__ import annotations

from segray.evaluation.counting import Counts, count_case, count_pair
from segray.evaluation.metrics import METRICS, case_metrics, case_rows
from segray.evaluation.statistics import StructureStatistics, structure_statistics
from segray.evaluation.tables import overall, read_table, summarise, write_table

__all__ = [
    "METRICS",
    "Counts",
    "StructureStatistics",
    "case_metrics",
    "case_rows",
    "count_case",
    "count_pair",
    "overall",
    "read_table",
    "structure_statistics",
    "summarise",
    "write_table",
]
