from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="mlflow is not installed")

from mlflow.tracking import MlflowClient

from segray.tracking.mlflow_store import MLflow, dotted
from segray.tracking.tracker import Start

CONFIG = {"seed": 0, "train": {"epochs": 3, "trackers": ["mlflow"]}}


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def _epoch(tracker: MLflow, steps: range) -> None:
    for step in steps:
        tracker.scalars({"train/loss": float(step), "validation/dice/left+right": 0.5}, step)
    tracker.flush()


def test_numbers_and_config_come_back_and_a_resume_counts_no_step_twice(tmp_path: Path) -> None:
    tracker = MLflow(Start(str(tmp_path), CONFIG))
    _epoch(tracker, range(3))
    tracker.scalars({"train/loss": 99.0}, 3)  # of an epoch that is not finished when the process is killed
    resumed = MLflow(Start(str(tmp_path), CONFIG, first_step=2))
    _epoch(resumed, range(2, 5))
    resumed.close(failed=False)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("segray").experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(step, float(step)) for step in range(5)]
    assert run.data.params["train.epochs"] == "3"
    assert run.data.metrics["validation/dice/left_right"] == 0.5
    assert (run.info.status, run.info.run_name) == ("FINISHED", tmp_path.name)


def test_dotted_names_of_a_config() -> None:
    assert dict(dotted(CONFIG)) == {"seed": 0, "train.epochs": 3, "train.trackers": ["mlflow"]}
