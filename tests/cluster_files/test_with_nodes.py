"""cluster/with_nodes.py: everything but the autoscaler, which needs a cloud."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[2] / "cluster" / "with_nodes.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    """The file as a module."""
    spec = importlib.util.spec_from_file_location("with_nodes", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_stands_after_two_dashes(program: ModuleType) -> None:
    told = program.read_arguments(["--gpus", "4", "--", "segray", "train", "c.yaml", "--", "x"])
    assert (told.gpus, told.cpus, told.command) == (4, 0, ["segray", "train", "c.yaml", "--", "x"])


@pytest.mark.parametrize("words", ["--gpus 4", "--gpus 4 --", "-- true", "--gpus 1 --cpus 1 -- true", "--gpus -1 -- x"])
def test_a_wrong_line_is_refused(program: ModuleType, words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        program.read_arguments(words.split())
    assert ended.value.code == 2


def test_the_autoscaler_takes_the_bundles(program: ModuleType) -> None:
    """Ray's own checks pass, and stop where a cluster is needed."""
    from ray.autoscaler.sdk import request_resources

    assert program.bundles_of(2, 0) == [{"GPU": 1, "CPU": 1}] * 2
    assert program.bundles_of(0, 3) == [{"CPU": 1}] * 3
    for bundles in (program.bundles_of(2, 0), []):
        with pytest.raises(RuntimeError, match="not initialized"):
            request_resources(bundles=bundles)


def test_the_autoscaler_hears_the_sum_of_what_all_jobs_want(program: ModuleType) -> None:
    told: list[list[dict[str, int]]] = []
    requests, gpu = program.Requests(told.append), {"GPU": 1, "CPU": 1}
    requests.ask("a", [gpu] * 4, 0.0)
    requests.ask("b", [gpu], 1.0)
    requests.ask("a", [gpu] * 4, 100.0)
    assert [len(one) for one in told] == [4, 5]
    requests.let_go("b", 110.0)
    assert len(told[-1]) == 4, "the end of one job takes nothing from the other"
    requests.ask("c", [gpu], 100.0 + program.FORGOTTEN_S)
    assert len(told[-1]) == 1, "a job that was killed is forgotten"
    requests.let_go("c", 300.0)
    assert told[-1] == []


@pytest.mark.ray
def test_requests_of_a_job_reach_ray_and_are_taken_back(program: ModuleType, embedded_ray: None) -> None:
    import json

    from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    def asked() -> list[dict[str, int]]:
        found: list[dict[str, int]] = json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL))
        return found

    with program.asked_for(program.of_all_jobs(), [{"CPU": 1}] * 3):
        assert asked() == [{"CPU": 1}] * 3
        with program.asked_for(program.of_all_jobs(), [{"CPU": 2}]):
            assert len(asked()) == 4
        assert len(asked()) == 3
    assert asked() == []


def test_waiting_ends_when_the_nodes_are_there_or_the_time_is_over(program: ModuleType) -> None:
    seen = iter([0.0, 1.0, 2.0])
    assert program.wait_for(lambda: next(seen), 2, timeout=5, pause=0.01)
    assert not program.wait_for(lambda: 1.0, 2, timeout=0.05, pause=0.01)


def test_the_exit_code_is_the_commands(program: ModuleType) -> None:
    assert program.run([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert program.run(["bash", "-c", "kill -9 $$"]) == 128 + signal.SIGKILL


def test_a_stopped_job_ends_its_command_and_clears_up(tmp_path: Path) -> None:
    script = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('with_nodes', {str(FILE)!r})\n"
        "program = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(program)\n"
        "with program.ended_by_exception():\n"
        "    try:\n"
        "        program.run(['bash', '-c', 'echo $$ > child; exec sleep 60'])\n"
        "    finally:\n"
        "        open('cleared', 'w').close()\n"
    )
    outer = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    end = time.monotonic() + 60
    while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text().strip():
        assert time.monotonic() < end
        time.sleep(0.05)
    outer.send_signal(signal.SIGTERM)
    assert outer.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "cleared").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "child").read_text()), 0)
