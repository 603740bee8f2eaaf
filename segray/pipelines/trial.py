"""A trial of a sweep: a training that tells Ray Tune of every validation, in a process that stays for the next one."""

from __future__ import annotations

import ctypes
import gc
import math
import socket
import threading
import time
import traceback
from typing import Any

import torch
from ray.tune import Trainable

from segray import privacy, storage
from segray.config import Config, load_config
from segray.engine.latency import slice_latency
from segray.errors import SegrayError
from segray.nets.bundle import load_bundle
from segray.nets.start import load_start
from segray.outage import be_patient
from segray.pipelines.failures import reason_for
from segray.pipelines.folds import training_manifest
from segray.pipelines.live import hide_names
from segray.pipelines.log_file import log_place
from segray.pipelines.net_cost import patch_of, training_cost
from segray.pipelines.node_room import NoRoomError
from segray.pipelines.run_folder import BUNDLE, CHECKPOINTS, CONFIG, METRICS, START, RunFolder
from segray.pipelines.seat import LoneSeat
from segray.pipelines.session import Session
from segray.pipelines.train_start import begin_from

POLL_S = 0.5
"""Between two looks at the tables of a training whose workers are elsewhere."""

_MALLOC = {-8: 1, -3: 1 << 30, -1: (1 << 31) - 1}
"""M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, as :data:`segray.pipelines.runtime.KEEP_MEMORY` sets them."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "does not fit into the memory", "the memory of the node")


class TrialActor(Trainable):  # type: ignore[misc]
    """Ray Tune's side of a trial. What it is told: ``run`` (folder with a config.yaml), ``threads``, ``gpus``.

    A step is an epoch, or in a training with several workers what lies between two validations. Its result has
    ``epoch``, ``value`` (the first objective; NaN where the epoch was not validated), ``done`` and, at the end,
    ``values`` (all objectives) and ``other`` (names and numbers for the table, as pairs: Ray Tune flattens what is
    nested), or what :func:`failure_of` says. What would fail again is such a result, and no error: Ray Tune
    begins a trial again after an error. The first result of a trial that goes on has ``before``: epoch and value of
    its earlier validations, which a killed driver may not have heard of.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with the first trial of this process."""
        keep_memory()
        be_patient()
        self._told = config
        self._work: LoneTraining | GroupTraining | EndedTraining | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin with the next trial."""
        self.cleanup()
        self._told = new_config
        return True

    def step(self) -> dict[str, Any]:
        """An epoch."""
        try:
            if self._work is not None:
                return self._work.epoch()
            self._work = _work_of(self._told)
            return {**self._work.epoch(), "before": self._work.before}
        except Exception as error:
            RunFolder(self._told["run"]).log(f"trial failed:\n{traceback.format_exc().rstrip()}", "error")
            failure = failure_of(error)
            failure["outside"] |= not failure["infeasible"] and not _sees_shards(self._told["run"])
            return {"done": True, "epoch": 0, "value": math.nan, **failure}

    def cleanup(self) -> None:
        """Let go of what the trial held."""
        work, self._work = self._work, None
        if work is not None:
            work.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def failure_of(error: BaseException) -> dict[str, Any]:
    """Why a trial failed.

    ``failed``: the reason in words; ``infeasible``: memory was too small for the net or the batch; ``outside``: the
    system could not read or write, or had no room, which lies outside of the settings.
    """
    words = str(error).lower()
    short = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in words for word in OUT_OF_MEMORY)
    told = privacy.hide(reason_for(error))
    if short and not isinstance(error, SegrayError):
        told = "The memory of the device did not suffice for this net and batch."
    return {"failed": told, "infeasible": short, "outside": not short and _is_outside(error)}


def _is_outside(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, (OSError, NoRoomError)):
            return True
        error = error.__cause__
    return False


def _sees_shards(folder: str) -> bool:
    """Whether this node reads config and manifest of a trial now; else it would fail with any other settings too."""
    run = RunFolder(folder)
    try:
        config = load_config(run.file(CONFIG))
        training_manifest(config.model_copy(update={"train": config.train.model_copy(update={"run": run.path})}))
    except (SegrayError, OSError):
        return False
    return True


def _work_of(told: dict[str, Any]) -> LoneTraining | GroupTraining | EndedTraining:
    run = RunFolder(told["run"])
    config = load_config(run.file(CONFIG))
    hide_names(config)
    # The sweep may have been moved since the config was written.
    config = config.model_copy(update={"train": config.train.model_copy(update={"run": run.path})})
    if run.history().get("finished"):
        return EndedTraining(run, config)
    run.write_history(fatal="", finished=False, state="running")
    if config.train.most_workers > 1:
        return GroupTraining(run, config)
    return LoneTraining(run, config, int(told["threads"]), on_gpu=told["gpus"] > 0)


def _leave_start(config: Config, run: RunFolder) -> None:
    if config.train.start_from and not storage.exists(run.file(START)):
        for sentence in begin_from(load_start(config.train.start_from), config, run):
            run.log(sentence)


class LoneTraining:
    """A training with a single worker, in this process."""

    def __init__(self, run: RunFolder, config: Config, threads: int, *, on_gpu: bool) -> None:
        torch.set_num_threads(threads)
        self._run = run
        device = torch.device("cuda" if on_gpu and torch.cuda.is_available() else "cpu")
        seat = LoneSeat(run, device)
        _leave_start(config, run)
        self._config = config
        manifest = training_manifest(config)
        run.write_history(net=training_cost(config, manifest, on_gpu=device.type == "cuda").to_dict())
        self._session = Session(config, seat)
        self._session.restore()
        self.before = _validations(run, config)
        self._rows = self._session.train()
        self._closed = False

    def epoch(self) -> dict[str, Any]:
        """Train one; the result of a step."""
        row = next(self._rows, None)
        ended = row is None or self._session.ended
        found = _result(self._config, row, ended=ended, run=self._run)
        if ended:
            self._close_session()
            finish_run(self._run)
        return found

    def close(self) -> None:
        """End the readers of the session."""
        self._close_session()
        self._rows.close()

    def _close_session(self) -> None:
        if not self._closed:
            self._closed = True
            self._session.close(failed=False)


class GroupTraining:
    """A training with several workers, which Ray Train leads from a thread of this process."""

    def __init__(self, run: RunFolder, config: Config) -> None:
        # The sweep has looked at the nodes.
        ray = config.ray.model_copy(update={"preflight": False})
        config = config.model_copy(update={"ray": ray})
        self._run, self._config, self._told = run, config, len(run.rows(METRICS))
        self.before = _validations(run, config)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._train, daemon=True, name="group")
        self._thread.start()

    def _train(self) -> None:
        from segray.pipelines.train import train

        try:
            _leave_start(self._config, self._run)
            train(self._config, resume=self._run.path)
        except BaseException as error:
            self._error = error

    def epoch(self) -> dict[str, Any]:
        """Wait for the next row of metrics.csv, or for the end; the result of a step."""
        while True:
            alive = self._thread.is_alive()
            rows = self._run.rows(METRICS)
            if not alive and self._error is not None:
                raise self._error
            if len(rows) > self._told or not alive:
                break
            time.sleep(POLL_S)
        self._told = min(self._told + 1, len(rows))
        ended = not alive and self._told == len(rows)
        found = _result(self._config, rows[self._told - 1] if rows else None, ended=ended, run=self._run)
        if ended:
            finish_run(self._run)
        return found

    def close(self) -> None:
        """Nothing here: the workers end with this process, which is not used again."""


class EndedTraining:
    """A training that had come to its end when the driver was killed, which had not heard of it."""

    def __init__(self, run: RunFolder, config: Config) -> None:
        self._run, self._config, self.before = run, config, _validations(run, config)

    def epoch(self) -> dict[str, Any]:
        """The result of the last step."""
        found = _result(self._config, None, ended=True, run=self._run)
        finish_run(self._run)
        return found

    def close(self) -> None:
        """Nothing here."""


def _validations(run: RunFolder, config: Config) -> list[tuple[int, float]]:
    """Epoch and first objective of the rows that a run has already."""
    first = config.tune.objectives[0]
    return [(int(row["epoch"]), float(row[first])) for row in run.rows(METRICS) if row.get(first, "") != ""]


def _result(config: Config, row: dict[str, Any] | None, *, ended: bool, run: RunFolder) -> dict[str, Any]:
    first = config.tune.objectives[0]
    value = (row or {}).get(first, "")
    found: dict[str, Any] = {
        "epoch": int((row or {}).get("epoch", 0)),
        "value": float(value) if value != "" else math.nan,
        "done": ended,
        "host": socket.gethostname(),
    }
    if ended:
        values, other = outcome_of(config, run)
        found |= {"values": values, "other": list(other.items())}
    return found


def outcome_of(config: Config, run: RunFolder) -> tuple[list[float], dict[str, float]]:
    """The objectives of a finished training, at the epoch of its bundle, and other numbers of it.

    Raises:
        SegrayError: no epoch was validated.
    """
    rows, history = run.rows(METRICS), run.history()
    best = history.get("best", {}).get("epoch")
    row = next((row for row in rows if row["epoch"] == str(best)), None)
    if row is None:
        raise SegrayError("The training kept no weights.", mend=f"See {log_place(run.path)}.")
    net = history.get("net", {})
    other = {
        "epochs": float(rows[-1]["epoch"]),
        "best_epoch": float(best),
        "seconds": float(rows[-1]["seconds"]),
        "parameters": net.get("parameters", math.nan) / 1e6,
        "gflops": net.get("flops_per_slice", math.nan) / 1e9,
    }
    if "latency" in config.tune.objectives:
        other["latency"] = _latency(config, run)
    values = [other[name] if name in other else _number(row.get(name, ""), name) for name in config.tune.objectives]
    return values, other


def _number(text: str, name: str) -> float:
    if text == "":
        raise SegrayError(
            f"The objective {name} has no value.", mend="Sweep on shards with validation cases that show it."
        )
    return float(text)


def _latency(config: Config, run: RunFolder) -> float:
    bundle = load_bundle(run.file(BUNDLE))
    manifest = training_manifest(config)
    canvas = patch_of(config, manifest) if config.net.patch else manifest.grid.size
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = bundle.network()
    return slice_latency(network, network.in_channels, canvas, device, config.predict.precision)


def finish_run(run: RunFolder) -> None:
    """Mark a training as finished; its checkpoints, which nobody goes on from, are removed."""
    run.write_history(finished=True, state="finished")
    storage.delete_folder(run.file(CHECKPOINTS))


def keep_memory() -> None:
    """Let glibc keep what a step frees for the next one, in this process from now on."""
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    for option, value in _MALLOC.items() if mallopt else ():
        mallopt(option, value)
