"""What becomes of every case of a source, without Ray: the rows that the tasks of an ingest give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segray import formats
from segray.case import LabelMap
from segray.config import Config, IngestConfig
from segray.formats.source import CaseSource
from segray.grid import resolve_grid
from segray.pipelines.headers import read_header_row
from segray.pipelines.ingest import Recipe, ingest_row

LABELS = {"liver": 1, "lesion": 2}


def rows_of(source: Path, target: Path, *, settings: Config | None = None, **ingest: Any) -> dict[str, str]:
    """Case id (or file) to the reason why it is not in the shards; empty where it is."""
    config = IngestConfig(**ingest)
    discovery = formats.discover(str(source), config)
    reasons = dict(discovery.problems)
    label_map = discovery.label_map or LabelMap(LABELS)
    planned: list[tuple[CaseSource, dict[str, Any]]] = []
    for number, case in enumerate(case for case in discovery.cases if case.has_labels):
        row = {"number": number, "source": case.to_json()}
        header = read_header_row(row, with_label_values=discovery.label_map is None)
        if header["reason"]:
            reasons[case.case_id] = header["reason"]
        else:
            planned.append((case, json.loads(header["header"])))
    assert planned, reasons
    sizes = [(tuple(header["size"]), tuple(header["spacing"])) for _, header in planned]
    grid = resolve_grid(config.grid, sizes)  # type: ignore[arg-type]
    recipe = Recipe(dict(label_map.values), grid.to_dict(), config.overlap, 32, "zstd", 1)
    for case, _ in planned:
        row = ingest_row({"source": case.to_json()}, recipe, str(target))
        assert row["written"] is (row["reason"] == "")
        reasons[case.case_id] = row["reason"]
    for reason in reasons.values():
        assert "\n" not in reason
        assert "Unexpected" not in reason
    return reasons
