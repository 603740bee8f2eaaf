"""A whole way with hidden names, and what it leaves to be watched: terminal, logs, Ray's logs, Prometheus' page."""

from __future__ import annotations

import csv
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segray import privacy
from segray.cli import app
from segray.phantoms import make_phantoms
from segray.pipelines.log_file import JSON_LOG, LOG
from segray.pipelines.run_metrics import prometheus_names
from segray.pseudonyms import OWN_KEY

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(900)]

CONFIG = """
net: {features: [4, 8]}
train: {epochs: 2, batch_size: 16, cpus_per_worker: 1, max_failures: 0}
predict: {cpus_per_predictor: 1, backend: torch, review: 2}
ingest: {split: {validation: 0.3}, grid: {spacing: [6, 6]}}
privacy: {hash_ids: true}
"""

NAME = "Mueller"
WANTED = ("ray_segray_dice", "ray_segray_cases_done_total{", 'stage="predict"', 'part="write"')
DAMAGE = "damage"


@dataclass(frozen=True)
class Watched:
    """What the commands left."""

    folder: Path
    commands: list[dict[str, Any]]
    logs: Path
    metrics: str

    def said(self, command: str) -> str:
        """What the commands of a name said."""
        return "\n".join(str(one["said"]) for one in self.commands if one["words"][0] == command)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    folder = tmp_path_factory.mktemp("watched")
    scans, shards, run, out = (str(folder / name) for name in ("scans", "shards", "run", "out"))
    make_phantoms(scans, cases=5, seed=3)
    for number, case in enumerate(sorted(Path(scans).iterdir())):
        case.rename(case.with_name(f"{NAME}_Hans_{number}"))
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    commands = [
        ["ingest", scans, shards, "--config", str(config)],
        ["train", str(config), "--shards", shards, "--run", run],
        ["predict", run, scans, out, "--config", str(config)],
        ["evaluate", out, scans, "--config", str(config)],
        [DAMAGE, shards],
        ["train", str(config), "--shards", shards, "--run", f"{run}-2", "--set", "sampling.mode=all"],
    ]
    (folder / "commands.json").write_text(json.dumps(commands))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    program = str(Path(__file__).with_name("watched_run.py"))
    done = subprocess.run(
        [sys.executable, program, str(folder), str(port), ",".join(WANTED)],
        check=False,
        capture_output=True,
        text=True,
        timeout=800,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    left = json.loads((folder / "done.json").read_text())
    return Watched(folder, left["commands"], Path(left["logs"]), (folder / "metrics.txt").read_text())


def test_the_commands_end_as_ever(watched: Watched) -> None:
    assert [one["code"] for one in watched.commands] == [3, 0, 3, 0, 1], watched.commands


def test_the_terminal_names_nobody_and_says_what_it_did(watched: Watched) -> None:
    for one in watched.commands:
        assert NAME not in str(one["said"]), one["said"]
    assert re.search(r"case-[0-9a-f]{16}: .*/scans/case-[0-9a-f]{16}/ct\.nii\.gz", watched.said("ingest"))
    assert re.search(r"The training stopped: .*part-case-[0-9a-f]{16}\.parquet", watched.said("train"))


@pytest.mark.parametrize("folder", ["shards", "run", "run-2", "out"])
def test_the_logs_name_nobody(watched: Watched, folder: str) -> None:
    for name in (LOG, JSON_LOG):
        text = (watched.folder / folder / name).read_text()
        assert NAME not in text
        assert text.count("\n") >= 3 or folder == "shards"


def test_ray_writes_no_name_into_its_own_logs(watched: Watched) -> None:
    files = [path for path in watched.logs.rglob("*") if path.is_file()]
    assert len(files) > 5
    leaks = {
        path.name: line for path in files for line in path.read_text(errors="replace").splitlines() if NAME in line
    }
    assert not leaks, leaks


def test_results_have_the_names(watched: Watched) -> None:
    failures = (watched.folder / "shards" / "failures.csv").read_text()
    cases = (watched.folder / "out" / "cases.csv").read_text()
    assert NAME in failures
    assert NAME in cases
    assert list((watched.folder / "out" / "masks").glob(f"{NAME}_Hans_*.nii.gz"))


def test_a_line_of_json_has_run_stage_level_host_and_case(watched: Watched) -> None:
    found = {}
    for folder in ("shards", "run", "run-2", "out"):
        for line in (watched.folder / folder / JSON_LOG).read_text().splitlines():
            record = json.loads(line)
            assert {"time", "level", "run", "stage", "host", "pid", "message"} <= set(record)
            found.setdefault((folder, record["stage"]), []).append(record)
    assert set(found) == {
        ("shards", "ingest"),
        ("run", "train"),
        ("run-2", "train"),
        ("out", "predict"),
        ("out", "evaluate"),
    }
    for records in found.values():
        assert len({record["run"] for record in records}) == 1
    (broken,) = [record for record in found["shards", "ingest"] if record["level"] == "warning"]
    assert re.fullmatch(r"case-[0-9a-f]{16}", broken["case"])
    assert any(record["level"] == "error" for record in found["run-2", "train"])


def test_the_holder_of_the_key_maps_back(watched: Watched) -> None:
    (broken,) = re.findall(r"^  (case-[0-9a-f]{16}): ", watched.said("predict"), re.MULTILINE)
    with (watched.folder / "out" / "cases.csv").open() as stream:
        (name,) = [row["case_id"] for row in csv.DictReader(stream) if row["status"] == "failed"]
    done = CliRunner().invoke(app, ["pseudonyms", str(watched.folder / "out")])
    assert f"{broken},case,{name}\n" in done.output
    assert privacy.hide_case(name) == name, "nothing is hidden in this process"
    for folder in ("shards", "run", "out"):
        assert (watched.folder / folder / OWN_KEY).stat().st_mode & 0o077 == 0


def value(page: str, name: str, **labels: str) -> float:
    """The sum over the series of a metric that have some labels."""
    found = [line for line in page.splitlines() if line.startswith(f"{name}{{")]
    mine = [line for line in found if all(f'{key}="{told}"' in line for key, told in labels.items())]
    assert mine, f"{name} {labels} is not there"
    return sum(float(line.rpartition(" ")[2]) for line in mine)


def test_prometheus_is_told_the_right_counts(watched: Watched) -> None:
    page = watched.metrics
    assert value(page, "ray_segray_cases_done_total", stage="ingest") == 4
    assert value(page, "ray_segray_cases_failed_total", stage="ingest") == 1
    assert value(page, "ray_segray_cases_done_total", stage="predict") == 4
    assert value(page, "ray_segray_cases_failed_total", stage="predict") == 1
    index = json.loads((watched.folder / "shards" / "manifest.json").read_text())
    slices = sum(part["slices"] for part in index["parts"])
    assert value(page, "ray_segray_slices_total", stage="ingest") == slices
    assert value(page, "ray_segray_slices_total", stage="predict") == slices
    assert value(page, "ray_segray_case_seconds_count", stage="predict") == 4
    for part in ("step", "wait", "validate"):
        assert value(page, "ray_segray_part_seconds_total", stage="train", part=part) > 0
    for part in ("read", "forward", "write"):
        assert value(page, "ray_segray_part_seconds_total", stage="predict", part=part) > 0


def test_every_name_on_the_page_is_one_that_the_code_knows_and_none_is_of_a_case(watched: Watched) -> None:
    found = {line.partition("{")[0] for line in watched.metrics.splitlines() if line.startswith("ray_segray_")}
    assert found <= prometheus_names()
    assert len(found) > 6
    assert NAME not in watched.metrics
    assert "case-" not in watched.metrics
