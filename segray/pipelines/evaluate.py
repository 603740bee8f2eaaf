"""Masks against true labels, case by case as Ray tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segray import formats, privacy, storage
from segray.case import LabelMap
from segray.config import Config
from segray.evaluation.counting import count_case
from segray.evaluation.metrics import case_rows, pooled_accuracy
from segray.evaluation.patients import patient_means, patient_rows
from segray.evaluation.tables import overall, summarise, write_table
from segray.formats.source import CaseSource
from segray.pipelines.case_tasks import run_on_cases
from segray.pipelines.case_watch import CaseWatch, Watcher
from segray.pipelines.cluster_doctor import preflight_notes
from segray.pipelines.failures import reason_for
from segray.pipelines.headers import Planned, read_headers
from segray.pipelines.ledger import Ledger
from segray.pipelines.runtime import ray_session
from segray.pipelines.truth_cases import TruthCases, truth_cases

EVALUATION = "evaluation.json"
EVALUATE_TASK_CPUS = 0.5
VOXEL_BYTES = 12
MIB = 1 << 20
NAMED_ACCURACIES = 3


@dataclass(frozen=True)
class EvaluateSummary:
    """What an evaluation found.

    Attributes:
        folder: the prediction folder, where the tables lie.
        cases: cases measured.
        notes: what was chosen and why, a sentence each.
        structures: a row a structure: structure, dice_mean, dice_median, dice_min, cases.
        mean_dice: mean over structures of their mean over cases.
        failed: (case id, reason) of cases that could not be measured.
    """

    folder: str
    cases: int
    notes: list[str]
    structures: list[dict[str, Any]]
    mean_dice: float
    failed: list[tuple[str, str]]


def evaluate(
    predictions: str, truth: str, config: Config | None = None, *, watcher: Watcher | None = None
) -> EvaluateSummary:
    """Measure every mask of a prediction folder against the labels of the same case in ``truth``.

    Writes ``metrics.csv/parquet`` (a row a case and structure), ``summary.csv/parquet``, ``evaluation.json`` and, where
    patients have several cases, ``patients.csv/parquet``.

    Raises:
        UsageError: no masks there, none of their cases is in ``truth``, it names none of their structures, or the CSV
            of ``ingest.annotated`` is wrong.
    """
    folder = storage.absolute(predictions)
    there = storage.exists(storage.join(folder, "label_map.json"))
    config = privacy.with_privacy(config or Config(), folder if there else None)
    known = truth_cases(folder, truth, config)
    rows: list[dict[str, Any]] = []
    failed = list(known.failed)
    with ray_session(config.ray), CaseWatch(folder, "evaluate", watcher) as watch:
        for sentence in preflight_notes(config, folder):
            watch.say(sentence)
        watch.note(f"evaluate: {len(known.cases)} cases against {truth}")
        for done, found in enumerate(_measured(folder, known), start=1):
            if found["reason"]:
                failed.append((found["case_id"], found["reason"]))
            rows += json.loads(found["rows"])
            watch(found, done, len(known.cases))
    rows.sort(key=lambda row: row["case_id"])
    return _close(folder, storage.absolute(truth), known, rows, sorted(failed))


def _measured(folder: str, known: TruthCases) -> Iterator[dict[str, Any]]:
    """The row of every case as :func:`measure_row` has it, as they are measured."""
    planned, broken = read_headers(known.cases)
    for source, reason in broken:
        yield _unmeasured(source, reason)
    masks = {case_id: entry.mask for case_id, entry in Ledger(folder).entries.items() if entry.done}
    shared = (folder, masks, known.label_map.to_json(), known.truth_map.to_json(), known.unannotated)
    for done in run_on_cases(measure_row, planned, shared, bytes_of=bytes_needed, cpus=EVALUATE_TASK_CPUS):
        yield done.result or _unmeasured(done.item.source, done.reason)


def _unmeasured(source: CaseSource, reason: str) -> dict[str, Any]:
    return {"case_id": source.case_id, "reason": reason, "rows": "[]"}


def bytes_needed(case: Planned) -> int:
    """Memory to measure a case: files, mask, truth, and the channel indices of both."""
    return math.prod(case.size) * VOXEL_BYTES + 256 * MIB


def measure_row(
    row: dict[str, Any],
    folder: str,
    masks: Mapping[str, str],
    label_map_json: str,
    truth_map_json: str,
    unannotated: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """The metric rows of one case as JSON, of what was looked for in it, or the reason why there are none."""
    source = CaseSource.from_json(row["source"])
    maps = LabelMap.from_json(label_map_json), LabelMap.from_json(truth_map_json)
    try:
        rows = measure_case(source, storage.join(folder, masks[source.case_id]), *maps)
    except Exception as error:
        return _unmeasured(source, reason_for(error))
    unknown = unannotated.get(source.case_id, ())
    kept = [row for row in rows if row["structure"] not in unknown]
    return {"case_id": source.case_id, "reason": "", "rows": json.dumps(kept)}


def measure_case(
    source: CaseSource, mask_path: str, label_map: LabelMap, truth_map: LabelMap | None = None
) -> list[dict[str, Any]]:
    """Metric rows of one case, a row a structure.

    Args:
        source: the case with its true labels.
        mask_path: its mask.
        label_map: of the mask.
        truth_map: of the truth, whose structures are those of the mask by their names; None: that of the mask.

    Raises:
        CaseError: mask and truth do not lie on the grid of the image, or hold what their label maps do not name.
    """
    truth_map = truth_map or label_map
    geometry = formats.read_header(source).geometry
    mask, _ = formats.read_mask(mask_path, geometry, label_map)
    overlap = "keep" if label_map.overlapping else "smallest"
    truth = truth_map.to_index(formats.read_truth(source, truth_map, overlap=overlap, geometry=geometry))
    found = label_map.to_index(mask)
    unjudged = 0
    if truth_map.ignored:
        judged = truth != truth_map.ignored_index
        unjudged = judged.size - int(np.count_nonzero(judged))
        found = found * judged
    counts = count_case(label_map.from_map(truth_map, truth), found, label_map)
    return case_rows(source.case_id, counts, label_map, geometry.voxel_ml, mask.size - unjudged)


def _measure_patients(folder: str, rows: list[dict[str, Any]], patients: dict[str, str]) -> list[str]:
    """Write ``patients.csv/parquet`` where a patient has several cases, and say what they hold."""
    pooled = patient_rows(rows, patients)
    if not pooled:
        return []
    write_table(folder, "patients", pooled)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in patient_means(pooled).items())
    count = len({row["patient"] for row in pooled})
    return [f"Voxels of a patient's cases counted together, mean Dice over {count} patients: {shown} (patients.csv)."]


def _accuracy_note(found: dict[str, dict[str, float]]) -> list[str]:
    """Accuracy beside what it is without any mask, for as many structures as a line holds."""
    if not 0 < len(found) <= NAMED_ACCURACIES:
        return []
    shown = ", ".join(
        f"{name} {values['accuracy']:.4f} (empty masks: {values['accuracy_of_empty_masks']:.4f})"
        for name, values in found.items()
    )
    return [f"Voxel accuracy over all cases, which counts background: {shown}."]


def _close(
    folder: str,
    truth: str,
    known: TruthCases,
    rows: list[dict[str, Any]],
    failed: list[tuple[str, str]],
) -> EvaluateSummary:
    summary = summarise(rows)
    whole = overall(rows)
    write_table(folder, "metrics", rows)
    write_table(folder, "summary", summary)
    accuracy = pooled_accuracy(rows)
    patients = {source.case_id: source.patient for source in known.cases}
    notes = [*known.notes, *_measure_patients(folder, rows, patients), *_accuracy_note(accuracy)]
    facts = {
        "truth_folder": truth,
        "truth": {source.case_id: source.to_json() for source in known.cases},
        "truth_map": json.loads(known.truth_map.to_json()),
        "overall": {key: None if value != value else value for key, value in whole.items()},
        "accuracy": accuracy,
        "failed": dict(failed),
        "notes": notes,
    }
    storage.write_text(storage.join(folder, EVALUATION), json.dumps(facts, indent=1))
    structures = [
        {
            "structure": row["structure"],
            "cases": row["n"],
            **{f"dice_{key}": row[key] for key in ("mean", "median", "min")},
        }
        for row in summary
        if row["metric"] == "dice"
    ]
    return EvaluateSummary(folder, whole["cases"], notes, structures, whole["mean_dice"], failed)
