"""Jobs on a real head with a token, on this machine: submitted, followed, left, stopped, and their logs."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from segray.errors import SegrayError, UsageError
from segray.pipelines.head import Head
from segray.pipelines.job_package import pack
from segray.pipelines.jobs import exit_code, follow, stop, submit
from segray.pipelines.run_logs import gather_logs

pytestmark = [pytest.mark.ray]

TOKEN = "0123456789abcdef" * 4

HEAD = """
import sys
from ray.cluster_utils import Cluster

dashboard, agent = map(int, sys.argv[1:])
ports = dict(dashboard_port=dashboard, dashboard_agent_listen_port=agent)
server = dict(include_dashboard=True, dashboard_host="127.0.0.1", **ports)
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=2, **server))
print("up", flush=True)
input()
cluster.shutdown()
"""

COMMANDS = """
import sys, typer
from segray.cli_jobs import add_commands

app = typer.Typer()
add_commands(app)
app(sys.argv[1:])
"""

ON_A_WORKER = """
import ray

ray.init(log_to_driver=False)

@ray.remote
def told():
    print("from a worker")

ray.get(told.remote())
print("from the command")
"""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def environment(**changed: str) -> dict[str, str]:
    """What the head and its clients see; ``segray`` and ``python`` are those of this process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0", **changed}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A head that asks for :data:`TOKEN`."""
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-c", HEAD, str(port), str(free_port())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN),
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "up"
        yield f"http://127.0.0.1:{port}"
        server.stdin.write("end\n")
        server.stdin.close()


@pytest.fixture
def head(address: str, monkeypatch: pytest.MonkeyPatch) -> Head:
    """The head, as a client with the token sees it; RAY_AUTH_MODE is not set, as in a user's shell."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    return Head(address)


def test_without_the_token_or_with_another_one_nothing_is_told(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(SegrayError, match="asks for a token"):
        Head(address)
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    with pytest.raises(SegrayError, match="refuses the token"):
        Head(address)


def test_an_unknown_job_is_told(head: Head) -> None:
    for ask in (head.job, head.stop):
        with pytest.raises(UsageError, match="knows no job nothing"):
            ask("nothing")


def test_a_job_ends_with_the_exit_code_of_its_command(head: Head, tmp_path: Path) -> None:
    """segray itself, with a config that goes along: it fails as it would here."""
    (tmp_path / "my.yaml").write_text("seed: 3\n")
    words = ["predict", "/none", "/none", str(tmp_path / "out"), "--config", str(tmp_path / "my.yaml")]
    names = {"bundle": "/none", "source": "/none", "destination": str(tmp_path / "out"), "config": words[-1]}
    package = pack(words, names)
    assert package.words[-1] == "packed/0/my.yaml"
    name = submit(head, package)
    text: list[str] = []
    job = follow(head, name, text.append, lambda _: None)
    assert (job.status, exit_code(job)) == ("FAILED", 2)
    assert "segray: /none holds no bundle." in "".join(text)
    assert job.metadata is not None
    assert job.metadata["folder"] == str(tmp_path / "out")
    assert [one.name for one in head.jobs()].count(name) == 1


def test_a_job_survives_the_loss_of_its_client(head: Head, tmp_path: Path) -> None:
    wait = f"while [ ! -e {shlex.quote(str(tmp_path / 'on'))} ]; do sleep 0.1; done"
    script = f"for n in 1 2 3; do echo line $n; sleep 1; done; {wait}; for n in 4 5; do echo line $n; done"
    head.submit("slow", f"sh -c {shlex.quote(script)}", None, {})
    client = subprocess.Popen(
        [sys.executable, "-c", COMMANDS, "status", "slow", "--follow", "--address", head.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(RAY_AUTH_TOKEN=TOKEN),
    )
    assert client.stdout is not None
    assert any("line 1" in line for line in client.stdout)
    client.send_signal(signal.SIGINT)
    _, told = client.communicate(timeout=60)
    assert client.returncode == 130, told
    assert f"segray status slow --address {head.address} --follow" in told
    assert not head.job("slow").is_over
    (tmp_path / "on").touch()
    text: list[str] = []
    job = follow(head, "slow", text.append, lambda _: None)
    assert exit_code(job) == 0
    lines = [line for line in "".join(text).splitlines() if line.startswith("line")]
    assert lines == [f"line {number}" for number in range(1, 6)]


def test_a_stopped_job_says_so(head: Head) -> None:
    head.submit("endless", "sleep 600", None, {})
    while head.job("endless").status == "PENDING":
        time.sleep(0.2)
    ended = stop(head, "endless")
    assert (ended.status, exit_code(ended)) == ("STOPPED", 143)
    assert stop(head, "endless").status == "STOPPED"


def test_logs_come_from_the_command_and_its_workers(head: Head, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "told.py").write_text(ON_A_WORKER)
    head.submit("talkative", "python told.py", str(tmp_path / "work"), {"folder": "/mnt/run"})
    assert exit_code(follow(head, "talkative", lambda _: None, lambda _: None)) == 0
    gathered = gather_logs("/mnt/run", head)
    lines = [line for log in gathered.logs for line in log.lines]
    assert any("talkative]" in line and line.endswith("from the command") for line in lines)
    assert any(" worker " in line and line.endswith("out] from a worker") for line in lines)
    assert gathered.notes == ["/mnt/run/run.log cannot be seen from here."]
