"""Numbers of a run for Prometheus, through Ray's own endpoint on every node; they can stop nothing.

Ray writes ``ray_`` before each name, and ``_total`` behind that of a counter. It adds labels for node and process; of
segray's own there are ``run`` and ``stage``, and never the id of a case: Prometheus keeps a series for every value.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from segray import privacy

Kind = Literal["counter", "gauge", "histogram"]

FLUSH_S = 1.0
"""Between two looks at what has been counted: so often at most a process tells Ray."""

REFRESH_S = 5.0
"""Ray 2.60 forgets a gauge that was not set again for two of its report intervals, 20 s."""

MOST_OBSERVED = 50
"""Values of a histogram that are told at a time; of more every second, third, ... one is."""

CASE_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]

TAGS = ("run", "stage")


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        kind: a counter adds up, a gauge is the last value, a histogram counts values in buckets.
        meaning: in words, with its unit.
        tags: labels besides ``run`` and ``stage``.
    """

    kind: Kind
    meaning: str
    tags: tuple[str, ...] = ()

    def make(self, name: str) -> Counter | Gauge | Histogram:
        """Ray's object for it."""
        keys = (*TAGS, *self.tags)
        if self.kind == "histogram":
            return Histogram(name, self.meaning, CASE_SECONDS, keys)
        return (Counter if self.kind == "counter" else Gauge)(name, self.meaning, keys)


METRICS: Mapping[str, Metric] = {
    "segray_cases_done": Metric("counter", "Cases that were finished (ingest, predict, evaluate)."),
    "segray_cases_failed": Metric("counter", "Cases that became a row with a reason (ingest, predict, evaluate)."),
    "segray_cases_waiting": Metric("gauge", "Cases of the run that are not finished yet."),
    "segray_case_seconds": Metric("histogram", "Seconds of a case over all of its parts."),
    "segray_slices": Metric("counter", "Slices that were ingested, trained on or predicted."),
    "segray_part_seconds": Metric(
        "counter",
        "Seconds of work: ingest: case; train: step, wait (for data), validate; predict: read, place, forward, labels, "
        "postprocess, write.",
        ("part",),
    ),
    "segray_batches_ready": Metric("gauge", "Decoded batches that wait for the training step of a worker."),
    "segray_epoch": Metric("gauge", "The epoch under way."),
    "segray_loss": Metric("gauge", "Loss of the latest step of the first worker."),
    "segray_dice": Metric("gauge", "Mean validation Dice of the latest validation."),
    "segray_steps_skipped": Metric("counter", "Steps whose loss was not finite."),
    "segray_trials_running": Metric("gauge", "Trials of a sweep that run."),
    "segray_trials_ended": Metric("counter", "Trials of a sweep that have ended.", ("state",)),
    "segray_best": Metric("gauge", "The best first objective of a sweep so far."),
}
"""Every number that segray tells, by its name without Ray's prefix and suffix."""


def prometheus_names() -> set[str]:
    """The names under which Prometheus knows the metrics."""
    found = set()
    for name, metric in METRICS.items():
        endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}[metric.kind]
        found |= {f"ray_{name}{ending}" for ending in endings}
    return found


class RunMetrics:
    """What one process tells of a run. It costs an addition where it is called, and Ray a call a second and number.

    Args:
        run: the id of the run.
        stage: ingest, train, tune or predict.
    """

    def __init__(self, run: str, stage: str) -> None:
        self._tags = {"run": privacy.hide(run), "stage": stage}
        self._sums: dict[tuple[str, str], float] = {}
        self._last: dict[str, float] = {}
        self._values: dict[str, list[float]] = {}
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}
        self._works = True
        self._told = _Teller(self)

    def add(self, name: str, value: float = 1.0, tag: str = "") -> None:
        """Add to a counter; ``tag`` is the value of its own label, where it has one."""
        if value > 0:
            with self._lock:
                self._sums[name, tag] = self._sums.get((name, tag), 0.0) + value

    def set(self, name: str, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._last[name] = value

    def observe(self, name: str, value: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            self._values.setdefault(name, []).append(value)

    def flush(self, *, gauges: bool = True) -> None:
        """Tell Ray what has changed; where Ray does not run or refuses, nothing, and after an error nothing more."""
        with self._lock:
            sums, values = self._sums, self._values
            last = dict(self._last) if gauges else {}
            if not self._works or not ray.is_initialized():
                return
            self._sums, self._values = {}, {}
        try:
            for (name, tag), value in sums.items():
                self._metric(name).inc(value, tags=self._tags | dict.fromkeys(METRICS[name].tags, tag))
            for name, value in last.items():
                self._metric(name).set(value, tags=self._tags)
            for name, seen in values.items():
                for value in seen[:: -(-len(seen) // MOST_OBSERVED)]:
                    self._metric(name).observe(value, tags=self._tags)
        except Exception:  # whatever is wrong with a metric, the run goes on without
            self._works = False

    def _metric(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = METRICS[name].make(name)
        return self._made[name]

    def close(self) -> None:
        """Tell the last numbers, and no more; gauges vanish from Ray's endpoint some seconds later."""
        self._told.stop()
        self.flush()
        with self._lock:
            self._last = {}


class _Teller:
    """A thread that flushes the numbers of a run about once a second, until they are closed or forgotten."""

    def __init__(self, metrics: RunMetrics) -> None:
        self._ended = threading.Event()
        known = weakref.ref(metrics)
        threading.Thread(target=_tell, args=(known, self._ended), daemon=True, name="metrics").start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()


def _tell(known: weakref.ref[RunMetrics], ended: threading.Event) -> None:
    turn, often = 0, round(REFRESH_S / FLUSH_S)
    while not ended.wait(FLUSH_S):
        metrics = known()
        if metrics is None:
            return
        metrics.flush(gauges=turn % often == 0)
        turn += 1
        del metrics
