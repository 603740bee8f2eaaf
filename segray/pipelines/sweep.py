"""The desk of a sweep: draws settings, gives them to trials, keeps what they tell in the study."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from segray import privacy, storage
from segray.config import Config, dump_config
from segray.errors import SegrayError, UsageError
from segray.pipelines.failures import LOW_MEMORY
from segray.pipelines.folds import training_manifest
from segray.pipelines.node_room import check_places, places, shape_of, trainings_at_once, worker_shape
from segray.pipelines.run_folder import CHECKPOINTS
from segray.pipelines.run_metrics import RunMetrics
from segray.pipelines.runtime import READ_TASK_CPUS, WorkerShape, nodes
from segray.pipelines.sweep_folder import SweepFolder
from segray.pipelines.sweep_search import known
from segray.tuning.ranking import best_of, value_of
from segray.tuning.space import Space, with_settings
from segray.tuning.study import SweepStudy

MOST_REFUSED = 50
"""Draws in a row that make no config before the space is given up."""

MOST_ALIKE = 5
"""Trials in a row that fail for one reason outside of their settings before the sweep stops."""

LOOK_S = 5.0
"""Between two counts of the cluster's nodes."""

KEEP_S = 10.0
"""Between two notes of the time that the sweep has taken, of which a killed driver loses so much."""

SHOW_S = 2.0
"""Between two tables of the trials, at least; where a long one takes its time, twenty times that."""


DEATHS = ("died unexpectedly", "actor is dead", "actor died", "is unavailable", "node has died", "preempted")
"""What Ray says of a process that is gone; Ray Tune hands on the words without the kind of the error."""


@dataclass(frozen=True)
class Room:
    """What a trial takes, and how many the cluster holds.

    Attributes:
        shape: of a worker.
        workers: of a trial, at the least.
        most: workers of a trial, where there is room.
        group: whether they are a group of Ray Train, which may also be one worker that others join later.
    """

    shape: WorkerShape
    workers: int = 1
    most: int = 1
    group: bool = False

    @property
    def resources(self) -> dict[str, float]:
        """What Ray Tune reserves; the workers of a group reserve their own."""
        if self.group:
            return {"CPU": 0.001}
        return {"CPU": self.shape.cpus} | ({"GPU": self.shape.gpus} if self.shape.gpus else {})

    def trials(self) -> int:
        """Trials that find room now, at least one."""
        if self.group:
            return trainings_at_once(self.shape, self.workers, self.most)
        return max(1, sum(places(node, self.shape) for node in nodes()))


def room_of(config: Config) -> Room:
    """The room of a trial. A lone worker reads its slices itself, and so may take all CPUs of a node."""
    train = config.train
    if train.most_workers > 1 and not config.tune.bundle:
        return Room(shape_of(train), train.fewest_workers, train.most_workers, group=True)
    shape = worker_shape(1, train.cpus_per_worker, train.gpu)
    if not shape.gpus and not train.cpus_per_worker:
        shape = WorkerShape(max(min(node.cpus for node in nodes()) - READ_TASK_CPUS, 0.1), 0.0)
    check_places(shape, 0, "trial", "train.cpus_per_worker")
    return Room(shape)


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"


def _without_places(reason: str) -> str:
    """A reason without the files and numbers that differ from trial to trial."""
    return " ".join(word for word in reason.split() if not re.search(r"[/\d]", word))


class SweepDesk:
    """Gives out the trials of a sweep, those first that a killed driver left."""

    def __init__(
        self,
        config: Config,
        folder: SweepFolder,
        study: SweepStudy,
        space: Space,
        room: Room,
    ) -> None:
        self._config, self._folder, self._study, self._space = config, folder, study, space
        self._room = room
        self._left = study.unfinished(space.draw)
        if again := study.try_again():
            folder.log(f"{again} trials that failed for no fault of their settings are tried again")
        self._alike, self._reason = 0, ""
        self._began = time.time() - float(folder.history().get("seconds", 0.0))
        self._places, self._looked, self._show_at, self._keep_at = 0, 0.0, 0.0, 0.0
        self._metrics = RunMetrics(folder.run_id, "tune")
        self._running: set[int] = set()
        self._best = best_of(study.records(), study.objectives)
        if self._best is not None:
            self._metrics.set("segray_best", value_of(self._best))

    @property
    def seconds(self) -> float:
        """Wall-clock time of the sweep, over all resumes."""
        return time.time() - self._began

    def next(self, running: int) -> dict[str, Any] | None:
        """As :class:`segray.pipelines.sweep_search.Desk`."""
        told = self._next(running)
        if told is not None:
            self._running.add(int(told["number"]))
            self._metrics.set("segray_trials_running", len(self._running))
        return told

    def _next(self, running: int) -> dict[str, Any] | None:
        if self._alike >= MOST_ALIKE:
            raise SegrayError(
                f"{self._alike} trials in a row failed for one reason, which lies outside of their settings: "
                f"{self._reason}",
                mend=f"See to it, and go on by `segray tune --resume {self._folder.path}`: they are tried again.",
            )
        if running >= self._most():
            return None
        while self._left:
            number, settings = self._left.pop(0)
            if (run := self._folder.trial(number)).exists:
                self._study.note(number, run=run.path)
                return self._told(number)
            if self._begin(number, settings):
                self._study.note(number, **self._begun(number))
                return self._told(number)
        if self._is_over():
            raise StopIteration
        return self._draw()

    def heard(self, number: int, result: Mapping[str, Any]) -> bool:
        """As :class:`segray.pipelines.sweep_search.Desk`."""
        self._show()
        behind = self._catch_up(number, result)
        value = float(result["value"])
        return (known(value) and self._study.report(number, int(result["epoch"]), value)) or behind

    def ended(self, number: int, result: Mapping[str, Any], error: str | None, *, pruned: bool) -> None:
        """As :class:`segray.pipelines.sweep_search.Desk`."""
        study = self._study
        self._catch_up(number, result)
        if result.get("host"):
            study.hold(number, host=str(result["host"]))
        self._count(number, result, error, pruned=pruned)
        outside = bool(result.get("failed")) and self._is_outside(result)
        self._count_alike(str(result["failed"]) if outside else "", error)
        if error is not None:
            self._lost(number, error)
        elif result.get("failed"):
            self._failed(number, result, outside=outside)
        elif pruned:
            study.prune(number, {"epochs": float(result["epoch"])})
            self._close(number, "stopped")
        else:
            if known(float(result["value"])):
                study.report(number, int(result["epoch"]), float(result["value"]), last=True)
            study.finish(number, result["values"], dict(result["other"]))
            self._keep_best(number)
        self._keep_seconds()
        self._show()

    def _keep_seconds(self) -> None:
        if time.monotonic() >= self._keep_at:
            self._folder.write_history(seconds=self.seconds)
            self._keep_at = time.monotonic() + KEEP_S

    def _count(self, number: int, result: Mapping[str, Any], error: str | None, *, pruned: bool) -> None:
        """Tell Prometheus of the end of a trial."""
        state = (
            "lost" if error is not None else "failed" if result.get("failed") else "pruned" if pruned else "finished"
        )
        self._running.discard(number)
        self._metrics.set("segray_trials_running", len(self._running))
        self._metrics.add("segray_trials_ended", tag=state)

    def _keep_best(self, number: int) -> None:
        """Leave the best so far where the best of all will lie: a sweep may be ended at any time."""
        record, objectives = self._study.record(number), self._study.objectives
        best = best_of([record] if self._best is None else [self._best, record], objectives)
        if best is not record:
            return
        self._best = record
        self._metrics.set("segray_best", value_of(record))
        try:
            self._folder.keep_best(record)
        except (SegrayError, OSError) as error:
            self._folder.log(f"the best trial so far, {number}, is not kept apart yet: {error}", "warning")

    def _is_outside(self, result: Mapping[str, Any]) -> bool:
        """Whether a trial failed for a cause that the next one would meet too; this process looks at the shards."""
        if result.get("infeasible"):
            return False
        if result.get("outside"):
            return True
        try:
            training_manifest(self._config)
        except (SegrayError, OSError):
            return True
        return False

    def _count_alike(self, reason: str, error: str | None) -> None:
        """How many trials in a row failed alike outside of their settings; "": this one did not."""
        if error is not None:
            return
        alike = bool(reason) and _without_places(reason) == _without_places(self._reason)
        self._alike = self._alike + 1 if alike else int(bool(reason))
        self._reason = reason

    def _failed(self, number: int, result: Mapping[str, Any], *, outside: bool) -> None:
        reason = str(result["failed"])
        if result.get("infeasible"):
            self._study.out_of_memory(number, reason)
        else:
            self._study.fail(number, reason, outside=outside)
        self._close(number, "failed")

    def close(self) -> None:
        """Tell the last numbers."""
        with suppress(Exception):  # what ended the sweep counts
            self._show(force=True)
        self._metrics.close()

    def idle(self) -> None:
        """As :class:`segray.pipelines.sweep_search.Desk`."""
        self._show()

    def _most(self) -> int:
        wanted = self._config.tune.concurrent
        # Lone trials that find no room wait in Ray's queue; groups of workers would wait for each other.
        if wanted and not self._room.group:
            return wanted
        if time.monotonic() - self._looked > LOOK_S or not self._places:
            self._places, self._looked = self._room.trials(), time.monotonic()
        return min(self._places, wanted) if wanted else self._places

    def _is_over(self) -> bool:
        tune = self._config.tune
        if tune.minutes and self.seconds > 60.0 * tune.minutes:
            return True
        return self._study.begun() >= tune.trials or (tune.sampler == "grid" and not self._study.waiting())

    def _draw(self) -> dict[str, Any]:
        reason = ""
        for _ in range(MOST_REFUSED):
            try:
                number, settings = self._study.ask(self._space.draw, self._begun)
            except UsageError as error:  # the trial has failed, with this as its reason
                reason = error.message
            else:
                if self._begin(number, settings):
                    return self._told(number)
                reason = self._study.reason(number)
            if self._is_over():
                raise StopIteration
        raise SegrayError(f"{MOST_REFUSED} draws in a row made no config: {reason}", mend="Look at the space.")

    def _begin(self, number: int, settings: Mapping[str, Any]) -> bool:
        """Write the config of a trial into its folder; False, and the trial has failed, where there is none."""
        run = self._folder.trial(number)
        try:
            config = with_settings(self._config, settings)
        except UsageError as error:
            self._study.hold(number, run="")
            self._study.fail(number, error.message)
            return False
        train = config.train.model_copy(update={"run": run.path})
        run.begin(dump_config(config.model_copy(update={"train": train})))
        return True

    def _begun(self, number: int) -> dict[str, Any]:
        """What is known of a trial that begins now."""
        return {"run": self._folder.trial(number).path, "began": time.time()}

    def _told(self, number: int) -> dict[str, Any]:
        shape = self._room.shape
        return {
            "number": number,
            "run": self._folder.trial(number).path,
            "threads": shape.threads,
            "gpus": shape.gpus,
        }

    def _lost(self, number: int, error: str) -> None:
        """Ray's words on a trial that died ``train.max_failures`` times and once more."""
        if LOW_MEMORY.search(error):
            self._study.out_of_memory(number, "Ray ended the trial, since the memory of its node ran out.")
        elif any(word in error for word in DEATHS):
            self._study.lose(number, f"The process or node of the trial was lost again and again: {last_line(error)}")
        else:
            self._study.fail(number, privacy.hide(last_line(error)))
        self._close(number, "failed")

    def _catch_up(self, number: int, result: Mapping[str, Any]) -> bool:
        """Report the epochs that a killed driver did not hear of; whether the trial fell behind in one of them."""
        told = [self._study.report(number, int(epoch), float(value)) for epoch, value in result.get("before", ())]
        return any(told)

    def _close(self, number: int, state: str) -> None:
        run = self._folder.trial(number)
        run.write_history(state=state)
        storage.delete_folder(run.file(CHECKPOINTS))

    def _show(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now < self._show_at:
            return
        self._folder.write_trials(self._study.records(), self._study.objectives, parquet=False)
        self._folder.show_progress(force=True, seconds=self.seconds, at=time.time())
        done = time.monotonic()
        self._show_at = done + max(SHOW_S, 20 * (done - now))
