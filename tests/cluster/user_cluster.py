"""cluster.yaml on hosts of this machine, as its users bring it up, and segray's commands from outside the cluster.

The hosts are network namespaces, made by netcluster.sh. Everything else is what docs/cluster.md tells: cluster.yaml
with its lines to edit filled in, a token, `ray up`, a tunnel to the head's loopback, `segray submit`, `ray down`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.hosts import HERE, ROOT, VENV
from tests.cluster_files.filled_in import filled_in

SETTINGS = {
    "SEGRAY_SHARED": "/mnt",
    "SEGRAY_PACKAGE": "none",
    "SEGRAY_VENV": str(VENV),
    "SEGRAY_CPUS": "1",
    "SEGRAY_GPUS": "0",
    "SEGRAY_OBJECT_STORE_MIB": "200",
    "SEGRAY_MEMORY_MIB": "4000",
}
"""What these hosts need in ``~/segray/node.env``: they share a virtual environment, and each believes that it owns the
machine."""

OVER = ("SUCCEEDED", "FAILED", "STOPPED")


class NotDoneError(Exception):
    """What was waited for did not come in time, or a command ended badly."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, what it said, seconds."""

    code: int
    told: str
    seconds: float


class UserCluster:
    """A head, workers, and spare hosts that cluster.yaml does not name.

    Args:
        workers: hosts of cluster.yaml beside the head.
        spares: further hosts.
        name: prefix of all that is made; another one lives beside it.
        net: the first three numbers of the network.
        settings: of ``~/segray/node.env``, in place of or beside :data:`SETTINGS`.
    """

    def __init__(
        self,
        workers: int = 3,
        spares: int = 0,
        *,
        name: str = "segu",
        net: str = "10.80.0",
        settings: dict[str, str] | None = None,
    ) -> None:
        self.name, self.net = name, net
        self.workers, self.spares = workers, spares
        self.state = Path(f"/tmp/netcluster-{name}")
        self.shared = self.state / "shared"
        self.file = self.state / "my-cluster.yaml"
        self._settings = SETTINGS | (settings or {})
        self._tunnel: subprocess.Popen[bytes] | None = None
        self._port = _free_port()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        self.environment = kept | {
            "HOME": str(self.state),
            "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PYTHONPATH": str(ROOT),
            "NC_NAME": name,
            "NC_NET": net,
            "NC_STATE": str(self.state),
            "NC_VENV": str(VENV),
            "NC_BIND": str(ROOT),
            "NC_ENV": f"PYTHONPATH={ROOT}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_API_SERVER_ADDRESS": f"http://localhost:{self._port}",
        }

    def make_hosts(self) -> None:
        """Hosts with a token and cluster.yaml, without Ray."""
        self.control("up", str(1 + self.workers + self.spares))
        token = self.state / ".ray" / "auth_token"
        token.parent.mkdir()
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        token.chmod(0o600)
        text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
        text = re.sub(r"^cluster_name: .*$", f"cluster_name: {self.name}", text, flags=re.MULTILINE)
        addresses = [f"{self.net}.{10 + number}" for number in range(1 + self.workers)]
        key = str(self.state / "key")
        self.file.write_text(
            filled_in(text, addresses, user="root", key=key, settings=self._settings), encoding="utf-8"
        )

    def ray_up(self) -> None:
        """`ray up`, the tunnel, and the wait until all hosts have joined."""
        # Not the cache of an earlier cluster of this name, which knew another key.
        self.run("ray", "up", "--yes", "--no-config-cache", str(self.file), timeout=600)
        self.open_tunnel()
        self.wait_for(lambda: self.alive() == 1 + self.workers, "all hosts join", 600)

    def ray_down(self) -> None:
        """`ray down`, and the end of the tunnel."""
        self.run("ray", "down", "--yes", str(self.file), timeout=200)
        self.close_tunnel()

    def clear_away(self) -> None:
        """The hosts and all that they hold go."""
        self.close_tunnel()
        self.control("down")

    def open_tunnel(self) -> None:
        """What `ray dashboard` does, without its shell on the head."""
        self.close_tunnel()
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ExitOnForwardFailure=yes")
        words = [word for option in options for word in ("-o", option)]
        forward = f"{self._port}:localhost:8265"
        command = ["ssh", "-q", "-N", "-i", str(self.state / "key"), *words, "-L", forward, f"root@{self.net}.10"]
        self._tunnel = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL)
        self.wait_for(lambda: self.alive() > 0, "the head answers", 90)

    def close_tunnel(self) -> None:
        """End it."""
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.terminate()
            tunnel.wait(20)

    def control(self, *words: str, timeout: float = 180) -> str:
        """Run netcluster.sh."""
        return self.run(str(HERE / "netcluster.sh"), *words, timeout=timeout).told

    def ssh(self, number: int, command: str, *, timeout: float = 60, check: bool = True) -> str:
        """Run a command on a host."""
        words = (str(HERE / "netcluster.sh"), "ssh", str(number), command)
        return self.run(*words, timeout=timeout, check=check).told

    def run(self, *words: str, timeout: float = 240, check: bool = True, cwd: Path = ROOT) -> Ended:
        """Run a command outside the cluster, from the top folder as docs/cluster.md says."""
        began = time.monotonic()
        done = subprocess.run(
            words,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=cwd,
            check=False,
        )
        ended = Ended(done.returncode, done.stdout + done.stderr, time.monotonic() - began)
        if check and ended.code:
            raise NotDoneError(f"{' '.join(words)}: exit code {ended.code}\n{ended.told[-3000:]}")
        return ended

    def follow(self, *words: str, timeout: float = 400, check: bool = True) -> Ended:
        """``segray submit ... --follow``: exit code and log of the job."""
        return self.run("segray", "submit", *words, "--follow", timeout=timeout, check=check)

    def submit(self, *words: str) -> str:
        """``segray submit ...``; the name of the job."""
        told = self.run("segray", "submit", *words).told
        found = re.search(r"segray-\w+-\d{8}-\d{6}-\w{4}", told)
        if found is None:
            raise NotDoneError(f"no job in {told}")
        return found[0]

    def ended(self, job: str, timeout: float = 600) -> Ended:
        """Wait for the end of a job; its exit code, its log, and its seconds by the head's clock."""
        self.wait_for(lambda: self.is_over(job), f"{job} ends", timeout)
        facts = self.ask(f"jobs/{job}")
        code = facts.get("driver_exit_code")
        if code is None:
            code = 0 if facts["status"] == "SUCCEEDED" else 1
        log = str(self.ask(f"jobs/{job}/logs")["logs"])
        return Ended(int(code), log, (facts["end_time"] - facts["start_time"]) / 1000)

    def is_over(self, job: str) -> bool:
        """Whether the head says so."""
        return bool(self.ask(f"jobs/{job}")["status"] in OVER)

    def ask(self, path: str) -> Any:
        """An answer of the head's job and state API, with the token."""
        token = (self.state / ".ray" / "auth_token").read_text(encoding="utf-8")
        asked = urllib.request.Request(
            f"http://localhost:{self._port}/api/{path}", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return json.load(answer)

    def alive(self) -> int:
        """How many hosts the head counts as living; 0 where it does not answer."""
        try:
            nodes = self.ask("v0/nodes?detail=False&limit=100")["data"]["result"]["result"]
        except (OSError, ValueError):
            return 0
        return sum(node["state"] == "ALIVE" for node in nodes)

    def wait_for(self, done: Callable[[], bool], what: str, timeout: float) -> float:
        """Poll until ``done`` is true; seconds that it took. Raises NotDoneError after ``timeout`` seconds."""
        began = time.monotonic()
        while time.monotonic() - began < timeout:
            try:
                if done():
                    return time.monotonic() - began
            except urllib.error.URLError:
                # The head is busy, or a new one is on its way.
                pass
            time.sleep(0.5)
        raise NotDoneError(f"{what}: not after {timeout:.0f} s")

    def processes(self, number: int) -> list[str]:
        """Command lines of the processes of a host, but for its sshd and what looks."""
        lines = self.control("pids", str(number)).splitlines()
        return [line for line in lines if line.strip() and "sshd" not in line]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
