"""MLflow: a run in a database beside the run's files, or on the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from segray.tracking.tracker import Scalars, Start, Tracker

EXPERIMENT = "segray"
DATABASE = "mlflow.db"
MOST_METRICS = 1000
MOST_PARAMS = 100
"""What MLflow takes in one call of log_batch."""

MOST_LETTERS = 500
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""With MLflow's own, 120 s and 7, all workers of a training wait a quarter of an hour for a server that is away."""

WITNESS = "train/loss"
"""The number that every step has: its last step says how far the store came."""


class MLflow(Tracker):
    """Scalars and the config; steps wait until the end of their epoch, one call for all of them."""

    def __init__(self, start: Start) -> None:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{start.local_folder()}/{DATABASE}"
        self._client = MlflowClient(tracking_uri=uri)
        self._run, known = start.kept_id("mlflow", lambda: self._begin(start))
        self._waiting: list[Any] = []
        self._after = self._last_step() if known else -1
        if known:
            self._client.update_run(self._run, status="RUNNING")

    def _begin(self, start: Start) -> str:
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        name = os.path.basename(start.folder)
        made: str = self._client.create_run(experiment, run_name=name).info.run_id
        params = [Param(_clean(key), str(value)[:MOST_LETTERS]) for key, value in dotted(start.config)]
        for at in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(made, params=params[at : at + MOST_PARAMS])
        return made

    def _last_step(self) -> int:
        return max((metric.step for metric in self._client.get_metric_history(self._run, WITNESS)), default=-1)

    def scalars(self, values: Scalars, step: int) -> None:
        """Keep named numbers for :meth:`flush`; those of steps that the store has already are dropped."""
        if step > self._after:
            now = int(1000 * time.time())
            self._waiting += [self._metric(_clean(name), value, now, step) for name, value in values.items()]

    def flush(self) -> None:
        """Write what waits."""
        for at in range(0, len(self._waiting), MOST_METRICS):
            self._client.log_batch(self._run, metrics=self._waiting[at : at + MOST_METRICS])
        self._waiting = []

    def close(self, *, failed: bool) -> None:
        """Say that the run has ended."""
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


def dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries with their dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _clean(name: str) -> str:
    """``name`` with what MLflow refuses in names made an underscore."""
    return re.sub(r"[^\w\-./ ]", "_", name)
