"""The folder of a sweep: its config, space, table of trials, and the best of them."""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from segray import outage, storage
from segray.config import Config, dump_config, load_config
from segray.errors import UsageError
from segray.evaluation.tables import column_names, csv_text, write_table
from segray.pipelines.run_folder import BUNDLE, CONFIG, RunFolder
from segray.tuning.pareto import pareto_front
from segray.tuning.records import Objective, TrialRecord

SPACE = "space.py"
TABLE = "trials"
BEST = "best.yaml"
LOCK = ".lock"


class SweepFolder(RunFolder):
    """A run folder whose runs are trials."""

    stage = "tune"

    def trial(self, number: int) -> RunFolder:
        """The run folder of a trial."""
        return RunFolder(self.file(storage.join("trials", f"{number:05d}")))

    def refuse_second(self) -> None:
        """Raise UsageError where the folder holds a sweep or a run already."""
        if self.exists:
            raise UsageError(
                f"{self.path} holds a sweep or a run already.",
                mend=f"Go on with it by `segray tune --resume {self.path}`, or name another folder by --run.",
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the folder for this process. Raises UsageError while another one works on it."""
        if storage.is_remote(self.path):
            yield
            return
        os.makedirs(self.path, exist_ok=True)
        with open(self.file(LOCK), "ab") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError(
                    f"Another segray tune works on {self.path}.", mend="Watch it by `segray watch`, or stop it first."
                ) from error
            yield

    def write_trials(
        self, records: Sequence[TrialRecord], objectives: Sequence[Objective], *, parquet: bool = True
    ) -> None:
        """``trials.csv`` and ``trials.parquet``, a row a trial."""
        rows = table_rows(records, objectives)
        if rows and parquet:
            write_table(self.path, TABLE, rows)
        elif rows:
            text = csv_text(rows, column_names(rows))
            with outage.missed():
                storage.write_bytes(self.file(f"{TABLE}.csv"), text.encode("utf-8"), durable=False)

    def keep_best(self, best: TrialRecord) -> None:
        """``best.yaml``, which trains (or predicts) as it is, and the best trial's bundle as the sweep's own."""
        source = self.trial(best.number)
        config = trial_config_of(source)
        if not config.tune.bundle:
            # Whole, since somebody may predict with the best so far.
            with storage.whole_folder(self.file(BUNDLE)) as folder:
                for name in ("bundle.json", "weights.safetensors"):
                    data = storage.read_bytes(storage.join(source.file(BUNDLE), name))
                    storage.write_bytes(storage.join(folder, name), data)
        train = config.train.model_copy(update={"run": self.file("best_run")})
        storage.write_text(self.file(BEST), dump_config(config.model_copy(update={"train": train})))


def trial_config_of(run: RunFolder) -> Config:
    """The config of a trial."""
    return load_config(run.file(CONFIG))


def table_rows(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """The rows of ``trials.csv``: state, objectives, cost, place, reason, and a column a setting.

    With several objectives ``front`` is true of the trials that no other beats in all of them.
    """
    several = len(objectives) > 1
    front = {one.number for one in pareto_front(records, objectives)} if several else set()
    names = sorted({name for record in records for name in record.settings})
    other = sorted({name for record in records for name in record.other} - {one.name for one in objectives})
    rows = []
    for one in records:
        values = one.values or (math.nan,) * len(objectives)
        minutes = (one.ended - one.began) / 60 if one.ended and one.began else math.nan
        rows.append(
            {"trial": one.number, "state": one.state}
            | {objective.name: float(value) for objective, value in zip(objectives, values, strict=True)}
            | ({"front": one.number in front} if several else {})
            | {"last_value": one.curve[-1][1] if one.curve else math.nan}
            | {name: float(one.other.get(name, math.nan)) for name in other}
            | {"minutes": round(minutes, 3), "out_of_memory": one.infeasible, "host": one.host, "reason": one.reason}
            | {name: _shown(one.settings[name]) if name in one.settings else "" for name in names}
            | {"run": one.run}
        )
    return rows


def _shown(value: Any) -> str:
    # A column holds one type: settings may be numbers in one trial and lists in another.
    return f"{value:.6g}" if isinstance(value, float) else str(value)
