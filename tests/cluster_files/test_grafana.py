"""cluster/grafana/segray.json: a dashboard whose every metric is one that segray, or Ray, tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segray.pipelines.run_metrics import METRICS, TAGS, prometheus_names

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "cluster" / "grafana" / "segray.json").read_text(encoding="utf-8"))

NAME = re.compile(r"ray_[a-z0-9_]+")
RAYS_LABELS = {"instance", "GpuIndex", "operator", "le"}


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of a panel, with its legend."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"], target["legendFormat"]


ALL = list(expressions())


def rays_own(name: str) -> bool:
    """Whether the installed Ray has a metric of that name in its source."""
    import ray
    from ray.data._internal.execution.interfaces.op_runtime_metrics import OpRuntimeMetrics

    short = name.removeprefix("ray_")
    if short.startswith("data_"):
        return short.removeprefix("data_") in {metric.name for metric in OpRuntimeMetrics.get_metrics()}
    agent = Path(ray.__file__).parent / "dashboard" / "modules" / "reporter" / "reporter_agent.py"
    return f'"{short}": Gauge(' in agent.read_text(encoding="utf-8")


@pytest.mark.parametrize("expression", [expression for expression, _ in ALL])
def test_every_metric_is_one_that_the_code_tells(expression: str) -> None:
    names = NAME.findall(expression)
    assert names
    for name in names:
        known = name in prometheus_names() if name.startswith("ray_segray_") else rays_own(name)
        assert known, name


def test_a_metric_that_nobody_tells_would_be_seen() -> None:
    assert "ray_segray_cases_done" not in prometheus_names()
    assert not rays_own("ray_node_gpu_utilization")
    assert not rays_own("ray_data_num_inqueue_blocks")


def test_every_number_of_segray_is_shown() -> None:
    shown = {name for expression, _ in ALL for name in NAME.findall(expression)}
    for name in METRICS:
        assert any(one.startswith(f"ray_{name}") for one in shown), name


def test_labels_and_parts_are_those_that_the_code_writes() -> None:
    labels = {*TAGS, *RAYS_LABELS, *(tag for metric in METRICS.values() for tag in metric.tags)}
    parts = set(re.findall(r"\w+", METRICS["segray_part_seconds"].meaning))
    for expression, legend in ALL:
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels, legend
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert set(group.split(", ")) <= labels, expression
        for told in re.findall(r'part=~?"([^"]*)"', expression):
            assert set(told.split("|")) <= parts


def test_the_data_source_is_a_variable() -> None:
    variables: dict[str, Any] = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "run", "stage"]
    assert variables["datasource"]["type"] == "datasource"
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            sources = {json.dumps(one["datasource"]) for one in (panel, *panel["targets"])}
            assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    names = [NAME.findall(variables[one]["query"]["query"]) for one in ("run", "stage")]
    assert {one for found in names for one in found} <= prometheus_names()


def test_panels_have_ids_titles_and_do_not_cover_one_another() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
