"""A Ray that cannot be had is told in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import ray

from segray.config import RayConfig
from segray.errors import SegrayError
from segray.pipelines.runtime import ray_session

TIMED_OUT = "The current node timed out during startup. This could happen because the raylet failed.\nAnd more."


@pytest.mark.parametrize("address", ["", "192.0.2.1:6379"])
@pytest.mark.parametrize("error", [Exception(TIMED_OUT), RuntimeError(""), OSError(28, "No space left on device")])
def test_what_ray_raises_at_its_start_is_one_sentence(
    error: Exception, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SegrayError) as caught, ray_session(RayConfig(address=address)):
        pytest.fail("there is no Ray")
    told = (str(error) or "RuntimeError").splitlines()[0].rstrip(".")
    begin = f"No Ray cluster answers at {address}" if address else "Ray does not start on this machine"
    assert caught.value.message == f"{begin} ({told})."
    assert caught.value.mend


KEPT = """
import os
import time

import ray

from segray.config import RayConfig
from segray.pipelines.runtime import ray_session


@ray.remote(num_cpus=1)
class Busy:
    def pid(self):
        return os.getpid()


@ray.remote(num_cpus=0)
def task():
    return os.getpid()


with ray_session(RayConfig(cpus=1, object_store_mib=128)):
    busy = Busy.remote()
    ray.get(busy.pid.remote())
    first = ray.get(task.remote())
    time.sleep(4)
    print(first == ray.get(task.remote()))
"""


@pytest.mark.ray
def test_a_process_waits_for_its_next_task_beside_an_actor_that_takes_all_cpus(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KEPT], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "True"
