"""Numbers for Prometheus: their names, and that they harm nothing (what they say: test_watched_run.py)."""

from __future__ import annotations

import gc
import re
import threading
import time

import pytest

from segray.pipelines.run_metrics import METRICS, MOST_OBSERVED, RunMetrics, prometheus_names


def test_names_are_those_of_prometheus_and_no_label_is_a_case() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"segray_[a-z_]+", name)
        assert not name.endswith(("_total", "_bucket", "_count", "_sum")), "the endings are Ray's"
        assert metric.meaning.endswith(".")
        assert not {"case", "case_id", "patient"} & set(metric.tags)
    assert {"ray_segray_cases_done_total", "ray_segray_loss", "ray_segray_case_seconds_bucket"} <= prometheus_names()


def test_without_ray_nothing_is_told_and_nothing_lost() -> None:
    metrics = RunMetrics("one", "ingest")
    metrics.add("segray_cases_done", 2)
    metrics.add("segray_cases_done")
    metrics.add("segray_cases_failed", 0)
    metrics.flush()
    assert metrics._sums == {("segray_cases_done", ""): 3.0}
    metrics.close()


def tellers(count: int) -> bool:
    """Whether there are so many threads that tell metrics, within some seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        gc.collect()
        if sum(thread.name == "metrics" for thread in threading.enumerate()) == count:
            return True
        time.sleep(0.1)
    return False


def test_the_thread_ends_with_the_numbers() -> None:
    assert tellers(0)
    closed, forgotten = RunMetrics("one", "train"), RunMetrics("one", "train")
    assert tellers(2)
    closed.close()
    del forgotten
    assert tellers(0)


@pytest.mark.ray
@pytest.mark.usefixtures("embedded_ray")
def test_a_metric_that_cannot_be_sent_stops_nothing() -> None:
    metrics = RunMetrics("one", "train")
    for _ in range(4 * MOST_OBSERVED):
        metrics.observe("segray_case_seconds", 0.5)
    metrics.add("segray_part_seconds", 1.0, "step")
    metrics.set("segray_loss", 0.5)
    metrics.flush()
    assert metrics._sums == {}
    metrics.add("no_such_metric")
    metrics.flush()
    metrics.add("segray_cases_done")
    metrics.flush()
    metrics.close()
