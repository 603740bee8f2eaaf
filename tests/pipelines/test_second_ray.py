"""A command on a machine where another Ray runs already: it embeds its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long]

FIRST = """
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=2, include_dashboard=False))
print(cluster.address, flush=True)
input()
cluster.shutdown()
"""

SECOND = """
import ray
from segray.config import RayConfig
from segray.pipelines.runtime import nodes, ray_session

with ray_session(RayConfig(cpus=1, object_store_mib=128)):
    print(ray.get_runtime_context().gcs_address, sum(node.cpus for node in nodes()))
"""


def test_two_commands_at_once_have_a_ray_each(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", FIRST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    with first:
        assert first.stdin is not None
        assert first.stdout is not None
        address = first.stdout.readline().strip()
        second = subprocess.run(
            [sys.executable, "-c", SECOND], check=False, capture_output=True, text=True, cwd=tmp_path
        )
        first.stdin.write("end")
        first.stdin.close()
    assert second.returncode == 0, second.stderr
    own, cpus = second.stdout.split()
    assert own != address
    assert float(cpus) == 1
