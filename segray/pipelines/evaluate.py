"""Masks against true labels, case by case on Ray Data."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from segray import formats, privacy, storage
from segray.case import LabelMap
from segray.config import Config, IngestConfig
from segray.errors import CaseError, UsageError
from segray.evaluation.counting import count_case
from segray.evaluation.metrics import case_rows, pooled_accuracy
from segray.evaluation.patients import patient_means, patient_rows
from segray.evaluation.tables import overall, summarise, write_table
from segray.formats.source import CaseSource, Discovery
from segray.pipelines.case_watch import CaseWatch, Watcher
from segray.pipelines.failures import reason_for
from segray.pipelines.ledger import Ledger
from segray.pipelines.predict import PREDICTION
from segray.pipelines.runtime import ray_session

EVALUATION = "evaluation.json"
CASES_A_TASK = 2
EVALUATE_TASK_CPUS = 0.5
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
        UsageError: no masks there, or none of their cases is in ``truth``.
    """
    folder = storage.absolute(predictions)
    there = storage.exists(storage.join(folder, "label_map.json"))
    config = privacy.with_privacy(config or Config(), folder if there else None)
    pairs, label_map, notes = _pairs(folder, truth, config)
    rows: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    with ray_session(config.ray), CaseWatch(folder, "evaluate", watcher) as watch:
        watch.note(f"evaluate: {len(pairs)} cases against {truth}")
        masks = {case_id: entry.mask for case_id, entry in Ledger(folder).entries.items() if entry.done}
        items = [{"source": source.to_json(), "mask": masks[source.case_id]} for source in pairs]
        dataset = ray.data.from_items(items, override_num_blocks=max(1, len(items) // CASES_A_TASK)).map(
            privacy.discreet(measure_row), fn_args=(folder, label_map.to_json()), num_cpus=EVALUATE_TASK_CPUS
        )
        for done, found in enumerate(dataset.iter_rows(), start=1):
            if found["reason"]:
                failed.append((found["case_id"], found["reason"]))
            rows += json.loads(found["rows"])
            watch(found, done, len(items))
    rows.sort(key=lambda row: row["case_id"])
    return _close(folder, storage.absolute(truth), pairs, notes, rows, sorted(failed))


def _pairs(folder: str, truth: str, config: Config) -> tuple[list[CaseSource], LabelMap, list[str]]:
    if not storage.exists(storage.join(folder, "label_map.json")):
        raise UsageError(f"{folder} is no prediction folder.", mend="Write one by `segray predict`.")
    label_map = LabelMap.from_json(storage.read_text(storage.join(folder, "label_map.json")))
    done = {case_id for case_id, entry in Ledger(folder).entries.items() if entry.done}
    discovery = formats.discover(truth, _as_predicted(config.ingest, label_map))
    labelled = {case.case_id: case for case in discovery.cases if case.has_labels}
    found = done & labelled.keys()
    if not found:
        raise UsageError(
            f"None of the {len(done)} masks in {folder} has a labelled case of the same name in {truth}.",
            mend="Name the folder that holds the true labels.",
        )
    chosen, note = _of_split(found, config.evaluate.split, _bundle_split(folder))
    if discovery.label_map is not None:
        label_map = replace(label_map, ignored=discovery.label_map.ignored or label_map.ignored)
    return [labelled[case_id] for case_id in sorted(chosen)], label_map, [note, *_unnamed(label_map, discovery)]


def _as_predicted(ingest: IngestConfig, label_map: LabelMap) -> IngestConfig:
    """The settings of the truth: whether its masks may overlap is known from the prediction."""
    return ingest.model_copy(update={"overlap": "keep" if label_map.overlapping else "smallest"})


def _unnamed(label_map: LabelMap, truth: Discovery) -> list[str]:
    """What to say of predicted structures that no true label is called."""
    known = label_map.names if truth.label_map is None else truth.label_map.names
    absent = [name for name in label_map.names if name not in known]
    if not absent:
        return []
    return [
        f"The truth names no {', '.join(absent[:5])}, so it counts as absent; where it has another name there "
        f"({', '.join(known[:5])}), give the config of the ingest by --config."
    ]


def _bundle_split(folder: str) -> dict[str, set[str]]:
    facts = json.loads(storage.read_text(storage.join(folder, PREDICTION)))
    return {name: set(cases) for name, cases in facts.get("split", {}).items()}


def _of_split(found: set[str], wanted: str, split: dict[str, set[str]]) -> tuple[set[str], str]:
    """The cases to measure, and a sentence that says which they are."""
    trained = split.get("train", set())
    if wanted == "all":
        return found, f"All {len(found)} cases are measured; training has seen {len(found & trained)} of them."
    if wanted == "held-out":
        if found - trained:
            return found - trained, f"The {len(found - trained)} cases that training has not seen are measured."
        return found, f"All {len(found)} cases were seen in training: this is no measure of quality on new cases."
    chosen = found & split.get(wanted, set())
    if not chosen:
        raise UsageError(f"None of the masks belongs to a case of the {wanted} split.", mend="Use evaluate.split=all.")
    return chosen, f"The {len(chosen)} cases of the {wanted} split are measured."


def measure_row(row: dict[str, Any], folder: str, label_map_json: str) -> dict[str, Any]:
    """The metric rows of one case as JSON, or the reason why there are none."""
    source = CaseSource.from_json(row["source"])
    try:
        rows, reason = measure_case(source, storage.join(folder, row["mask"]), LabelMap.from_json(label_map_json)), ""
    except Exception as error:
        rows, reason = [], reason_for(error)
    return {"case_id": source.case_id, "reason": reason, "rows": json.dumps(rows)}


def measure_case(source: CaseSource, mask_path: str, label_map: LabelMap) -> list[dict[str, Any]]:
    """Metric rows of one case, a row a structure. Raises CaseError where mask and truth do not lie on one grid."""
    mask, geometry = formats.read_mask(mask_path)
    true = formats.read_truth(source, label_map, overlap="keep" if label_map.overlapping else "smallest")
    if true.shape != mask.shape:
        raise CaseError(
            f"The mask has {mask.shape} voxels and the truth {true.shape}.",
            mend="Predict the case again from its image.",
        )
    truth, found = label_map.to_index(true), label_map.to_index(mask)
    unjudged = 0
    if label_map.ignored:
        judged = truth != label_map.ignored_index
        unjudged = judged.size - int(np.count_nonzero(judged))
        truth, found = truth * judged, found * judged
    counts = count_case(truth, found, label_map)
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
    pairs: list[CaseSource],
    notes: list[str],
    rows: list[dict[str, Any]],
    failed: list[tuple[str, str]],
) -> EvaluateSummary:
    summary = summarise(rows)
    whole = overall(rows)
    write_table(folder, "metrics", rows)
    write_table(folder, "summary", summary)
    accuracy = pooled_accuracy(rows)
    patients = {source.case_id: source.patient for source in pairs}
    notes = [*notes, *_measure_patients(folder, rows, patients), *_accuracy_note(accuracy)]
    facts = {
        "truth_folder": truth,
        "truth": {source.case_id: source.to_json() for source in pairs},
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
