"""What lies in a run folder and a prediction folder, read for the report; whatever is absent is empty."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from segray import ledger_parts, storage
from segray.case import LabelMap
from segray.errors import SegrayError, UsageError
from segray.evaluation.tables import read_csv_rows, read_table

RUN_FILES = ("config.yaml", "history.json")
"""One of these makes a folder a run folder; a metrics.csv does not, since an evaluation leaves one too."""

PREDICTION_FILES = ("cases.parquet", "metrics.parquet")
"""One of these makes a folder a prediction folder."""


@dataclass(frozen=True)
class RunFiles:
    """A training run.

    Attributes:
        folder: where it lies.
        epochs: rows of ``metrics.csv`` as texts.
        steps: rows of ``steps.csv`` as texts.
        history: ``history.json``.
        config: the text of ``config.yaml``.
        bundle: ``bundle/bundle.json``.
    """

    folder: str
    epochs: list[dict[str, str]]
    steps: list[dict[str, str]]
    history: dict[str, Any]
    config: str
    bundle: dict[str, Any]


@dataclass(frozen=True)
class PredictionFiles:
    """Masks and what was measured on them.

    Attributes:
        folder: where they lie.
        cases: rows of ``cases.parquet``.
        metrics: rows of ``metrics.parquet``; [] before ``segray evaluate``.
        label_map: of ``label_map.json``, or None.
        truth: case id to the JSON text of its CaseSource, of ``evaluation.json``.
        truth_map: how the truth numbers its structures; None: as the masks do.
        sources: the same of all predicted cases, of the ledger.
        unmeasured: case id to the reason why it could not be measured.
        prediction: ``prediction.json``.
    """

    folder: str
    cases: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    label_map: LabelMap | None
    truth: dict[str, str]
    truth_map: LabelMap | None
    sources: dict[str, str]
    unmeasured: dict[str, str]
    prediction: dict[str, Any]

    @property
    def done(self) -> list[dict[str, Any]]:
        """The rows of cases with a mask."""
        return [row for row in self.cases if row.get("status") == "ok"]

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The rows of cases without a mask."""
        return [row for row in self.cases if row.get("status") != "ok"]

    @property
    def structures(self) -> list[str]:
        """Names in the order of the label map, or as the tables have them."""
        if self.label_map is not None:
            return list(self.label_map.names)
        return list(dict.fromkeys(str(row["structure"]) for row in self.metrics))

    def of_structures(self, metric: str) -> dict[str, list[float]]:
        """Structure to ``metric`` in every measured case, in the order of the label map."""
        found: dict[str, list[float]] = {name: [] for name in self.structures}
        for row in self.metrics:
            found.setdefault(str(row["structure"]), []).append(as_number(row.get(metric)))
        return found

    def volumes(self) -> dict[str, list[float]]:
        """Structure to its predicted volume in ml in every case with a mask."""
        return {name: [as_number(row.get(f"volume_ml_{name}")) for row in self.done] for name in self.structures}

    def volume_pairs(self) -> dict[str, list[tuple[float, float]]]:
        """Structure to (true ml, predicted ml) of the cases where one of both is not empty."""
        true, predicted = self.of_structures("truth_ml"), self.of_structures("volume_ml")
        return {
            name: [pair for pair in zip(true[name], predicted[name], strict=True) if pair[0] > 0 or pair[1] > 0]
            for name in true
        }

    def mask(self, case_id: str) -> str | None:
        """The path of a case's mask, or None where it has none."""
        for row in self.done:
            if row["case_id"] == case_id:
                return storage.join(self.folder, str(row.get("mask") or f"masks/{case_id}.nii.gz"))
        return None


def is_run(folder: str) -> bool:
    """True where ``folder`` holds a training run."""
    return _holds(folder, RUN_FILES)


def is_prediction(folder: str) -> bool:
    """True where ``folder`` holds predictions."""
    return _holds(folder, PREDICTION_FILES)


def read_run(folder: str) -> RunFiles:
    """Read a run folder. Raises UsageError where it is none, SegrayError where a file is damaged."""
    if not is_run(folder):
        raise UsageError(f"{folder} is no run folder.", mend="`segray train CONFIG` writes one.")
    if storage.names(folder, "fold_0"):
        raise UsageError(
            f"{folder} is a cross-validation.",
            mend=f"Report one of its folds, {folder}/fold_0, or the predictions of all.",
        )
    return RunFiles(
        folder=folder,
        epochs=_csv(folder, "metrics.csv"),
        steps=_csv(folder, "steps.csv"),
        history=read_json(storage.join(folder, "history.json")),
        config=_text(folder, "config.yaml"),
        bundle=read_json(storage.join(folder, "bundle", "bundle.json")),
    )


def read_prediction(folder: str) -> PredictionFiles:
    """Read a prediction folder. Raises UsageError where it is none, SegrayError where a file is damaged."""
    if not is_prediction(folder):
        raise UsageError(
            f"{folder} is no finished prediction folder.", mend="`segray predict BUNDLE SRC DST` writes one."
        )
    evaluation = read_json(storage.join(folder, "evaluation.json"))
    labels = _text(folder, "label_map.json")
    return PredictionFiles(
        folder=folder,
        cases=_table(folder, "cases.parquet"),
        metrics=_table(folder, "metrics.parquet"),
        label_map=LabelMap.from_json(labels) if labels else None,
        truth={case: _as_text(source) for case, source in _mapping(evaluation.get("truth")).items()},
        truth_map=LabelMap.from_json(json.dumps(told)) if (told := evaluation.get("truth_map")) else None,
        sources=ledger_parts.sources(folder),
        unmeasured={case: str(reason) for case, reason in _mapping(evaluation.get("failed")).items()},
        prediction=read_json(storage.join(folder, ledger_parts.PREDICTION)),
    )


def read_json(uri: str) -> dict[str, Any]:
    """The table of a JSON file; {} where it is absent. Raises SegrayError where it is damaged."""
    if not storage.exists(uri):
        return {}
    try:
        found = json.loads(storage.read_text(uri))
    except ValueError as error:
        raise SegrayError(f"{uri} is no valid JSON ({error}).", mend="Run the command that wrote it again.") from error
    return _mapping(found)


def as_number(value: Any) -> float:
    """A table's number; NaN where it is missing."""
    return math.nan if value is None else float(value)


def _holds(folder: str, files: tuple[str, ...]) -> bool:
    return any(storage.exists(storage.join(folder, name)) for name in files)


def _text(folder: str, name: str) -> str:
    uri = storage.join(folder, name)
    return storage.read_text(uri) if storage.exists(uri) else ""


def _csv(folder: str, name: str) -> list[dict[str, str]]:
    uri = storage.join(folder, name)
    return read_csv_rows(uri) if storage.exists(uri) else []


def _table(folder: str, name: str) -> list[dict[str, Any]]:
    uri = storage.join(folder, name)
    return read_table(uri) if storage.exists(uri) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_text(source: Any) -> str:
    return source if isinstance(source, str) else json.dumps(source)
